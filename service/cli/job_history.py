"""`jobledger job describe`, `history`, `versions` and `blame`: a job over time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import (
    UNKNOWN,
    Shape,
    list_output_option,
    print_fields,
    print_list,
    watch,
    watch_option,
)
from jobledger.service.cli.options import (
    Session,
    VersionName,
    connected,
    event_word,
    job_argument,
    limit_option,
    namespace_option,
    next_token_option,
    wait_for_option,
)
from jobledger.service.cli.output import Output, output_option, to_json, to_yaml
from jobledger.service.cli.text import (
    BOLD,
    Cell,
    Column,
    Row,
    plain,
    plain_lines,
    print_table,
    say,
    state_cell,
    styled,
)
from jobledger.service.cli.times import Moment, PointText, age, exact, nanoseconds_of
from jobledger.service.limits import (
    CLIENT_PAGE_HISTORY,
    DESCRIBE_MAX_EVENTS,
    DESCRIBE_SHOWN_EVENTS,
    HISTORY_DEFAULT_LIMIT,
)
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

if TYPE_CHECKING:
    from jobledger.service.client.client import Client
    from jobledger.service.client.responses import (
        BlameItem,
        HistoryItem,
        HistoryPage,
        JobResponse,
        TagsResponse,
        VersionResponse,
    )

_LABEL_WIDTH: Final = 13
_SPEC_KEYS: Final = ("Constraints", "Meta", "Tasks")
_EVENTS: Final = Shape(
    id="Sequence",
    name="Sequence",
    columns=("Time", "Sequence", "JobVersion", "Revision", "EventType", "State.StateType", "Actor", "Reason"),
)
_VERSIONS: Final = Shape(
    id="Version",
    name="Version",
    columns=("Version", "Tags", "Revision", "State.StateType", "Time", "Actor", "Reason"),
)


@click.command(
    epilog=examples(
        "jobledger job describe my-job",
        "jobledger job describe my-job --version 3",
        "jobledger job describe my-job --at 2h -o yaml",
    )
)
@job_argument
@namespace_option
@click.option("--version", type=VersionName(), default=None, help="With this version of its spec, or a tag.")
@click.option(
    "--at",
    type=PointText(revisions=True),
    metavar="POINT",
    default="",
    help="As of then: a time, an age such as `2h`, a sequence, or a revision such as `r3`.",
)
@wait_for_option
@watch_option
@output_option("table", "json", "yaml", quiet=True)
@connected
def describe(
    *,
    job: str,
    namespace: str | None,
    version: str | None,
    at: str,
    wait_for: str,
    watched: bool,
    output: Output,
    session: Session,
) -> None:
    """Show a job and its timeline.

    JOB is a name, an ID, or the beginning of an ID. The timeline shows for each event its age, sequence in
    the log, version, revision, change, actor and reason. With --at, everything is shown as of that point.
    """
    with session.client() as client:
        where = session.namespace(namespace)
        found = client.job(job, namespace=where, wait_for=wait_for, version=version or "", at=at)
        if output.quiet:
            click.echo(plain(found.id))
            return
        job_id = found.id  # a name is resolved once

        def read(job: "JobResponse") -> tuple["JobResponse", "TagsResponse", "HistoryPage"]:
            tags = client.tags(job_id, at=at)
            return job, tags, client.history(job_id, version=version or "", limit=DESCRIBE_MAX_EVENTS, at=at)

        if watched:
            watch(
                client,
                lambda: read(client.job(job_id, wait_for=wait_for, version=version or "", at=at)),
                lambda parts: _print_description(output, *parts),
                for_people=output.for_people,
            )
        _print_description(output, *read(found))


def _print_description(
    output: Output, job: "JobResponse", tags: "TagsResponse", history: "HistoryPage"
) -> None:
    if output.for_machines:
        output.document({"Job": job.wire, "Tags": tags.wire["Items"], "History": history.wire})
        return
    now = time.time_ns()
    # `styled` escapes; a value that has parts of different styles is escaped part by part and passed through.
    state = styled(state_cell(job.state.state_type))
    message = f": {plain(job.state.message)}" if job.state.message else ""
    quarantine = job.wire.get("Quarantine")
    fields: list[tuple[str, str | Cell]] = [
        ("Name", job.name),
        ("ID", job.id),
        ("Namespace", job.namespace),
        ("Type", f"{job.type}, count {job.wire.get('Count')}, priority {job.wire.get('Priority', 0)}"),
    ]
    print_fields(fields, width=_LABEL_WIDTH)
    click.echo(styled(Cell(f"{'State':<{_LABEL_WIDTH}}", BOLD)) + state + message)
    fields = [("", f"{key}: {value}") for key, value in job.state.details.items()]
    if isinstance(quarantine, dict):
        text = f"since event {quarantine.get('Sequence')}: {quarantine.get('Reason')}"
        fields.append(("Quarantine", Cell(text, "red")))
    fields += [
        ("Version", str(job.version)),
        ("Revision", str(job.revision)),
        ("Created", f"{exact(job.create_time)} ({age(job.create_time, now)} ago)"),
        ("Modified", f"{exact(job.modify_time)} ({age(job.modify_time, now)} ago)"),
        *_pairs("Tags", {each.tag: f"version {each.job_version}" for each in tags.items}),
        *_pairs("Labels", job.labels),
    ]
    print_fields(fields, width=_LABEL_WIDTH)
    for key in _SPEC_KEYS:
        value = _without_empty(job.wire.get(key))
        if value not in (None, {}, []):
            click.echo(click.style(key, bold=True))
            for line in to_yaml(value).rstrip("\n").split("\n"):
                click.echo(f"  {plain_lines(line)}")
    click.echo()
    _print_timeline(job, history, now)


def _pairs(label: str, pairs: Mapping[str, str]) -> list[tuple[str, str | Cell]]:
    return [(label if at == 0 else "", f"{key}={value}") for at, (key, value) in enumerate(pairs.items())]


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", {}, [])}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _print_timeline(job: "JobResponse", history: "HistoryPage", now: int) -> None:
    from jobledger.service.cli.job_list import HISTORY_COLUMNS, history_row

    items = history.items
    half = DESCRIBE_SHOWN_EVENTS // 2
    rows: Sequence[Row] = [history_row(item, now) for item in items]
    if len(items) > DESCRIBE_SHOWN_EVENTS:
        gap: Row = ("…", "", "", "", f"{len(items) - 2 * half} more", "", "")
        rows = [*rows[:half], gap, *rows[-half:]]
    click.echo(click.style("Timeline", bold=True))
    print_table(HISTORY_COLUMNS, rows)
    is_cut = items and items[-1].revision < job.revision
    if is_cut or len(items) > DESCRIBE_SHOWN_EVENTS:
        say(f"All events: jobledger job history {job.id}")


@click.command(
    epilog=examples(
        "jobledger job history my-job",
        "jobledger job history my-job --follow",
        "jobledger job history my-job --since 2h -o ndjson",
    )
)
@job_argument
@namespace_option
@click.option("--version", type=VersionName(), default=None, help="Only of this version, or of a tag.")
@click.option("--since", type=Moment(), metavar="TIME", help="Then or later; `2h` is an age.")
@limit_option(HISTORY_DEFAULT_LIMIT, CLIENT_PAGE_HISTORY)
@next_token_option
@click.option(
    "-f",
    "--follow",
    "-w",
    "--watch",
    "follow",
    is_flag=True,
    help="Also show new events until the job has ended; ignores --limit.",
)
@list_output_option(quiet=False)
@connected
def history(
    *,
    job: str,
    namespace: str | None,
    follow: bool,
    limit: int,
    output: Output,
    session: Session,
    **filters: Any,
) -> None:
    """Show the events of a job, oldest first.

    JOB is a name, an ID, or the beginning of an ID. Events of all versions are shown, unless --version is
    given.
    """
    from jobledger.service.cli.job_list import HISTORY_COLUMNS, history_row

    if follow and output.form in {"name", "csv"}:
        raise click.UsageError(f"--follow and -o {output.form} contradict each other; use -o ndjson")
    where = session.namespace(namespace)
    with session.client() as client:
        job_id = client.job(job, namespace=where).id  # a name is resolved once
        reader = _HistoryReader(client, job_id, filters)
        if follow:
            _follow(reader, output)
            return
        page = reader.read(limit)
    now = time.time_ns()
    print_list(
        output,
        [item.wire for item in page.items],
        _EVENTS,
        HISTORY_COLUMNS,
        lambda: [history_row(item, now) for item in page.items],
        empty="No events.",
        NextToken=page.next_token,
    )
    if page.next_token and len(page.items) >= limit:
        say(f"There may be more: use a larger --limit, or --next-token {page.next_token} to continue.")


class _HistoryReader:
    """Reads a job's history page by page, and keeps the token of the next page."""

    def __init__(self, client: "Client", job_id: str, filters: dict[str, Any]) -> None:
        since = filters["since"]
        self.client = client
        self.job_id = job_id
        self.token: str = filters["next_token"]
        self._version: str = filters["version"] or ""
        self._since_seconds = None if since is None else since // NANOSECONDS_PER_SECOND

    def read(self, limit: int = CLIENT_PAGE_HISTORY) -> "HistoryPage":
        page = self.client.with_retries(
            lambda: self.client.history(
                self.job_id,
                version=self._version,
                since_seconds=self._since_seconds,
                limit=limit,
                token=self.token,
            )
        )
        self.token = page.next_token
        return page

    def rest(self) -> Iterator["HistoryItem"]:
        """All events up to now; afterwards the token is empty if the job has ended."""
        while True:
            page = self.read()
            yield from page.items
            if not page.next_token or len(page.items) < CLIENT_PAGE_HISTORY:
                return


