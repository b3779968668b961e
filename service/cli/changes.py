"""What differs between two specs, for people: as paths, and as lines with the values."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.service.cli.text import plain
from jobledger.service.structural_diff import edits, leaves, path_text

if TYPE_CHECKING:
    from jobledger.service.client.answers import ChangeAnswer, DiffAnswer

_NOT_OF_THE_SPEC: Final = frozenset({"ID", "State", "Version", "Revision", "CreateTime", "ModifyTime"})
_SHOWN_PATHS: Final = 5


def changed_paths(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where two jobs' specs differ: `Tasks[0].Engine.Params.Image, Labels.env`."""
    before, after = (
        {key: value for key, value in job.items() if key not in _NOT_OF_THE_SPEC} for job in (old, new)
    )
    found = [edit for edit in edits(before, after) if edit.moved is None or edit.verb == "add"]
    paths = [path_text(edit.path) for edit in found]
    more = f" and {len(paths) - _SHOWN_PATHS} more" if len(paths) > _SHOWN_PATHS else ""
    return ", ".join(paths[:_SHOWN_PATHS]) + more or "nothing: begun again"


def print_submission(answer: "DiffAnswer", name: str, *, forced: bool = False) -> None:
    """What submitting a spec would do: a head line, then the changes; nothing if nothing would change.

    Args:
        answer: of the service.
        name: of the job; empty: it has none.
        forced: an equal spec makes a new version, too.
    """
    shown = plain(name) or "a job without a name"
    version, is_new = answer.version, answer.version == 0
    if not (answer.changes or is_new or forced):
        return
    verb = "created: version 1" if is_new else f"updated: version {version} → version {version + 1}"
    click.echo(click.style(f"{shown} would be {verb}", bold=True))
    # A job without a name gets its id as its name, and both are not known yet.
    print_changes(each for each in answer.changes if name or each.path != "Name")


def print_changes(changes: "Iterable[ChangeAnswer]") -> None:
    """Place by place: what came in green, what went in red, what changed with both of its values."""
    for each in changes:
        if each.change == "changed":
            values = f"{_value(each.before)} → {_value(each.after)}"
            click.echo(click.style(f"~ {plain(each.path)}: {values}", fg="yellow"))
        elif each.change == "moved":
            click.echo(click.style(f"> {plain(each.path)}: moved from {plain(each.from_)}", fg="cyan"))
        else:
            mark, colour, value = (
                ("+", "green", each.after) if each.change == "added" else ("-", "red", each.before)
            )
            for path, leaf in leaves(value):
                place = plain(path_text(path, each.path))
                click.echo(click.style(f"{mark} {place}: {_value(leaf)}", fg=colour))


def _value(value: Any) -> str:
    """A value as JSON writes it, on one line, whole."""
    from jobledger.service.cli.output import to_json

    return to_json(value, compact=True)
