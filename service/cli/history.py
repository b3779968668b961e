"""`jobledger job history` and `jobledger job versions`: what became of a job, by event and by spec."""

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, quiet_option
from jobledger.service.cli.shared import (
    Session,
    VersionName,
    WholeNumber,
    connected,
    job_argument,
    namespace_option,
)
from jobledger.service.cli.text import say
from jobledger.service.cli.times import Moment
from jobledger.service.limits import CLIENT_PAGE_HISTORY, HISTORY_DEFAULT_LIMIT

if TYPE_CHECKING:
    from jobledger.service.client.answers import HistoryAnswer, HistoryPage, JobAnswer, VersionAnswer
    from jobledger.service.client.client import Client

_NANOSECONDS = 1_000_000_000
_EVENTS = Shape(
    id="Sequence",
    name="Sequence",
    columns=("Time", "Sequence", "JobVersion", "Revision", "EventType", "State.StateType", "Actor", "Reason"),
)
_VERSIONS = Shape(
    id="Version",
    name="Version",
    columns=("Version", "Tags", "Revision", "State.StateType", "Time", "Actor", "Reason"),
)


@click.command(
    epilog=examples(
        "jobledger job history my-job",
        "jobledger job history my-job --follow",
        "jobledger job history my-job --since 2h -o ndjson",
    )
)
@job_argument
@namespace_option
@click.option("--version", type=VersionName(), default=None, help="Of this version only; also by a tag.")
@click.option("--since", type=Moment(), metavar="TIME", help="Then or later; `2h` is an age.")
@click.option(
    "--limit",
    type=WholeNumber(CLIENT_PAGE_HISTORY),
    default=HISTORY_DEFAULT_LIMIT,
    show_default=True,
    help="At most so many, the oldest; not of --follow.",
)
@click.option("--next-token", metavar="TOKEN", default="", help="Go on where a history ended.")
@click.option(
    "-f",
    "--follow",
    "-w",
    "--watch",
    "follow",
    is_flag=True,
    help="Show what happens as it happens, until the job has ended.",
)
@list_output_option
@connected
def history(
    *, job: str, namespace: str | None, follow: bool, limit: int, form: str, session: Session, **filters: Any
) -> None:
    """Show what happened to a job, oldest first.

    JOB is a name, an id, or the beginning of an id. All versions are told, unless one is named.
    """
    output = Output(form)
    if follow and form in {"name", "csv"}:
        raise click.UsageError(f"--follow and -o {form} contradict each other; use -o ndjson")
    where = session.namespace(namespace)
    with session.client() as client:
        job_id = client.job(job, namespace=where).id  # the name is asked for once; the id stays the same
        pages = _Pages(client, job_id, filters)
        if follow:
            _follow(pages, output)
            return
        page = pages.read(limit)
    items = page.items
    print_list(
        output,
        [item.wire for item in items],
        _EVENTS,
        lambda whole: _print(items, whole),
        empty="No events.",
        NextToken=page.next_token,
    )
    if page.next_token and len(page.items) >= limit:
        say(f"There may be more: --limit for more at once, --next-token {page.next_token}")


class _Pages:
    """A job's history, read on and on."""

    def __init__(self, client: "Client", job_id: str, filters: dict[str, Any]) -> None:
        since = filters["since"]
        self.client = client
        self.job_id = job_id
        self.token: str = filters["next_token"]
        self._version: str = filters["version"] or ""
        self._since = None if since is None else since // _NANOSECONDS

    def read(self, limit: int = CLIENT_PAGE_HISTORY) -> "HistoryPage":
        page = self.client.through_interruptions(
            lambda: self.client.history(
                self.job_id, version=self._version, since_seconds=self._since, limit=limit, token=self.token
            )
        )
        self.token = page.next_token
        return page

    def rest(self) -> Iterator["HistoryAnswer"]:
        """What there is by now; afterwards the token is empty if the job has ended."""
        while True:
            page = self.read()
            yield from page.items
            if not page.next_token or len(page.items) < CLIENT_PAGE_HISTORY:
                return


