"""`jobledger diff` and `jobledger job diff`, and how changes of specs are printed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import (
    Session,
    VersionName,
    all_namespaces_option,
    all_option,
    connected,
    event_word,
    labels_filter,
    limit_option,
    namespace_filter,
    namespace_option,
    next_token_option,
)
from jobledger.service.cli.output import Output, output_option, to_json
from jobledger.service.cli.text import BOLD, Cell, plain, say, state_cell, styled
from jobledger.service.cli.times import PointText, exact, nanoseconds_of
from jobledger.service.limits import CHANGES_DEFAULT_LIMIT
from jobledger.service.structural_diff import edits, leaves, path_text

if TYPE_CHECKING:
    from jobledger.service.client.client import Client
    from jobledger.service.client.responses import DiffResponse, VersionsDiffResponse
    from jobledger.service.wire.versions import Change, ChangeEvent, JobChanged

_POINT: Final = PointText(revisions=True)
_MAX_WORDS: Final = 3  # a job and two versions
_NOT_IN_SPEC: Final = frozenset({"ID", "State", "Version", "Revision", "CreateTime", "ModifyTime"})
_SHOWN_PATHS: Final = 5


@click.command(
    "diff",
    epilog=examples(
        "jobledger diff --from 2h",
        "jobledger diff --from 2026-01-31 --to 2026-02-01 --namespace prod",
        "jobledger diff --from 1200 --job my-job -o json",
    ),
)
@click.option(
    "--from",
    "first",
    type=_POINT,
    metavar="POINT",
    default="",
    help="Since then: a time, an age such as `2h`, a sequence; with --job also a revision such as `r3`.",
)
@click.option("--to", "second", type=_POINT, metavar="POINT", default="", help="Until then; default: now.")
@namespace_filter
@all_namespaces_option
@click.option(
    "--job", metavar="JOB", default="", help="Only this job: a name, an ID, or the beginning of an ID."
)
@labels_filter
@limit_option(CHANGES_DEFAULT_LIMIT)
@all_option
@next_token_option
@output_option(quiet=True)
@connected
@click.pass_context
def diff_log(
    ctx: click.Context,
    *,
    first: str,
    second: str,
    namespace: str | None,
    all_namespaces: bool,
    job: str,
    labels: tuple[str, ...],
    limit: int,
    everything: bool,
    next_token: str,
    output: Output,
    session: Session,
) -> None:
    """Show which jobs changed between two points, and how.

    Shows for each job the version, revision and state at both points, the changes of its spec, and the events
    in between with actor and reason, in the order in which the jobs were created. Times without a zone are
    local.
    """
    from jobledger.service.cli.job_list import say_more

    if not first and not next_token:
        raise click.UsageError("--from is required: --from 2h, --from 2026-01-31, or --from SEQUENCE", ctx)
    query = {
        "from": first,
        "to": second,
        "namespace": session.namespaces(namespace, everything=all_namespaces),
        "job": job,
        "labels": list(labels),
        "next_token": next_token,
    }
    as_document = output.for_machines and not output.by_line
    token, wires, count = "", [], 0
    page = None
    with session.client() as client:
        for page in client.change_pages(query, limit=None if everything else limit):
            token = page.next_token
            if as_document:
                wires += page.wire["Items"]
                continue
            for item, wire in zip(page.items, page.wire["Items"], strict=True):
                if output.quiet:
                    click.echo(item.job_id)
                elif output.by_line:
                    output.document(wire)
                else:
                    if count:
                        click.echo()
                    _print_job(item)
                count += 1
    if as_document and page is not None:
        output.page(wires, From=page.wire["From"], To=page.wire["To"], NextToken=token)
    elif not count and output.for_people:
        say("Nothing changed.")
    say_more(token)


def _print_job(item: "JobChanged") -> None:
    before, after = item.from_, item.to
    name = plain(f"{item.namespace}/{item.name}")
    job_id = f" ({plain(item.job_id)})" if item.name != item.job_id else ""
    then = f"v{before.version} r{before.revision}" if before is not None else "created"
    states = [before.state.state_type, *item.states] if before is not None else [*item.states]
    passed = [state for at, state in enumerate(states) if not at or states[at - 1] != state]
    way = " → ".join(styled(state_cell(state)) for state in passed)
    click.echo(f"{styled(Cell(name, BOLD))}{job_id}  {then} → v{after.version} r{after.revision}  {way}")
    print_changes((*item.changes, *(_tag_changes(before.tags, after.tags) if before is not None else ())))
    if item.more_changes:
        click.echo(f"… and {item.more_changes} more changes")
    if not item.is_compared:
        click.echo("(the specs are too large to be compared)")
    for event in item.events:
        click.echo(_event_line(event))
    if item.more_events:
        click.echo(f"  … and {item.more_events} more events: jobledger job history {plain(item.job_id)}")


def _tag_changes(before: Mapping[str, int], after: Mapping[str, int]) -> "Iterator[Change]":
    from jobledger.service.wire.versions import Change

    for tag in sorted({*before, *after}):
        old, new = before.get(tag), after.get(tag)
        if old != new:
            yield Change(
                "added" if old is None else "removed" if new is None else "changed",
                f"Tags.{tag}",
                before=old,
                after=new,
            )


def _event_line(event: "ChangeEvent") -> str:
    """`time  what  version and revision  actor  reason`."""
    from jobledger.service.history import tag_words

    word = event_word(event.event_type)
    state = event.state
    what = state_cell(state.state_type) if word == "state" and state is not None else Cell(word, BOLD)
    tag = tag_words(event.tag, event.tag_version or 0) if event.tag else ""
    why = " · ".join(
        dict.fromkeys(text for text in (tag, event.reason, state.message if state else "") if text)
    )
    parts = [
        f"  {exact(nanoseconds_of(event.time))}",
        styled(what) + " " * max(0, 9 - len(what.text)),
        f"v{event.version} r{event.revision}",
        plain(event.actor or "-"),
        plain(why),
    ]
    return "  ".join(parts).rstrip()


class _Words(click.Argument):
    """A file alone, or a job and one or two versions."""

    def make_metavar(self, *_: Any) -> str:
        return "{FILE | JOB FROM [TO]}"


@click.command(
    "diff",
    epilog=examples(
        "jobledger job diff job.yaml",
        "jobledger job diff my-job 3 5",
        "jobledger job diff job.yaml --exit-code",
    ),
)
@click.argument("words", nargs=-1, required=True, cls=_Words)
@namespace_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
@output_option("table", "json", "yaml")
@connected
@click.pass_context
def diff_job(
    ctx: click.Context,
    *,
    words: tuple[str, ...],
    namespace: str | None,
    exit_code: bool,
    output: Output,
    session: Session,
) -> None:
    """Compare a spec with its job, or two versions of a job.

    FILE is a job spec, or - for standard input; if its job does not exist, all fields are new. JOB is a name,
    an ID, or the beginning of an ID; FROM and TO are versions or tags, TO defaults to the latest version.
    Nothing is written. No output means no difference; JSON and YAML include a JSON patch (RFC 6902).
    """
    if len(words) > _MAX_WORDS:
        raise click.UsageError(f"expected FILE, or JOB FROM [TO], got {len(words)} arguments", ctx)
    where = session.namespace(namespace)
    if len(words) == 1:
        differ = _diff_file(ctx, session, output, words[0], where)
    else:
        names = [VersionName().convert(word, None, ctx) for word in words[1:]]
        with session.client() as client:
            differ = _diff_versions(client, output, words[0], names, where)
    ctx.exit(1 if exit_code and differ else 0)


def _diff_file(ctx: click.Context, session: Session, output: Output, file: str, namespace: str) -> bool:
    from jobledger.service.cli.spec_files import load_specs  # imports the YAML reader

    click.Path(allow_dash=True).convert(file, None, ctx)
    if file != "-" and not Path(file).exists():
        raise click.UsageError(
            f"file {file!r} does not exist; to compare versions of a job, use JOB FROM [TO]", ctx
        )
    (spec,) = load_specs(ctx, [file], namespace)
    with session.client() as client:
        found = client.diff(spec)
    if output.for_machines:
        output.document(found.wire)
    else:
        print_submission(found, spec.name)
    return bool(found.changes or not found.version)


def _diff_versions(client: "Client", output: Output, job: str, names: list[str], namespace: str) -> bool:
    found = client.diff_versions(job, *names, namespace=namespace)
    if output.for_machines:
        output.document(found.wire)
    elif found.changes:
        click.echo(click.style(_versions_heading(found, names), bold=True))
        print_changes(found.changes)
    return bool(found.changes)


def _versions_heading(found: "VersionsDiffResponse", names: list[str]) -> str:
    """`version 3 (golden) → version 5`."""
    numbers = (found.from_version, found.to_version)
    shown = [
        f"version {number}" + (f" ({name})" if name and not name.isdecimal() else "")
        for number, name in zip(numbers, [*names, ""], strict=False)
    ]
    return " → ".join(shown)


def changed_paths(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The paths at which two jobs' specs differ: `Tasks[0].Engine.Params.Image, Labels.env`."""
    before, after = (
        {key: value for key, value in job.items() if key not in _NOT_IN_SPEC} for job in (old, new)
    )
    found = [edit for edit in edits(before, after) if edit.moved is None or edit.verb == "add"]
    paths = [path_text(edit.path) for edit in found]
    more = f" and {len(paths) - _SHOWN_PATHS} more" if len(paths) > _SHOWN_PATHS else ""
    return ", ".join(paths[:_SHOWN_PATHS]) + more or "nothing (rerun)"


