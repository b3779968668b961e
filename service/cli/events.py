"""`jobledger events tail` and `replay`: follow events, or export past ones."""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import (
    INTERRUPTED_CODE,
    Session,
    all_namespaces_option,
    connected,
    end_on_sigterm,
    event_state_filter,
    event_type_filter,
    event_word,
    labels_filter,
    limit_option,
    namespace_filter,
    prefers_service,
    reading_log,
)
from jobledger.service.cli.output import Output, output_option, to_json
from jobledger.service.cli.text import (
    BOLD,
    Cell,
    StatusLine,
    cut,
    plain,
    say,
    state_cell,
    styled,
    text_width,
)
from jobledger.service.cli.times import PointText, exact, nanoseconds_of
from jobledger.service.limits import REPLAY_PROGRESS_SECONDS

if TYPE_CHECKING:
    from jobledger.service.client.event_stream import EventStream
    from jobledger.service.export.exporter import Export
    from jobledger.service.export.output_file import OutputFile
    from jobledger.service.export.query import ExportQuery
    from jobledger.service.export.sources import FeedSource, LogSource
    from jobledger.service.export.text_format import EventFormat, LineFormatter

    Source = LogSource | FeedSource

_SEQUENCE_WIDTH: Final = 6
_OUTPUT_CLOSED_CODE: Final = 1  # as click ends the other commands


@click.command(
    epilog=examples(
        "jobledger events tail --after 0",
        "jobledger events tail --namespace prod --state Failed",
        "jobledger events tail -l env=prod -o ndjson",
    )
)
@namespace_filter
@all_namespaces_option
@click.option(
    "--job", metavar="JOB", default="", help="Only this job: a name, an ID, or the beginning of an ID."
)
@event_type_filter
@event_state_filter
@labels_filter
@click.option(
    "--after", metavar="CURSOR", default="", help="Begin after this position; 0 is the beginning of the log."
)
@limit_option(None)
@output_option()
@connected
@click.pass_context
def tail(
    ctx: click.Context,
    *,
    namespace: str | None,
    all_namespaces: bool,
    job: str,
    types: tuple[str, ...],
    states: tuple[str, ...],
    labels: tuple[str, ...],
    after: str,
    limit: int | None,
    output: Output,
    session: Session,
) -> None:
    """Follow the events of all jobs.

    Begins now, or after the position of --after, and continues until Ctrl-C. A lost connection is resumed
    without losing or repeating an event. At the end, the cursor to resume from is printed on standard error.
    """
    query = {
        "namespace": session.namespaces(namespace, everything=all_namespaces),
        "job": job,
        "type": list(types),
        "state": list(states),
        "labels": list(labels),
    }
    with session.client() as client:
        stream = client.event_stream(query, after=after, report=say)
        try:
            _print_stream(stream, output, limit)
        except KeyboardInterrupt:
            click.echo(err=True)  # end the line with the terminal's ^C
            ctx.exit(INTERRUPTED_CODE)
        finally:
            if stream.cursor and stream.is_accepted:
                _say_cursor(stream.cursor)


def _say_cursor(cursor: str) -> None:
    say(f"Resume with: --after {cursor}")


def _print_stream(stream: "EventStream", output: Output, limit: int | None) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for count, event in enumerate(stream.events(), start=1):
        if output.for_machines:
            output.document({**event.wire, "cursor": event.cursor})
        else:
            click.echo(event_line(event.wire, width))
        if count == limit:
            return


