"""`jobledger job list`: the jobs that fit, a line each."""

import time
from collections.abc import Sequence
from typing import Any

import click

from jobledger.projections.limits import LIST_DEFAULT_LIMIT
from jobledger.service.commands.output import FORMATS, Output, output_option, quiet_option
from jobledger.service.commands.shared import (
    TYPES,
    Session,
    StateChoice,
    WholeNumber,
    all_namespaces_option,
    connected,
    namespace_filter,
)
from jobledger.service.commands.text import plain, say
from jobledger.service.commands.times import Moment, PointText

_MOMENT = Moment()
_CSV_HEAD = ("id", "name", "namespace", "type", "state", "version", "revision", "create_time")


@click.command("list")
@namespace_filter
@all_namespaces_option
@click.option(
    "-l", "--selector", multiple=True, metavar="TEXT", help="Labels: `env=prod,tier in (web, api)`."
)
@click.option(
    "--state",
    multiple=True,
    metavar="STATE",
    type=StateChoice(),
    help="In any of these states.",
)
@click.option("--type", "types", multiple=True, type=click.Choice(TYPES), help="Of any of these types.")
@click.option(
    "--quarantined",
    type=click.Choice(["include", "only", "exclude"]),
    default="include",
    show_default=True,
    help="Jobs that are frozen, because an event of theirs can't be read.",
)
@click.option("--created-from", type=_MOMENT, metavar="TIME", help="Created then or later; `2h` is an age.")
@click.option("--created-to", type=_MOMENT, metavar="TIME", help="Created before.")
@click.option("--modified-from", type=_MOMENT, metavar="TIME", help="Modified then or later.")
@click.option("--modified-to", type=_MOMENT, metavar="TIME", help="Modified before.")
@click.option(
    "--order-by",
    type=click.Choice(["created", "modified"]),
    default="created",
    show_default=True,
    help="By which time.",
)
@click.option("--reverse", is_flag=True, help="Oldest first.")
@click.option(
    "--limit",
    type=WholeNumber(),
    default=LIST_DEFAULT_LIMIT,
    show_default=True,
    help="At most so many.",
)
@click.option("--all", "everything", is_flag=True, help="All there are.")
@click.option("--next-token", metavar="TOKEN", default="", help="Go on where a list ended.")
@click.option(
    "--at",
    type=PointText(),
    metavar="POINT",
    default="",
    help="As they were then: a time, an age as `2h`, or a sequence.",
)
@click.option("--wait-for", metavar="CURSOR", default="", help="As it is after this position, or later.")
@output_option(*FORMATS, "wide", "name", "csv")
@quiet_option
@connected
def list_jobs(
    *,
    namespace: str | None,
    all_namespaces: bool,
    limit: int,
    everything: bool,
    form: str,
    quiet: bool,
    session: Session,
    **filters: Any,
) -> None:
    """List jobs, newest first.

    Without a namespace: those of all namespaces that you may see. Filters of different kinds must all hold.
    The table's ids are short, and good enough for every other command.
    """
    query = _query(filters)
    query["namespace"] = session.namespaces(namespace, everything=all_namespaces)
    output = Output(form, quiet=quiet)
    jobs: list[Any] = []
    token = ""
    with session.client() as client:
        for page in client.job_pages(query, limit=None if everything else limit):
            token = page.next_token
            if quiet or output.by_line:
                _print_at_once(output, page.items)
            else:
                jobs += page.items
    if form in {"wide", "name", "csv"} and not quiet:
        _print_as(form, jobs)
    elif output.for_machines and not output.by_line:
        output.page([job.wire for job in jobs], NextToken=token)
    elif not quiet and not output.by_line:
        _print(jobs)
    if token:
        say(f"There are more: --all for all of them, --next-token {token} to go on.")


def _query(filters: dict[str, Any]) -> dict[str, Any]:
    """The API's parameters; ours list the newest first."""
    return {
        "labels": list(filters["selector"]),
        "state": list(filters["state"]),
        "type": list(filters["types"]),
        "quarantined": "" if filters["quarantined"] == "include" else filters["quarantined"],
        "order_by": f"{filters['order_by']}_at",
        "reverse": "false" if filters["reverse"] else "true",
        **{
            name: filters[name]
            for name in (
                "created_from",
                "created_to",
                "modified_from",
                "modified_to",
                "next_token",
                "at",
                "wait_for",
            )
        },
    }


def _print_at_once(output: Output, jobs: Sequence[Any]) -> None:
    for job in jobs:
        if output.quiet:
            click.echo(plain(job.id))
        else:
            output.document(job.wire)


def _print(jobs: Sequence[Any]) -> None:
    from jobledger.service.commands.jobtable import print_jobs

    if jobs:
        print_jobs(jobs, time.time_ns())
    else:
        click.echo("No jobs found.", err=True)


def _print_as(form: str, jobs: Sequence[Any]) -> None:
    """Names alone, comma-separated values, or the table with nothing cut."""
    import csv
    import sys

    from jobledger.service.commands.jobtable import print_jobs
    from jobledger.service.commands.text import plain
    from jobledger.store.values import rfc3339

    if form == "name":
        for job in jobs:
            click.echo(plain(job.name))
    elif form == "wide":
        print_jobs(jobs, time.time_ns(), whole=True)
    else:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(_CSV_HEAD)
        for job in jobs:
            texts = (job.id, job.name, job.namespace, job.type, job.state.state_type)
            numbers = (job.version, job.revision, rfc3339(job.create_time))
            rows.writerow([*map(plain, texts), *numbers])