def _follow(pages: _Pages, output: Output) -> None:
    """Read what there is, then on with each event of the job that the feed tells of."""
    printer = _LinePrinter(output)
    cursor = printer.print_all(pages.rest()) or "0"
    if not pages.token:
        return
    feed = pages.client.feed({"job": pages.job_id}, after=cursor, tell=_say)
    for _ in feed.events():
        printer.print_all(pages.rest())
        if not pages.token:
            return


class _LinePrinter:
    """Prints events of a job one by one, in columns that do not move."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._any = False

    def print_all(self, items: Iterator["HistoryAnswer"]) -> str:
        """Print them; the cursor of the last one, empty if there is none."""
        from jobledger.service.cli.jobtable import history_row
        from jobledger.service.cli.text import styled
        from jobledger.service.cli.times import exact
        from jobledger.service.client.errors import nanoseconds_of

        cursor = ""
        for item in items:
            cursor = item.cursor
            if self._output.for_machines:
                self._output.document(item.wire)
                continue
            if not self._any:
                click.echo(f"{'Time':<25}  Sequence  Version  Revision  What        Who  Why")
                self._any = True
            _, sequence, version, revision, what, who, why = history_row(item, 0)
            text = what if isinstance(what, str) else what.text
            space = " " * max(0, 10 - len(text))
            when = exact(nanoseconds_of(item.time))
            numbers = f"{sequence:>8}  {version:>7}  {revision:>8}"
            click.echo(f"{when}  {numbers}  {styled(what)}{space}  {styled(who)}  {styled(why)}")
        return cursor


def _print(items: "tuple[HistoryAnswer, ...]", whole: bool) -> None:
    from jobledger.service.cli.jobtable import HISTORY_COLUMNS, history_row
    from jobledger.service.cli.text import print_table

    now = time.time_ns()
    print_table(HISTORY_COLUMNS, [history_row(item, now) for item in items], whole=whole)


def _say(line: str) -> None:

    say(line)


@click.command(epilog=examples("jobledger job versions my-job", "jobledger job versions my-job -o csv"))
@job_argument
@namespace_option
@list_output_option
@quiet_option
@connected
def versions(*, job: str, namespace: str | None, form: str, quiet: bool, session: Session) -> None:
    """List the versions of a job's spec.

    Oldest first, with its tags, who made it and why, and what it changed. JOB is a name, an id, or the
    beginning of an id. State and revision are those in which a version was left. With --quiet: the numbers.
    """
    output = Output(form, quiet=quiet)
    with session.client() as client:
        pages = client.versions(job, namespace=session.namespace(namespace))
        found: list[JobAnswer] = []
        facts: list[VersionAnswer] = []
        for page in pages:
            found += page.items
            facts += page.versions
    known = {each.version: each for each in facts}
    print_list(
        output,
        [{**item.wire, **known[item.version].wire} for item in found if item.version in known],
        _VERSIONS,
        lambda whole: _print_versions(found, known, whole),
        empty="",
        documents=[item.wire for item in found],
        Versions=[each.wire for each in facts],
    )


def _print_versions(found: "list[JobAnswer]", facts: "dict[int, VersionAnswer]", whole: bool) -> None:
    from jobledger.service.cli.changes import changed_paths
    from jobledger.service.cli.jobtable import UNKNOWN
    from jobledger.service.cli.text import Column, print_table, state_cell
    from jobledger.service.cli.times import age
    from jobledger.service.client.errors import nanoseconds_of

    now = time.time_ns()
    changes = ["created", *(changed_paths(old.wire, new.wire) for old, new in pairwise(found))]
    print_table(
        (
            Column("Version", right=True),
            Column("Tags", flexible=True),
            Column("Revision", right=True, short="Rev", leaves=1),
            Column("State"),
            Column("Made", right=True),
            Column("Who", flexible=True, leaves=2),
            Column("Changed", flexible=True),
            Column("Why", flexible=True),
        ),
        [
            (
                str(item.version),
                ", ".join(fact.tags) or UNKNOWN,
                str(item.revision),
                state_cell(item.state.state_type),
                age(nanoseconds_of(fact.time), now),
                fact.actor or UNKNOWN,
                change,
                fact.reason or UNKNOWN,
            )
            for item, change in zip(found, changes, strict=True)
            if (fact := facts.get(item.version)) is not None
        ],
        whole=whole,
    )