def event_line(event: Mapping[str, Any], width: int | None) -> str:
    """`time  sequence  job  what  version and revision  actor  name, reason, message`.

    Args:
        event: as in the feed.
        width: of the terminal: IDs are shortened, and the end is cut; None: nothing is shortened.
    """
    from jobledger.service.cli.job_list import short_ids
    from jobledger.service.cursor import read_sequence
    from jobledger.service.history import tag_words

    data = event.get("data") or {}
    state: Mapping[str, Any] = data.get("State") or {}
    word = event_word(str(event.get("type", "")))
    what = state_cell(str(state.get("StateType", "?"))) if word == "state" else Cell(word, BOLD)
    name = event.get("name") or (data.get("Spec") or {}).get("Name")  # earlier services send no name
    left = "no longer has these labels" if event.get("matches") == "before" else ""
    tag = tag_words(str(data["Tag"]), int(data.get("Version") or 0)) if data.get("Tag") else ""
    why = [str(each) for each in (name, left, tag, event.get("reason"), state.get("Message")) if each]
    job_id = str(event.get("subject"))
    shown_id = job_id if width is None else short_ids([job_id])[job_id]
    sequence = read_sequence(event.get("sequence"))
    parts = [
        exact(nanoseconds_of(str(event.get("streamtime")))),
        plain(f"{'-' if sequence is None else sequence!s:>{_SEQUENCE_WIDTH}}"),
        plain(f"{event.get('namespace')}/{shown_id}"),
        styled(what) + " " * max(0, 9 - len(what.text)),
        f"v{event.get('version')} r{event.get('revision')}",
    ]
    head = "  ".join(parts)
    end = f"  {plain(str(event.get('actor') or '-'))}  {plain(' · '.join(dict.fromkeys(why)))}".rstrip()
    return head + (end if width is None else cut(end, width - text_width(click.unstyle(head))))


@click.command(
    epilog=examples(
        "jobledger events replay --since 2026-01-31 --until 2026-02-01",
        "jobledger events replay --job my-job -o ndjson",
        "jobledger events replay -o parquet --output-file events.parquet",
    )
)
@namespace_filter
@all_namespaces_option
@click.option("--job", metavar="JOB", default="", help="Only this job: its name or its full ID.")
@event_type_filter
@click.option("--actor", "actors", multiple=True, metavar="NAME", help="Only events by these actors.")
@click.option("--after", metavar="CURSOR", default="", help="Begin after this position.")
@click.option(
    "--since",
    type=PointText(),
    metavar="POINT",
    default=None,
    help="Begin then: a time, an age such as `2h`, a sequence.",
)
@click.option("--until", type=PointText(), metavar="POINT", default=None, help="End with this point.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(("table", "ndjson", "parquet")),
    default="table",
    show_default=True,
    help="Output format.",
)
@click.option(
    "--output-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write to this file; it appears when it is complete.",
)
@reading_log
@click.pass_context
def replay(
    ctx: click.Context,
    *,
    namespace: str | None,
    all_namespaces: bool,
    types: tuple[str, ...],
    actors: tuple[str, ...],
    job: str,
    after: str,
    since: str | None,
    until: str | None,
    form: str,
    output_file: Path | None,
    session: Session,
) -> None:
    """Export past events of the log.

    Exports the events from the beginning, from --after or from --since to the present end of the log or to
    --until. Reads the log itself if it is within reach, else the live feed of the service. A terminal shows
    the progress; at the end, also after Ctrl-C, the cursor to resume from is printed on standard error.
    """
    if after and since:
        raise click.UsageError("--after and --since contradict each other; use one of them")
    if form == "parquet" and output_file is None and sys.stdout.isatty():
        raise click.UsageError("Parquet cannot be shown on a terminal; use --output-file FILE")
    from jobledger.projections.subscriptions.filters import parse_types
    from jobledger.service.export.query import ExportQuery

    where = session.namespaces(namespace, everything=all_namespaces)
    query = ExportQuery(
        after=after,
        since=since or "",
        until=until or "",
        namespace="" if where == "*" else where,
        job=job,
        types=frozenset(parse_types(types)),
        actors=frozenset(actors),
    )
    run = _Replay(session, query, form, output_file, colors=ctx.color is not False)
    by_service = run.uses_service()
    end_on_sigterm()  # else an incomplete file would remain
    ctx.exit(asyncio.run(run.run(by_service=by_service)))


