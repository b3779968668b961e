"""`jobledger diff`: which jobs changed between two points of the log, and how."""

from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.shared import (
    Session,
    WholeNumber,
    all_namespaces_option,
    connected,
    event_word,
    namespace_filter,
)
from jobledger.service.cli.text import BOLD, Cell, plain, say, state_cell, styled
from jobledger.service.cli.times import PointText, exact
from jobledger.service.limits import CHANGES_DEFAULT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jobledger.service.client.answers import ChangeAnswer
    from jobledger.service.client.changes import ChangedJob, EventAnswer

_POINT = PointText(revisions=True)


@click.command(
    epilog=examples(
        "jobledger diff --from 2h",
        "jobledger diff --from 2026-01-31 --to 2026-02-01 --namespace prod",
        "jobledger diff --from 1200 --job my-job -o json",
    )
)
@click.option(
    "--from",
    "first",
    type=_POINT,
    metavar="POINT",
    default="",
    help="Since then: a time, an age as `2h`, a sequence; with --job also a revision as `r3`.",
)
@click.option("--to", "second", type=_POINT, metavar="POINT", default="", help="Up to then; without it, now.")
@namespace_filter
@all_namespaces_option
@click.option("--job", metavar="JOB", default="", help="Only this one: name, id, or the beginning of an id.")
@click.option("-l", "--selector", multiple=True, metavar="TEXT", help="Only jobs with these labels.")
@click.option(
    "--limit", type=WholeNumber(), default=CHANGES_DEFAULT_LIMIT, show_default=True, help="At most so many."
)
@click.option("--all", "everything", is_flag=True, help="All there are.")
@click.option("--next-token", metavar="TOKEN", default="", help="Go on where a list ended.")
@output_option()
@quiet_option
@connected
@click.pass_context
def diff(
    ctx: click.Context,
    *,
    first: str,
    second: str,
    namespace: str | None,
    all_namespaces: bool,
    job: str,
    selector: tuple[str, ...],
    limit: int,
    everything: bool,
    next_token: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Show which jobs changed between two points, and how.

    Of each: version, revision and state at both points, how its spec differs, and what happened in between,
    who did it and why. The order is that of the jobs' creation. Times without a zone are this machine's.
    """
    from jobledger.service.client.changes import change_pages

    if not first and not next_token:
        raise click.UsageError("say since when: --from 2h, --from 2026-01-31, or --from SEQUENCE", ctx)
    query = {
        "from": first,
        "to": second,
        "namespace": session.namespaces(namespace, everything=all_namespaces),
        "job": job,
        "labels": list(selector),
        "next_token": next_token,
    }
    output, token, wires, count = Output(form, quiet=quiet), "", [], 0
    page = None
    with session.client() as client:
        for page in change_pages(client, query, limit=None if everything else limit):
            token = page.next_token
            if output.for_machines and not output.by_line:
                wires += page.wire["Items"]
                continue
            for item, wire in zip(page.items, page.wire["Items"], strict=True):
                _print(item, wire, output, is_first=not count)
                count += 1
    if output.for_machines and not output.by_line and page is not None:
        output.page(wires, From=page.wire["From"], To=page.wire["To"], NextToken=token)
    elif not count and not output.for_machines and not quiet:
        say("Nothing changed.")
    if token:
        say(f"There are more: --all for all of them, --next-token {token} to go on.")


def _print(item: "ChangedJob", wire: dict[str, Any], output: Output, *, is_first: bool) -> None:
    if output.quiet:
        click.echo(item.job_id)
    elif output.by_line:
        output.document(wire)
    else:
        if not is_first:
            click.echo()
        _print_job(item)


def _print_job(item: "ChangedJob") -> None:
    """A head line, what differs in the spec, and the events in between."""
    from jobledger.service.cli.changes import print_changes

    before, after = item.before, item.after
    name = plain(f"{item.namespace}/{item.name}")
    told = f" ({plain(item.job_id)})" if item.name != item.job_id else ""
    then = f"v{before.version} r{before.revision}" if before is not None else "created"
    states = [before.state.state_type, *item.states] if before is not None else [*item.states]
    passed = [state for at, state in enumerate(states) if not at or states[at - 1] != state]
    way = " → ".join(styled(state_cell(state)) for state in passed)
    click.echo(f"{styled(Cell(name, BOLD))}{told}  {then} → v{after.version} r{after.revision}  {way}")
    print_changes((*item.changes, *(_tag_changes(before.tags, after.tags) if before is not None else ())))
    if item.more_changes:
        click.echo(f"… and {item.more_changes} more places")
    if not item.is_compared:
        click.echo("(its specs are too large to be compared)")
    for event in item.events:
        click.echo(_event_line(event))
    if item.more_events:
        click.echo(f"  … and {item.more_events} more: jobledger job history {plain(item.job_id)}")


def _tag_changes(before: "Mapping[str, int]", after: "Mapping[str, int]") -> "Iterator[ChangeAnswer]":
    """How a job's tags differ, as places of it."""
    from jobledger.service.client.answers import ChangeAnswer  # the client is imported already

    for tag in sorted({*before, *after}):
        old, new = before.get(tag), after.get(tag)
        if old != new:
            verb = "added" if old is None else "removed" if new is None else "changed"
            yield ChangeAnswer(verb, f"Tags.{tag}", old, new)


def _event_line(event: "EventAnswer") -> str:
    """`when  what  version and revision  who  why`."""
    from jobledger.service.client.errors import nanoseconds_of  # the client is imported already
    from jobledger.service.history import tag_words

    word = event_word(event.event_type)
    what = state_cell(event.state.state_type) if word == "state" else Cell(word, BOLD)
    tag = tag_words(event.tag, event.tag_version) if event.tag else ""
    why = " · ".join(dict.fromkeys(text for text in (tag, event.reason, event.state.message) if text))
    parts = [
        f"  {exact(nanoseconds_of(event.time))}",
        styled(what) + " " * max(0, 9 - len(what.text)),
        f"v{event.version} r{event.revision}",
        plain(event.actor or "-"),
        plain(why),
    ]
    return "  ".join(parts).rstrip()
