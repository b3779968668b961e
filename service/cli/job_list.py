"""`jobledger job list`, and the tables of jobs and of their events."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.projections.limits import LIST_DEFAULT_LIMIT
from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import UNKNOWN, Shape, list_output_option, print_list, watch, watch_option
from jobledger.service.cli.options import (
    TYPES,
    Session,
    StateChoice,
    all_namespaces_option,
    all_option,
    connected,
    event_word,
    labels_filter,
    limit_option,
    namespace_filter,
    next_token_option,
    wait_for_option,
)
from jobledger.service.cli.output import Output
from jobledger.service.cli.text import BOLD, Cell, Column, Row, say, state_cell
from jobledger.service.cli.times import Moment, PointText, age, nanoseconds_of
from jobledger.service.history import tag_words

if TYPE_CHECKING:
    from jobledger.service.client.responses import HistoryItem, JobPage, JobResponse

_SHORT_CHARACTERS: Final = 10  # `j-` and eight digits of a hash
# The ID of a job without a name begins with the time: its first digits are those of its neighbors, too.
_TIMED: Final = re.compile(r"j-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIMED_SHORT_CHARACTERS: Final = 20  # the time in milliseconds, and some random digits
_NAME_MIN_WIDTH: Final = 20
_SHAPE: Final = Shape(
    id="ID",
    name="Name",
    columns=("ID", "Name", "Namespace", "Type", "State.StateType", "Version", "Revision", "CreateTime"),
)
_PASSED_FILTERS: Final = ("created_from", "created_to", "modified_from", "modified_to")
_MOMENT: Final = Moment()


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
@labels_filter
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    type=StateChoice(),
    help="Only jobs in these states.",
)
@click.option("--type", "types", multiple=True, type=click.Choice(TYPES), help="Only jobs of these types.")
@click.option(
    "--quarantined",
    type=click.Choice(["include", "only", "exclude"]),
    default="include",
    show_default=True,
    help="Jobs that are frozen because of an event that cannot be read.",
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
    help="The time to sort by.",
)
@click.option("--reverse", is_flag=True, help="Oldest first.")
@limit_option(LIST_DEFAULT_LIMIT)
@all_option
@next_token_option
@click.option(
    "--at",
    type=PointText(),
    metavar="POINT",
    default="",
    help="As of then: a time, an age such as `2h`, or a sequence.",
)
@wait_for_option
@watch_option
@list_output_option()
@connected
def list_jobs(
    *,
    namespace: str | None,
    all_namespaces: bool,
    limit: int,
    everything: bool,
    watched: bool,
    output: Output,
    session: Session,
    **filters: Any,
) -> None:
    """List jobs, newest first.

    Without a namespace, jobs of all namespaces that you may read are listed. A job must match every filter;
    several values of one filter are alternatives. Other commands accept the short IDs of the table.
    """
    query = {
        "namespace": session.namespaces(namespace, everything=all_namespaces),
        "labels": list(filters["labels"]),
        "state": list(filters["states"]),
        "type": list(filters["types"]),
        "quarantined": "" if filters["quarantined"] == "include" else filters["quarantined"],
        "order_by": f"{filters['order_by']}_at",
        "reverse": "false" if filters["reverse"] else "true",  # the API lists the oldest first
        **{name: filters[name] for name in (*_PASSED_FILTERS, "next_token", "at", "wait_for")},
    }
    max_jobs = None if everything else limit
    with session.client() as client:
        if watched:
            watch(
                client,
                lambda: [*client.job_pages(query, limit=max_jobs)],
                lambda pages: _print(output, pages),
                for_people=output.for_people,
                facts=lambda pages: [page.items for page in pages],  # a page also has the log's position
            )
        elif output.quiet or output.by_line:
            for page in client.job_pages(query, limit=max_jobs):
                _print(output, [page])
                token = page.next_token
        else:
            pages = [*client.job_pages(query, limit=max_jobs)]
            _print(output, pages)
            token = pages[-1].next_token
    say_more(token)


def say_more(token: str) -> None:
    """Say how to get the rest of a list, if there is more."""
    if token:
        say(f"There are more: use --all, or --next-token {token} to continue.")


def _print(output: Output, pages: "Sequence[JobPage]") -> None:
    jobs = [job for page in pages for job in page.items]
    columns, rows = jobs_table(jobs, time.time_ns(), whole=output.form == "wide")
    print_list(
        output,
        [job.wire for job in jobs],
        _SHAPE,
        columns,
        lambda: rows,
        empty="No jobs found.",
        NextToken=pages[-1].next_token,
    )


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Prefixes that distinguish these IDs, and most likely all others; commands accept them."""
    short: dict[str, str] = {}
    taken: dict[str, str] = {}
    for job_id in dict.fromkeys(ids):
        size = _TIMED_SHORT_CHARACTERS if _TIMED.fullmatch(job_id) else _SHORT_CHARACTERS
        short[job_id] = job_id[:size]
        other = taken.setdefault(short[job_id], job_id)
        if other != job_id:
            short[job_id], short[other] = job_id, other
    return short


