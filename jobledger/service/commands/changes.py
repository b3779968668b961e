"""What differs between two specs, as paths, and a text diff in its colours."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from jobledger.service.commands.text import plain

_NOT_OF_THE_SPEC: Final = frozenset({"ID", "State", "Version", "Revision", "CreateTime", "ModifyTime"})
_SHOWN_PATHS: Final = 5


def changed_paths(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where two jobs' specs differ: `Tasks[0].Engine.Params.Image, Labels.env`."""
    paths = list(
        _differing(
            {key: value for key, value in old.items() if key not in _NOT_OF_THE_SPEC},
            {key: value for key, value in new.items() if key not in _NOT_OF_THE_SPEC},
            "",
        )
    )
    more = f" and {len(paths) - _SHOWN_PATHS} more" if len(paths) > _SHOWN_PATHS else ""
    return ", ".join(paths[:_SHOWN_PATHS]) + more or "nothing: begun again"


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differing(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differing(one, other, f"{path}[{at}]")
    elif type(old) is not type(new) or old != new:
        yield path


def print_diff(diff: str) -> None:
    """A unified diff, with what comes in green and what goes in red."""
    for line in diff.splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(click.style(plain(line), fg=colour) if colour else plain(line))
