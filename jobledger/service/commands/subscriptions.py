"""`jobledger subscriptions`: what durable subscriptions are up to, and how to mend them."""

import time
from collections.abc import Mapping
from typing import Any

import click

from jobledger.service.client.failures import nanoseconds_of
from jobledger.service.commands.output import Output, output_option, quiet_option
from jobledger.service.commands.shared import Session, WholeNumber, connected, event_word
from jobledger.service.commands.text import BOLD, Cell, Column, plain, print_table, say, styled
from jobledger.service.commands.times import age
from jobledger.service.limits import PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT

_STATE_STYLES = {"live": "green", "catching_up": "cyan", "unattended": "yellow", "parked": "red"}
_LABEL_WIDTH = 11

_name = click.argument("name", metavar="NAME")
_job = click.argument("job_id", metavar="JOB_ID")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def subscriptions() -> None:
    """Look at durable subscriptions, and mend them.

    A job whose event could not be handled is set aside: it is tried again, and then parked until somebody
    says retry or skip. All other jobs go on. Changing anything needs an admin's token.
    """


@subscriptions.command("list")
@output_option()
@quiet_option
@connected
def list_subscriptions(*, form: str, quiet: bool, session: Session) -> None:
    """List the durable subscriptions, with how far each is."""
    output = Output(form, quiet=quiet)
    with session.operators() as operators:
        found = operators.subscriptions()
    if quiet:
        for each in found:
            click.echo(plain(_text(each, "Name")))
    elif output.for_machines:
        output.page(found)
    elif not found:
        say("No durable subscriptions")
    else:
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
        print_table(columns, [_row(each) for each in found])


@subscriptions.command()
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


@subscriptions.command()
@_name
@click.option(
    "--limit",
    type=WholeNumber(PARKED_MAX_LIMIT),
    default=PARKED_DEFAULT_LIMIT,
    show_default=True,
    help="At most so many.",
)
@output_option()
@quiet_option
@connected
def parked(*, name: str, limit: int, form: str, quiet: bool, session: Session) -> None:
    """List the jobs that are set aside, because an event of theirs could not be handled."""
    output = Output(form, quiet=quiet)
    with session.operators() as operators:
        answer = operators.parked(name, limit)
    found = answer.get("Items") or []
    if quiet:
        for each in found:
            click.echo(plain(_text(each, "JobID")))
    elif output.for_machines:
        output.page(found, Total=answer.get("Total"))
    elif not found:
        say(f"{name} has set no job aside")
    else:
        columns = [
            Column("Job"),
            Column("State"),
            Column("Sequence", right=True),
            Column("Tries", right=True),
            Column("For", right=True, leaves=1),
            Column("Error", flexible=True, least=20),
        ]
        now = time.time_ns()
        print_table(columns, [_parked_row(each, now) for each in found])
    total = answer.get("Total") or 0
    if total > len(found):
        say(f"There are {total}: --limit for more of them.")


@subscriptions.command()
@_name
@click.argument("job_id", metavar="[JOB_ID]", required=False, default="")
@click.option("--all", "everything", is_flag=True, help="All jobs that are set aside.")
@connected
def retry(*, name: str, job_id: str, everything: bool, session: Session) -> None:
    """Handle a job's event again now, then its later ones."""
    if bool(job_id) == everything:
        raise click.UsageError("which job? Say JOB_ID, or --all")
    with session.operators() as operators:
        count = operators.retry(name, job_id)
    say(f"{_jobs(count)} of {name} will be tried again now")


@subscriptions.command()
@_name
@_job
@_yes
@connected
def skip(*, name: str, job_id: str, yes: bool, session: Session) -> None:
    """Give up a job's event, and go on with its later ones."""
    _confirm(yes, f"Give up the event of {job_id} that {name} could not handle?")
    with session.operators() as operators:
        operators.skip(name, job_id)
    say(f"{job_id} goes on behind that event")


@subscriptions.command()
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


@subscriptions.command()
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


def _events(found: Mapping[str, Any]) -> str:
    """Which events it gets: what its filter says."""
    said = found.get("Filter") or {}
    parts = [f"{key}={_value(value)}" for key, value in said.items() if value]
    return " ".join(parts) or "all"


def _value(value: object) -> str:
    return ",".join(event_word(str(each)) for each in value) if isinstance(value, list) else str(value)


def _row(found: Mapping[str, Any]) -> list[str | Cell]:
    return [
        _text(found, "Name"),
        _state(found),
        str(found.get("Gap")),
        f"{found.get('LagSeconds')}s",
        str(found.get("Retrying")),
        _parked(found),
        _text(found, "Form"),
        _events(found),
    ]


def _print(found: Mapping[str, Any]) -> None:
    name, state, gap, lag, retrying, parked_jobs, form, events = _row(found)
    lines: list[tuple[str, str | Cell]] = [
        ("Name", name),
        ("State", state),
        ("Gap", f"{gap} events, {lag}"),
        ("Retrying", retrying),
        ("Parked", parked_jobs),
        ("Form", form),
        ("Events", events),
        ("Created", _text(found, "Created")),
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
                "yes" if each.get("Held") else Cell("no", "yellow"),
                str(each.get("Waiting")),
            ]
            for each in found.get("Partitions") or ()
        ],
    )


def _parked_row(found: Mapping[str, Any], now: int) -> list[str | Cell]:
    state = _text(found, "State")
    return [
        _text(found, "JobID"),
        Cell(state, "red" if state == "parked" else "yellow"),
        str(found.get("Sequence")),
        str(found.get("Attempts")),
        age(nanoseconds_of(_text(found, "Since")), now),
        _text(found, "Error"),
    ]


def _text(wire: Mapping[str, Any], name: str) -> str:
    value = wire.get(name)
    return value if isinstance(value, str) else ""
