"""`jobledger job list`: the jobs that fit, a line each."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jobledger.projections.limits import LIST_DEFAULT_LIMIT
from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list, watch, watch_option
from jobledger.service.cli.output import Output, quiet_option
from jobledger.service.cli.shared import (
    TYPES,
    Session,
    StateChoice,
    WholeNumber,
    all_namespaces_option,
    connected,
    namespace_filter,
)
from jobledger.service.cli.text import say
from jobledger.service.cli.times import Moment, PointText

if TYPE_CHECKING:
    from jobledger.service.client.answers import JobPage

_MOMENT = Moment()
_COLUMNS = ("ID", "Name", "Namespace", "Type", "State.StateType", "Version", "Revision", "CreateTime")
_SHAPE = Shape(id="ID", name="Name", columns=_COLUMNS)


@click.command(
    "list",
    epilog=examples(
        "jobledger job list --state Running --state Queued",
        "jobledger job list -l 'env=prod,tier in (web, api)' -o wide",
        "jobledger job list --at 2h",
        "jobledger job list --all -o csv",
    ),
)
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
@watch_option
@list_output_option
@quiet_option
@connected
def list_jobs(
    *,
    namespace: str | None,
    all_namespaces: bool,
    limit: int,
    everything: bool,
    watched: bool,
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
    most = None if everything else limit
    with session.client() as client:
        if watched:
            watch(
                client,
                lambda: [*client.job_pages(query, limit=most)],
                lambda pages: _print(output, pages),
                for_people=output.for_people,
                facts=lambda pages: [page.items for page in pages],  # a page also names the log's position
            )
        elif quiet or output.by_line:
            for page in client.job_pages(query, limit=most):
                _print(output, [page])
                token = page.next_token
        else:
            pages = [*client.job_pages(query, limit=most)]
            _print(output, pages)
            token = pages[-1].next_token
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


def _print(output: Output, pages: "Sequence[JobPage]") -> None:
    from jobledger.service.cli.jobtable import print_jobs

    jobs = [job for page in pages for job in page.items]
    print_list(
        output,
        [job.wire for job in jobs],
        _SHAPE,
        lambda whole: print_jobs(jobs, time.time_ns(), whole=whole),
        empty="No jobs found.",
        NextToken=pages[-1].next_token,
    )