def _follow(reader: _HistoryReader, output: Output) -> None:
    """Print past events, then read the history again after each event of the job in the feed."""
    printer = _LinePrinter(output)
    cursor = printer.print_all(reader.rest()) or "0"
    if not reader.token:
        return
    stream = reader.client.event_stream({"job": reader.job_id}, after=cursor, report=say)
    for _ in stream.events():
        printer.print_all(reader.rest())
        if not reader.token:
            return


class _LinePrinter:
    """Prints events one by one, in columns of fixed width."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._has_heading = False

    def print_all(self, items: Iterator["HistoryItem"]) -> str:
        """Print the events; returns the cursor of the last one, empty if there were none."""
        from jobledger.service.cli.job_list import history_row

        cursor = ""
        for item in items:
            cursor = item.cursor
            if self._output.for_machines:
                self._output.document(item.wire)
                continue
            if not self._has_heading:
                click.echo(f"{'Time':<25}  Sequence  Version  Revision  What        Who  Why")
                self._has_heading = True
            _, sequence, version, revision, what, who, why = history_row(item, 0)
            text = what if isinstance(what, str) else what.text
            space = " " * max(0, 10 - len(text))
            when = exact(nanoseconds_of(item.time))
            numbers = f"{sequence:>8}  {version:>7}  {revision:>8}"
            click.echo(f"{when}  {numbers}  {styled(what)}{space}  {styled(who)}  {styled(why)}")
        return cursor


@click.command(epilog=examples("jobledger job versions my-job", "jobledger job versions my-job -o csv"))
@job_argument
@namespace_option
@list_output_option()
@connected
def versions(*, job: str, namespace: str | None, output: Output, session: Session) -> None:
    """List the versions of a job's spec.

    Oldest first, with tags, actor, reason and changed fields. JOB is a name, an ID, or the beginning of an
    ID. State and revision are the last ones of each version. With --quiet, only the numbers are printed.
    """
    with session.client() as client:
        found: list[JobResponse] = []
        facts: list[VersionResponse] = []
        for page in client.versions(job, namespace=session.namespace(namespace)):
            found += page.items
            facts += page.versions
    known = {each.version: each for each in facts}
    print_list(
        output,
        [{**item.wire, **known[item.version].wire} for item in found if item.version in known],
        _VERSIONS,
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
        lambda: _version_rows(found, known),
        empty="",
        documents=[item.wire for item in found],
        Versions=[each.wire for each in facts],
    )


def _version_rows(found: "list[JobResponse]", facts: "dict[int, VersionResponse]") -> list[Row]:
    from jobledger.service.cli.diff import changed_paths

    now = time.time_ns()
    changes = ["created", *(changed_paths(old.wire, new.wire) for old, new in pairwise(found))]
    return [
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
    ]


@click.command(
    epilog=examples(
        "jobledger job blame my-job",
        "jobledger job blame my-job --path Tasks[0].Engine",
        "jobledger job blame my-job --at 2h",
    )
)
@job_argument
@namespace_option
@click.option(
    "--at", metavar="POINT", default="", help="As of a time, an age, a sequence, or a revision (`r3`)."
)
@click.option("--path", metavar="PATH", default="", help="Only this field and the fields below it.")
@output_option()
@connected
def blame(*, job: str, namespace: str | None, at: str, path: str, output: Output, session: Session) -> None:
    """Show who last set each field of a job, and why.

    JOB is a name, an ID, or the beginning of an ID. Shows the fields of the spec and of the state, and the
    tags, each with the event that set its value. PATH is written as in the table: `Tasks[0].Env`.
    """
    with session.client() as client:
        found = client.blame(job, namespace=session.namespace(namespace), at=at, path=path)
    if output.by_line:
        output.page([item.wire for item in found.items])
    elif output.for_machines:
        output.document(found.wire)
    elif path and not found.items:
        say(f"no field at {path!r}; omit --path to see all fields")
    else:
        _print_blame(found.items)


def _print_blame(items: "tuple[BlameItem, ...]") -> None:
    now = time.time_ns()
    print_table(
        (
            Column("Field", flexible=True, least=20, middle=True),
            Column("Value", flexible=True),
            Column("Age", right=True, leaves=4),
            Column("Event", leaves=2),
            Column("Version", right=True, short="Ver", leaves=3),
            Column("Revision", right=True, short="Rev", leaves=1),
            Column("Who", flexible=True),
            Column("Why", flexible=True),
        ),
        [
            (
                Cell(item.path, BOLD),
                to_json(item.value, compact=True),
                age(nanoseconds_of(item.time), now),
                event_word(item.event_type),
                str(item.version),
                str(item.revision),
                item.actor or UNKNOWN,
                item.reason or UNKNOWN,
            )
            for item in items
        ],
    )
