"""`jobledger subscriptions`: list, create, repair and delete durable subscriptions."""

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import (
    UNKNOWN,
    Shape,
    list_output_option,
    print_fields,
    print_list,
    text_field,
)
from jobledger.service.cli.options import (
    Session,
    WholeNumber,
    complete_jobs,
    confirm,
    connected,
    event_state_filter,
    event_type_filter,
    event_word,
    job_argument,
    labels_filter,
    limit_option,
    name_argument,
    namespace_filter,
    namespace_option,
    yes_option,
)
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import Cell, Column, Row, print_table, say
from jobledger.service.cli.times import age, exact_of, nanoseconds_of
from jobledger.service.limits import PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_STATE_STYLES: Final = {"live": "green", "catching_up": "cyan", "unattended": "yellow", "parked": "red"}
_LABEL_WIDTH: Final = 11
_LISTED: Final = Shape(
    id="Name",
    name="Name",
    columns=("Name", "State", "Gap", "LagSeconds", "Retrying", "Parked", "Form", "Created"),
)
_PARKED: Final = Shape(
    id="JobID",
    name="Name",
    columns=("JobID", "Name", "Namespace", "State", "Sequence", "Attempts", "Since", "Error"),
)


@click.group(
    epilog=examples(
        "jobledger subscriptions list",
        "jobledger subscriptions parked billing",
        "jobledger subscriptions retry billing --all",
    )
)
def subscriptions() -> None:
    """Manage durable subscriptions.

    If an event of a job cannot be handled, it is retried, and then the job is parked until `retry` or `skip`.
    The events of other jobs are delivered meanwhile. Changes require an admin token.
    """


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions create billing --type state --state Completed",
        "jobledger subscriptions create mirror --elastic --start now",
    )
)
@name_argument
@event_type_filter
@event_state_filter
@namespace_filter
@click.option("--job", default="", metavar="ID", help="Only events of the job with this ID.")
@labels_filter
@click.option(
    "--start",
    default="beginning",
    show_default=True,
    metavar="POINT",
    help="Start at the `beginning`, `now`, or after a cursor, a sequence, or a time.",
)
@click.option("--members", type=WholeNumber(), help="Share it among this many processes.")
@click.option("--elastic", is_flag=True, help="Share it among processes that join and leave.")
@click.option("--partitions", type=WholeNumber(), help="Partitions of an elastic group.  [default: 32]")
@click.option("--plain", is_flag=True, help="For a JetStream client without this library.")
@output_option("table", "json", "yaml")
@connected
def create(
    *,
    name: str,
    types: tuple[str, ...],
    states: tuple[str, ...],
    namespace: str | None,
    job: str,
    labels: tuple[str, ...],
    start: str,
    members: int | None,
    elastic: bool,
    partitions: int | None,
    plain: bool,
    output: Output,
    session: Session,
) -> None:
    """Create a subscription for a program that lacks the permission.

    Creates its definition and its consumers. The program opens it with the same name and options. Repeating
    the command changes nothing. `jobledger nats accounts` prints the permissions that the program needs.
    """
    from jobledger.projections.limits import SUBSCRIPTION_PARTITIONS

    if partitions and not elastic:
        raise click.UsageError("--partitions requires --elastic")
    body = {
        "Name": name,
        "Namespace": namespace or "",
        "Job": job,
        "Types": list(types),
        "States": list(states),
        "Labels": ",".join(labels),
        "Start": start,
        "Members": members or 0,
        "Partitions": (partitions or SUBSCRIPTION_PARTITIONS) if elastic else 0,
        "Plain": plain,
    }
    with session.admin() as admin:
        found = admin.create_subscription(body)
    _print(found, output)


