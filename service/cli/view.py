"""`jobledger view`: the parts of the log that the view could not read, and their repair."""

from collections.abc import Mapping
from typing import Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.options import Session, connected
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import Column, Row, say

_QUARANTINED: Final = Shape(
    id="JobID", name="Name", columns=("JobID", "Namespace", "Name", "Sequence", "Reason")
)
_MISSING: Final = Shape(id="Range", name="Range", columns=("First", "Last", "Events"))


@click.group(epilog=examples("jobledger view quarantine", "jobledger view heal"))
def view() -> None:
    """Show the parts of the log that the view could not read."""


@view.command(epilog=examples("jobledger view quarantine", "jobledger view quarantine -o json"))
@list_output_option()
@connected
def quarantine(*, output: Output, session: Session) -> None:
    """List the jobs in quarantine, with the events that froze them.

    A job is in quarantine if an event of it cannot be read: its state stays as it was before, and writes are
    rejected. After an upgrade the service folds such jobs again; `job accept-unreadable` releases a job
    without the event. Requires a token for all namespaces.
    """
    with session.admin() as admin:
        jobs = list(admin.quarantined())
    first: list[Mapping[str, Any]] = [next(iter(job.get("Unread") or ()), {}) for job in jobs]
    print_list(
        output,
        [{**job, **unread} for job, unread in zip(jobs, first, strict=True)],
        _QUARANTINED,
        (
            Column("Job"),
            Column("Namespace", flexible=True, leaves=2),
            Column("Name", flexible=True, leaves=1),
            Column("Event", right=True),
            Column("Why", flexible=True),
        ),
        lambda: [_quarantine_row(job, each) for job in jobs for each in job.get("Unread") or ()],
        empty="No job is in quarantine.",
        documents=jobs,
    )


def _quarantine_row(job: Mapping[str, Any], unread: Mapping[str, Any]) -> Row:
    return (
        str(job.get("JobID")),
        str(job.get("Namespace")),
        str(job.get("Name") or "-"),
        str(unread.get("Sequence")),
        str(unread.get("Reason")),
    )


@view.command(epilog=examples("jobledger view damage"))
@list_output_option()
@connected
def damage(*, output: Output, session: Session) -> None:
    """List the events that are missing from the log.

    Shows which jobs lack an event, and the ranges of sequences that the log no longer contained when the view
    read it. Events before the first range can be proven; the log cannot be sealed beyond it. Restore the
    stream from a replica or a backup, then run `jobledger view heal`. Requires a token for all namespaces.
    """
    with session.admin() as admin:
        pages = list(admin.damage())
    items = [item for page in pages for item in page["Items"]]
    last = pages[-1]
    print_list(
        output,
        [{**item, "Range": f"{item.get('First')}-{item.get('Last')}"} for item in items],
        _MISSING,
        (
            Column("First", right=True),
            Column("Last", right=True),
            Column("Events", right=True),
            Column("Jobs that miss one", flexible=True),
        ),
        lambda: map(_damage_row, items),
        empty="The view found no missing event. `/readyz?verbose` (damage) and `jobledger audit verify` show"
        " what the log lost after the view had read it.",
        documents=items,
        Events=last.get("Events"),
        ProvableUpTo=last.get("ProvableUpTo"),
    )
    if items and output.for_people:
        say(f"{last.get('Events')} events are missing; provable up to event {last.get('ProvableUpTo')}")


def _damage_row(item: Mapping[str, Any]) -> Row:
    jobs = ", ".join(str(job.get("Name") or job.get("JobID")) for job in item.get("Jobs") or ())
    return str(item.get("First")), str(item.get("Last")), str(item.get("Events")), jobs or "-"


@view.command(epilog=examples("jobledger view heal"))
@output_option("table", "json", "yaml")
@connected
def heal(*, output: Output, session: Session) -> None:
    """Fold the jobs in quarantine again.

    Reads their events from the log. Use it after a repair of the log; the service stays available. A service
    that can read other event types than its predecessor does this when it starts. Requires an admin token.
    """
    with session.admin() as admin:
        healed = admin.heal()
    if output.for_machines:
        output.document(healed)
        return
    say(
        f"{healed.get('Jobs')} jobs were folded again: {healed.get('Changed')} changed,"
        f" {healed.get('Quarantined')} are still in quarantine"
    )