def jobs_table(
    jobs: "Sequence[JobResponse]", now: int, *, whole: bool = False
) -> tuple[list[Column], list[Row]]:
    """Columns and rows of `job list`; `whole`: with full IDs."""
    ids = [job.id for job in jobs]
    short = dict(zip(ids, ids, strict=True)) if whole else short_ids(ids)
    several = len({job.namespace for job in jobs}) > 1
    columns = [
        Column("ID"),
        Column("Name", flexible=True, least=_NAME_MIN_WIDTH),
        *([Column("Namespace", flexible=True, leaves=4)] if several else []),
        Column("Type", leaves=1),
        Column("State"),
        Column("Version", right=True, short="Ver", leaves=5),
        Column("Revision", right=True, short="Rev", leaves=2),
        Column("Age", right=True, leaves=3),
    ]
    rows: list[Row] = [
        (
            short[job.id],
            UNKNOWN if job.name == job.id else job.name,
            *((job.namespace,) if several else ()),
            job.type,
            state_cell(job.state.state_type) if "Quarantine" not in job.wire else Cell("Quarantined", "red"),
            str(job.version),
            str(job.revision),
            age(job.create_time, now),
        )
        for job in jobs
    ]
    return columns, rows


HISTORY_COLUMNS: Final = (
    Column("Age", right=True),
    Column("Sequence", right=True, short="Seq", leaves=1),
    Column("Version", right=True, short="Ver", leaves=2),
    Column("Revision", right=True, short="Rev"),
    Column("What", flexible=True),
    Column("Who", flexible=True, leaves=3),
    Column("Why", flexible=True),
)


def history_row(item: "HistoryItem", now: int) -> Row:
    """An event of a job as a row of `HISTORY_COLUMNS`."""
    message = item.state.message if item.state is not None and event_word(item.event_type) == "state" else ""
    why = [each for each in (item.reason, message if message != item.reason else "") if each]
    return (
        age(nanoseconds_of(item.time), now),
        str(item.sequence),
        str(item.version),
        str(item.revision),
        _what(item),
        item.actor or UNKNOWN,
        " · ".join(why) or UNKNOWN,
    )


def _what(item: "HistoryItem") -> Cell:
    word = event_word(item.event_type) or "?"
    if word == "state" and item.state is not None and not item.quarantine:
        return state_cell(item.state.state_type)
    if item.quarantine:
        return Cell(f"{word} (quarantined)", "red")
    if item.accepted_sequence:
        return Cell(f"event {item.accepted_sequence} accepted as unreadable", BOLD)
    if item.tag:
        return Cell(tag_words(item.tag, item.tag_version), BOLD)
    return Cell(f"updated to version {item.version}" if word == "updated" else word, BOLD)