@subscriptions.command(
    "list", epilog=examples("jobledger subscriptions list", "jobledger subscriptions list -o csv")
)
@list_output_option()
@connected
def list_subscriptions(*, output: Output, session: Session) -> None:
    """List the durable subscriptions with their progress."""
    with session.admin() as admin:
        found = admin.subscriptions()
    print_list(
        output,
        found,
        _LISTED,
        (
            Column("Name"),
            Column("State"),
            Column("Gap", right=True),
            Column("Lag", right=True, leaves=1),
            Column("Retrying", right=True, leaves=3),
            Column("Parked", right=True),
            Column("Form", leaves=4),
            Column("Events", flexible=True, leaves=2),
        ),
        lambda: map(_row, found),
        empty="No durable subscriptions.",
    )


@subscriptions.command(epilog=examples("jobledger subscriptions show billing"))
@name_argument
@output_option("table", "json", "yaml")
@connected
def show(*, name: str, output: Output, session: Session) -> None:
    """Show a subscription and its partitions."""
    with session.admin() as admin:
        found = admin.subscription(name)
    _print(found, output)


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions parked billing", "jobledger subscriptions parked billing -o name"
    )
)
@name_argument
@limit_option(PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT)
@list_output_option()
@connected
def parked(*, name: str, limit: int, output: Output, session: Session) -> None:
    """List the jobs whose event could not be handled."""
    with session.admin() as admin:
        page = admin.parked(name, limit)
    found = page.get("Items") or []
    several = len({text_field(each, "Namespace") for each in found}) > 1
    print_list(
        output,
        found,
        _PARKED,
        (
            Column("ID"),
            Column("Name", flexible=True),
            *([Column("Namespace", flexible=True, leaves=3)] if several else []),
            Column("State"),
            Column("Sequence", right=True, leaves=2),
            Column("Tries", right=True),
            Column("For", right=True, leaves=1),
            Column("Error", flexible=True, least=20),
        ),
        lambda: _parked_rows(found, several),
        empty=f"{name} has no retrying or parked jobs.",
        Total=page.get("Total"),
    )
    total = page.get("Total") or 0
    if total > len(found):
        say(f"There are {total} in all: use a larger --limit.")


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions retry billing my-job", "jobledger subscriptions retry billing --all"
    )
)
@name_argument
@click.argument("job", metavar="[JOB]", required=False, default="", shell_complete=complete_jobs)
@namespace_option
@click.option("--all", "everything", is_flag=True, help="All retrying and parked jobs.")
@connected
def retry(*, name: str, job: str, namespace: str | None, everything: bool, session: Session) -> None:
    """Retry the event of a job now, then deliver its later events.

    JOB is a name, an ID, or the beginning of an ID.
    """
    if bool(job) == everything:
        raise click.UsageError("a job is required: use JOB or --all, not both")
    with session.admin() as admin:
        count = admin.retry(name, job, session.namespace(namespace))
    say(f"{name}: retrying {'1 job' if count == 1 else f'{count} jobs'}")


@subscriptions.command(epilog=examples("jobledger subscriptions skip billing my-job"))
@name_argument
@job_argument
@namespace_option
@yes_option
@connected
def skip(*, name: str, job: str, namespace: str | None, yes: bool, session: Session) -> None:
    """Skip the event of a job, then deliver its later events.

    JOB is a name, an ID, or the beginning of an ID.
    """
    confirm(yes, f"Skip the event of {job} that {name} could not handle?")
    with session.admin() as admin:
        admin.skip(name, job, session.namespace(namespace))
    say(f"{job}: event skipped; later events will be delivered")


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions reset billing --after 0",
        "jobledger subscriptions reset billing --after 2026-01-31 --yes",
    )
)
@name_argument
@click.option(
    "--after",
    required=True,
    metavar="POINT",
    help="Restart after a cursor, a sequence (0: all events), or a time.",
)
@yes_option
@connected
def reset(*, name: str, after: str, yes: bool, session: Session) -> None:
    """Restart a subscription after a point.

    Events after the point are delivered again; events up to it are not delivered any more. Retrying and
    parked jobs are released.
    """
    confirm(yes, f"Restart {name} after {after}?")
    with session.admin() as admin:
        found = admin.reset(name, after)
    say(f"{name} restarted: {found.get('Gap')} events to deliver")


