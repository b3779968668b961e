"""`jobledger subscriptions`: what durable subscriptions are up to, and how to mend them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.filter_text import created, events, lag
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.shared import (
    EVENT_WORDS,
    Session,
    StateChoice,
    WholeNumber,
    complete_jobs,
    connected,
    job_argument,
    namespace_filter,
    namespace_option,
)
from jobledger.service.cli.text import BOLD, Cell, Column, plain, print_table, say, styled
from jobledger.service.cli.times import age
from jobledger.service.client.errors import nanoseconds_of
from jobledger.service.limits import PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT

_STATE_STYLES = {"live": "green", "catching_up": "cyan", "unattended": "yellow", "parked": "red"}
_LABEL_WIDTH = 11
_LISTED = Shape(
    id="Name",
    name="Name",
    columns=("Name", "State", "Gap", "LagSeconds", "Retrying", "Parked", "Form", "Created"),
)
_PARKED = Shape(
    id="JobID",
    name="Name",
    columns=("JobID", "Name", "Namespace", "State", "Sequence", "Attempts", "Since", "Error"),
)

_name = click.argument("name", metavar="NAME")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(
    epilog=examples(
        "jobledger subscriptions list",
        "jobledger subscriptions parked billing",
        "jobledger subscriptions retry billing --all",
    )
)
def subscriptions() -> None:
    """Look at durable subscriptions, and mend them.

    A job whose event could not be handled is set aside: it is tried again, and then parked until somebody
    says retry or skip. All other jobs go on. Changing anything needs an admin's token.
    """


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions create billing --type state --state Completed",
        "jobledger subscriptions create mirror --elastic --start now",
    )
)
@_name
@click.option(
    "--type", "types", multiple=True, type=click.Choice(EVENT_WORDS), help="Only events of these types."
)
@click.option(
    "--state", "states", multiple=True, metavar="STATE", type=StateChoice(), help="Only into these states."
)
@namespace_filter
@click.option("--job", default="", metavar="ID", help="Only events of the job of this id.")
@click.option(
    "-l", "--selector", "labels", default="", metavar="TEXT", help="Only jobs with labels: `env=prod`."
)
@click.option(
    "--start",
    default="beginning",
    show_default=True,
    metavar="POINT",
    help="Begin at the `beginning`, `now`, or after a cursor, a sequence, or a time.",
)
@click.option("--members", type=WholeNumber(), help="Share it among so many processes.")
@click.option("--elastic", is_flag=True, help="Share it among processes that come and go.")
@click.option("--partitions", type=WholeNumber(), help="Of an elastic group.  [default: 32]")
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
    labels: str,
    start: str,
    members: int | None,
    elastic: bool,
    partitions: int | None,
    plain: bool,
    form: str,
    session: Session,
) -> None:
    """Create a subscription for a program that may not create it itself.

    Makes its definition and all its consumers. The program opens it with the same name and options. The same
    again changes nothing. `jobledger nats accounts` prints the rights that the program needs.
    """
    from jobledger.projections.limits import SUBSCRIPTION_PARTITIONS

    if partitions and not elastic:
        raise click.UsageError("--partitions needs --elastic")
    body = {
        "Name": name,
        "Namespace": namespace or "",
        "Job": job,
        "Types": list(types),
        "States": list(states),
        "Labels": labels,
        "Start": start,
        "Members": members or 0,
        "Partitions": (partitions or SUBSCRIPTION_PARTITIONS) if elastic else 0,
        "Plain": plain,
    }
    output = Output(form)
    with session.operators() as operators:
        found = operators.create_subscription(body)
    if output.for_machines:
        output.document(found)
    else:
        _print(found)


@subscriptions.command(
    "list", epilog=examples("jobledger subscriptions list", "jobledger subscriptions list -o csv")
)
@list_output_option
@quiet_option
@connected
def list_subscriptions(*, form: str, quiet: bool, session: Session) -> None:
    """List the durable subscriptions, with how far each is."""
    output = Output(form, quiet=quiet)
    with session.operators() as operators:
        found = operators.subscriptions()
    print_list(
        output, found, _LISTED, lambda whole: _print_all(found, whole), empty="No durable subscriptions"
    )


def _print_all(found: Sequence[Mapping[str, Any]], whole: bool) -> None:
    columns = [
        Column("Name"),
        Column("State"),
        Column("Gap", right=True),
        Column("Lag", right=True, leaves=1),
        Column("Retrying", right=True, leaves=3),
        Column("Parked", right=True),
        Column("Form", leaves=4),
        Column("Events", flexible=True, leaves=2),
    ]
    print_table(columns, [_row(each) for each in found], whole=whole)


@subscriptions.command(epilog=examples("jobledger subscriptions show billing"))
@_name
@output_option("table", "json", "yaml")
@connected
def show(*, name: str, form: str, session: Session) -> None:
    """Show a subscription, and each part of it."""
    output = Output(form)
    with session.operators() as operators:
        found = operators.subscription(name)
    if output.for_machines:
        output.document(found)
        return
    _print(found)


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions parked billing", "jobledger subscriptions parked billing -o name"
    )
)
@_name
@click.option(
    "--limit",
    type=WholeNumber(PARKED_MAX_LIMIT),
    default=PARKED_DEFAULT_LIMIT,
    show_default=True,
    help="At most so many.",
)
@list_output_option
@quiet_option
@connected
def parked(*, name: str, limit: int, form: str, quiet: bool, session: Session) -> None:
    """List the jobs that are set aside, because an event of theirs could not be handled."""
    output = Output(form, quiet=quiet)
    with session.operators() as operators:
        answer = operators.parked(name, limit)
    found = answer.get("Items") or []
    print_list(
        output,
        found,
        _PARKED,
        lambda whole: _print_parked(found, whole),
        empty=f"{name} has set no job aside",
        Total=answer.get("Total"),
    )
    total = answer.get("Total") or 0
    if total > len(found):
        say(f"There are {total}: --limit for more of them.")


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions retry billing my-job", "jobledger subscriptions retry billing --all"
    )
)
@_name
@click.argument("job", metavar="[JOB]", required=False, default="", shell_complete=complete_jobs)
@namespace_option
@click.option("--all", "everything", is_flag=True, help="All jobs that are set aside.")
@connected
def retry(*, name: str, job: str, namespace: str | None, everything: bool, session: Session) -> None:
    """Handle a job's event again now, then its later ones.

    JOB is a name, an id, or the beginning of an id.
    """
    if bool(job) == everything:
        raise click.UsageError("which job? Say JOB, or --all")
    with session.operators() as operators:
        count = operators.retry(name, job, session.namespace(namespace))
    say(f"{_jobs(count)} of {name} will be tried again now")


@subscriptions.command(epilog=examples("jobledger subscriptions skip billing my-job"))
@_name
@job_argument
@namespace_option
@_yes
@connected
def skip(*, name: str, job: str, namespace: str | None, yes: bool, session: Session) -> None:
    """Give up a job's event, and go on with its later ones.

    JOB is a name, an id, or the beginning of an id.
    """
    _confirm(yes, f"Give up the event of {job} that {name} could not handle?")
    with session.operators() as operators:
        operators.skip(name, job, session.namespace(namespace))
    say(f"{job} goes on behind that event")


@subscriptions.command(
    epilog=examples(
        "jobledger subscriptions reset billing --after 0",
        "jobledger subscriptions reset billing --after 2026-01-31 --yes",
    )
)
@_name
@click.option(
    "--after", required=True, metavar="POINT", help="Behind a cursor, a sequence (0: all), or a time."
)
@_yes
@connected
def reset(*, name: str, after: str, yes: bool, session: Session) -> None:
    """Make a subscription begin anew behind a point.

    Events behind the point are handled again; up to it none is any more. Jobs that were set aside are not any
    longer.
    """
    _confirm(yes, f"Make {name} begin anew after {after}?")
    with session.operators() as operators:
        found = operators.reset(name, after)
    say(f"{name} begins anew: {found.get('Gap')} events to come")


@subscriptions.command(epilog=examples("jobledger subscriptions delete billing --yes"))
@_name
@_yes
@connected
def delete(*, name: str, yes: bool, session: Session) -> None:
    """Delete a subscription: its place, and the jobs that it has set aside."""
    _confirm(yes, f"Delete {name}, its place, and the jobs that it has set aside?")
    with session.operators() as operators:
        operators.delete(name)
    say(f"{name} deleted")


def _confirm(yes: bool, question: str) -> None:
    if not yes:
        click.confirm(plain(question), abort=True, err=True)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _state(found: Mapping[str, Any]) -> Cell:
    state = _text(found, "State")
    return Cell(state, _STATE_STYLES.get(state, ""))


def _parked(found: Mapping[str, Any]) -> Cell:
    return Cell(str(found.get("Parked")), "red" if found.get("Parked") else "")


def _row(found: Mapping[str, Any]) -> list[str | Cell]:
    return [
        _text(found, "Name"),
        _state(found),
        str(found.get("Gap")),
        lag(found),
        str(found.get("Retrying")),
        _parked(found),
        _text(found, "Form"),
        events(found.get("Filter") or {}),
    ]


def _print(found: Mapping[str, Any]) -> None:
    name, state, gap, age_of_oldest, retrying, parked_jobs, form, filtered = _row(found)
    lines: list[tuple[str, str | Cell]] = [
        ("Name", name),
        ("State", state),
        ("Gap", f"{gap} events, {age_of_oldest}"),
        ("Retrying", retrying),
        ("Parked", parked_jobs),
        ("Form", form),
        ("Events", filtered),
        ("Created", created(found)),
    ]
    for label, value in lines:
        click.echo(styled(Cell(f"{label:<{_LABEL_WIDTH}}", BOLD)) + styled(value))
    click.echo()
    columns = [
        Column("Part"),
        Column("Position", right=True),
        Column("Gap", right=True),
        Column("Held"),
        Column("Waiting", right=True),
    ]
    print_table(
        columns,
        [
            [
                _text(each, "Name"),
                _text(each, "Position"),
                str(each.get("Gap")),
                "yes" if each.get("Held") else Cell("no", "" if each.get("Waiting") else "yellow"),
                str(each.get("Waiting")),
            ]
            for each in found.get("Partitions") or ()
        ],
    )


def _print_parked(found: Sequence[Mapping[str, Any]], whole: bool) -> None:
    from jobledger.service.cli.jobtable import UNKNOWN, short_ids

    short, now = short_ids([_text(each, "JobID") for each in found]), time.time_ns()
    several = len({_text(each, "Namespace") for each in found}) > 1
    columns = [
        Column("ID"),
        Column("Name", flexible=True),
        *([Column("Namespace", flexible=True, leaves=3)] if several else []),
        Column("State"),
        Column("Sequence", right=True, leaves=2),
        Column("Tries", right=True),
        Column("For", right=True, leaves=1),
        Column("Error", flexible=True, least=20),
    ]
    rows: list[list[str | Cell]] = []
    for each in found:
        job_id, name = _text(each, "JobID"), _text(each, "Name")
        shown = UNKNOWN if name in {"", job_id} else name
        where = [_text(each, "Namespace")] if several else []
        rows.append([short[job_id], shown, *where, *_parked_row(each, now)])
    print_table(columns, rows, whole=whole)


def _parked_row(found: Mapping[str, Any], now: int) -> list[str | Cell]:
    state = _text(found, "State")
    return [
        Cell(state, "red" if state == "parked" else "yellow"),
        str(found.get("Sequence")),
        str(found.get("Attempts")),
        age(nanoseconds_of(_text(found, "Since")), now),
        _text(found, "Error"),
    ]


def _text(wire: Mapping[str, Any], name: str) -> str:
    value = wire.get(name)
    return value if isinstance(value, str) else ""