def print_submission(found: "DiffResponse", name: str, *, forced: bool = False) -> None:
    """Print what submitting a spec would do; prints nothing if nothing would change.

    Args:
        found: the response of the service.
        name: of the job; empty: it has none.
        forced: an equal spec also creates a new version.
    """
    version, is_new = found.version, found.version == 0
    if not (found.changes or is_new or forced):
        return
    verb = "created: version 1" if is_new else f"updated: version {version} → version {version + 1}"
    click.echo(click.style(f"{plain(name) or 'a job without a name'} would be {verb}", bold=True))
    # A job without a name gets its ID as its name; neither is known yet.
    print_changes(each for each in found.changes if name or each.path != "Name")


def print_changes(changes: "Iterable[Change]") -> None:
    """Print changes, one path per line: added in green, removed in red, changed with both values."""
    for each in changes:
        if each.change == "changed":
            values = f"{to_json(each.before, compact=True)} → {to_json(each.after, compact=True)}"
            click.echo(click.style(f"~ {plain(each.path)}: {values}", fg="yellow"))
        elif each.change == "moved":
            click.echo(click.style(f"> {plain(each.path)}: moved from {plain(each.from_)}", fg="cyan"))
        else:
            mark, color, value = (
                ("+", "green", each.after) if each.change == "added" else ("-", "red", each.before)
            )
            for path, leaf in leaves(value):
                place = plain(path_text(path, each.path))
                click.echo(click.style(f"{mark} {place}: {to_json(leaf, compact=True)}", fg=color))
