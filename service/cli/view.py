"""`jobledger view quarantine | damage | heal`: what of the log a service could not read."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.shared import Session, connected
from jobledger.service.cli.text import Column, print_table, say

_QUARANTINED = Shape(id="JobID", name="Name", columns=("JobID", "Namespace", "Name", "Sequence", "Reason"))
_MISSING = Shape(id="Range", name="Range", columns=("First", "Last", "Events"))


@click.group(epilog=examples("jobledger view quarantine", "jobledger view heal"))
def view() -> None:
    """Look at what of the log could not be read."""


@view.command(epilog=examples("jobledger view quarantine", "jobledger view quarantine -o json"))
@list_output_option
@quiet_option
@connected
def quarantine(*, form: str, quiet: bool, session: Session) -> None:
    """List the jobs in quarantine, with the events that froze them.

    A job is in quarantine if an event of it can't be read: its state stays as it was before, and writes are
    refused. After an upgrade the service folds such jobs again by itself; `job accept-unreadable` lets a job
    go on without the event. Needs a token for all namespaces.
    """
    from jobledger.service.client.view import ViewCalls

    output = Output(form, quiet=quiet)
    with session.client() as client:
        jobs = list(ViewCalls(client).quarantined())
    first: list[Mapping[str, Any]] = [next(iter(job.get("Unread") or ()), {}) for job in jobs]
    print_list(
        output,
        [{**job, **unread} for job, unread in zip(jobs, first, strict=True)],
        _QUARANTINED,
        lambda whole: _print(jobs, whole),
        empty="No job is in quarantine.",
        documents=jobs,
    )


def _print(jobs: Sequence[Mapping[str, Any]], whole: bool) -> None:
    rows = [_row(job, each) for job in jobs for each in job.get("Unread") or ()]
    columns = [
        Column("Job"),
        Column("Namespace", flexible=True, leaves=2),
        Column("Name", flexible=True, leaves=1),
        Column("Event", right=True),
        Column("Why", flexible=True),
    ]
    print_table(columns, rows, whole=whole)


def _row(job: Mapping[str, Any], each: Mapping[str, Any]) -> tuple[str, ...]:
    name = str(job.get("Name") or "-")
    return (
        str(job.get("JobID")),
        str(job.get("Namespace")),
        name,
        str(each.get("Sequence")),
        str(each.get("Reason")),
    )


@view.command(epilog=examples("jobledger view damage"))
@list_output_option
@quiet_option
@connected
def damage(*, form: str, quiet: bool, session: Session) -> None:
    """List the events that are missing from the log, and the jobs that miss one.

    These are the ranges of sequences that the log no longer held when the service's view read on. What was
    before the first of them stays provable; the log can't be sealed beyond it. Restore the stream from a
    replica or a backup, then run `jobledger view heal`. Needs a token for all namespaces.
    """
    from jobledger.service.client.view import ViewCalls

    output = Output(form, quiet=quiet)
    with session.client() as client:
        pages = list(ViewCalls(client).damage())
    items = [item for page in pages for item in page["Items"]]
    last = pages[-1]
    print_list(
        output,
        [{**item, "Range": f"{item.get('First')}-{item.get('Last')}"} for item in items],
        _MISSING,
        lambda whole: _print_missing(items, last, whole),
        empty="The view met no missing event. What the log lost after the view had read it is in"
        " `/readyz?verbose` (damage) and in the output of `jobledger audit verify`.",
        documents=items,
        Events=last.get("Events"),
        ProvableUpTo=last.get("ProvableUpTo"),
    )


def _print_missing(items: Sequence[Mapping[str, Any]], last: Mapping[str, Any], whole: bool) -> None:
    columns = [
        Column("First", right=True),
        Column("Last", right=True),
        Column("Events", right=True),
        Column("Jobs that miss one", flexible=True),
    ]
    rows = [
        (
            str(item.get("First")),
            str(item.get("Last")),
            str(item.get("Events")),
            ", ".join(str(job.get("Name") or job.get("JobID")) for job in item.get("Jobs") or ()) or "-",
        )
        for item in items
    ]
    print_table(columns, rows, whole=whole)
    say(f"{last.get('Events')} events are missing; provable up to event {last.get('ProvableUpTo')}")


@view.command(epilog=examples("jobledger view heal"))
@output_option("table", "json", "yaml")
@connected
def heal(*, form: str, session: Session) -> None:
    """Fold the jobs in quarantine again, from their own events in the log.

    After a repair of the log, say; everything else goes on meanwhile. A service that reads other types of
    events than the one before it does this by itself when it starts. Needs an admin's token.
    """
    from jobledger.service.client.view import ViewCalls

    output = Output(form)
    with session.client() as client:
        healed = ViewCalls(client).heal()
    if output.for_machines:
        output.document(healed)
        return
    say(
        f"{healed.get('Jobs')} jobs were folded again: {healed.get('Changed')} changed,"
        f" {healed.get('Quarantined')} still are in quarantine"
    )