@subscriptions.command(epilog=examples("jobledger subscriptions delete billing --yes"))
@name_argument
@yes_option
@connected
def delete(*, name: str, yes: bool, session: Session) -> None:
    """Delete a subscription, its position, and its parked jobs."""
    confirm(yes, f"Delete {name}, its position, and its parked jobs?")
    with session.admin() as admin:
        admin.delete(name)
    say(f"{name} deleted")


def lag_text(found: Mapping[str, Any]) -> str:
    """The age of the oldest event that is not handled yet: `12s`, `5m`."""
    seconds = found.get("LagSeconds")
    return age(0, int(seconds * NANOSECONDS_PER_SECOND)) if isinstance(seconds, int | float) else "-"


def filter_text(wire: Mapping[str, Any]) -> str:
    """The events that a filter selects: `state into Failed in prod with env=prod`, or `all`."""
    types = [event_word(str(each)) for each in wire.get("Types") or ()]
    labels = wire.get("Labels") or ""
    parts = {
        "into": " or ".join(map(str, wire.get("States") or ())),
        "in": wire.get("Namespace"),
        "of": wire.get("Job"),
        "with": labels if isinstance(labels, str) else ",".join(map(str, labels)),
    }
    return " ".join([", ".join(types) or "all", *(f"{word} {text}" for word, text in parts.items() if text)])


def _row(found: Mapping[str, Any]) -> list[str | Cell]:
    state = text_field(found, "State")
    return [
        text_field(found, "Name"),
        Cell(state, _STATE_STYLES.get(state, "")),
        str(found.get("Gap")),
        lag_text(found),
        str(found.get("Retrying")),
        Cell(str(found.get("Parked")), "red" if found.get("Parked") else ""),
        text_field(found, "Form"),
        filter_text(found.get("Filter") or {}),
    ]


def _print(found: Mapping[str, Any], output: Output) -> None:
    if output.for_machines:
        output.document(found)
        return
    name, state, gap, lag, retrying, parked_jobs, form, events = _row(found)
    print_fields(
        [
            ("Name", name),
            ("State", state),
            ("Gap", f"{gap} events, {lag}"),
            ("Retrying", retrying),
            ("Parked", parked_jobs),
            ("Form", form),
            ("Events", events),
            ("Created", exact_of(found.get("Created"))),
        ],
        width=_LABEL_WIDTH,
    )
    click.echo()
    print_table(
        (
            Column("Part"),
            Column("Position", right=True),
            Column("Gap", right=True),
            Column("Held"),
            Column("Waiting", right=True),
        ),
        [
            [
                text_field(each, "Name"),
                text_field(each, "Position"),
                str(each.get("Gap")),
                "yes" if each.get("Held") else Cell("no", "" if each.get("Waiting") else "yellow"),
                str(each.get("Waiting")),
            ]
            for each in found.get("Partitions") or ()
        ],
    )


def _parked_rows(found: list[Mapping[str, Any]], several: bool) -> list[Row]:
    from jobledger.service.cli.job_list import short_ids

    short, now = short_ids([text_field(each, "JobID") for each in found]), time.time_ns()
    rows: list[Row] = []
    for each in found:
        job_id, name, state = (text_field(each, key) for key in ("JobID", "Name", "State"))
        rows.append(
            (
                short[job_id],
                UNKNOWN if name in {"", job_id} else name,
                *([text_field(each, "Namespace")] if several else []),
                Cell(state, "red" if state == "parked" else "yellow"),
                str(each.get("Sequence")),
                str(each.get("Attempts")),
                age(nanoseconds_of(text_field(each, "Since")), now),
                text_field(each, "Error"),
            )
        )
    return rows