class _Replay:
    """One run of `events replay`."""

    def __init__(
        self, session: Session, query: "ExportQuery", form: str, path: Path | None, *, colors: bool
    ) -> None:
        self._session = session
        self._query = query
        self._form = form
        self._path = path
        self._colors = colors
        self._is_on_terminal = path is None and sys.stdout.isatty()
        self._progress = _Progress(is_shown=sys.stderr.isatty() and not self._is_on_terminal)

    def uses_service(self) -> bool:
        """Whether to read the feed: the service was named, or only the service is within reach."""
        from jobledger.service.log_access import log_is_served
        from jobledger.store.model.errors import JobledgerError

        preferred = prefers_service(self._session.loaded)
        if preferred is not None:
            return preferred
        if log_is_served(self._session.settings):
            return False
        with suppress(JobledgerError), self._session.client() as client:
            client.version()
            return True
        return False

    async def run(self, *, by_service: bool) -> int:
        """Export; returns the exit code."""
        from jobledger.service.export.exporter import Export
        from jobledger.service.export.output_file import OutputClosed, open_output

        async with self._feed_source() if by_service else self._log_source() as source:
            output = open_output(self._path)
            try:
                format_ = self._format(output)
                export = Export(source.range, format_, self._progress.show)
                return await self._export(export, source, format_, output)
            except OutputClosed:
                output.abandon()
                return _OUTPUT_CLOSED_CODE
            except BaseException:
                output.abandon()
                raise

    async def _export(
        self, export: "Export", source: "Source", format_: "EventFormat", output: "OutputFile"
    ) -> int:
        """Write everything, and print the cursor to resume from, also after an error."""
        from jobledger.service.errors import OutputFailed
        from jobledger.store.model.errors import JobledgerError

        code, failed = 0, None
        try:
            await export.run(source.chunks())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # the output is still finished
            code = INTERRUPTED_CODE
        except OutputFailed:
            self._progress.clear()
            if self._path is None:  # what was written remains
                _say_cursor(export.cursor)
            raise
        except JobledgerError as error:
            failed = error
        self._progress.clear()
        if not export.is_blocked:
            format_.finish()
        output.finish()
        if export.anomalies:
            say(f"Omitted: {export.anomalies} records that changed no job")
        _say_cursor(export.cursor)
        if failed is not None:
            raise failed
        return code

    @asynccontextmanager
    async def _log_source(self) -> AsyncIterator["Source"]:
        from jobledger.service.export.sources import LogSource
        from jobledger.service.log_access import open_log

        async with open_log(self._session.settings) as log:
            source = self._session.settings.event_source
            yield await LogSource.open(log, self._query, now=time.time_ns(), source=source)

    @asynccontextmanager
    async def _feed_source(self) -> AsyncIterator["Source"]:
        from jobledger.service.export.background_thread import BackgroundThread
        from jobledger.service.export.sources import FeedSource

        with self._session.client() as client, BackgroundThread() as thread:
            yield await thread.run(
                lambda: FeedSource.open(client, self._query, now=time.time_ns(), report=say)
            )

    def _format(self, output: "OutputFile") -> "EventFormat":
        from jobledger.service.export.text_format import JSONLines, TextFormat

        if self._form == "parquet":
            from jobledger.service.export.parquet import Parquet

            return Parquet(output)
        encoding = sys.stdout.encoding if self._path is None else "utf-8"
        if self._form == "table":
            return TextFormat(output, _line_formatter(self._is_on_terminal, colors=self._colors), encoding)
        if self._is_on_terminal:  # control characters must not reach it
            return TextFormat(output, lambda wire: to_json(wire, compact=True), encoding)
        return JSONLines(output)


def _line_formatter(is_terminal: bool, *, colors: bool) -> "LineFormatter":
    width = shutil.get_terminal_size().columns if is_terminal else None
    if is_terminal and colors:
        return lambda wire: event_line(wire, width)
    return lambda wire: click.unstyle(event_line(wire, width))


class _Progress:
    """The progress of an export on the status line."""

    def __init__(self, *, is_shown: bool) -> None:
        self._started = time.monotonic()
        self._line = StatusLine(is_shown=is_shown, interval_seconds=REPLAY_PROGRESS_SECONDS)
        self.clear = self._line.clear

    def show(self, export: "Export") -> None:
        """Show the progress, unless it was shown less than an interval ago."""
        if not self._line.is_due():
            return
        after, end = export.range.after, export.range.end
        if export.read < after:
            self._line.show(f"reading earlier events: {export.read:,} of {after:,}")
            return
        done = export.reached - after
        rate = export.events / max(time.monotonic() - self._started, 0.001)
        share = 100 * done // max(1, end - after)
        self._line.show(
            f"{share} %: {export.reached:,} of {end:,}, {export.events:,} exported, {rate:,.0f}/s"
        )
