"""`jobledger events replay`: the log's events again, from one point to another, in one of three forms."""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.logoptions import prefers_service, reading_log
from jobledger.service.cli.output import to_json
from jobledger.service.cli.shared import (
    EVENT_WORDS,
    INTERRUPTED_CODE,
    Session,
    all_namespaces_option,
    end_on_sigterm,
    namespace_filter,
)
from jobledger.service.cli.text import StatusLine, say
from jobledger.service.cli.times import PointText
from jobledger.service.limits import REPLAY_PROGRESS_SECONDS

if TYPE_CHECKING:
    from jobledger.service.export.exporter import Export
    from jobledger.service.export.feed_source import FeedReplay
    from jobledger.service.export.log_source import LogReplay
    from jobledger.service.export.output_file import Target
    from jobledger.service.export.query import Asked
    from jobledger.service.export.text_format import Form, Line

    Replay = LogReplay | FeedReplay

FORMS: Final = ("table", "ndjson", "parquet")
_READER_GONE_CODE: Final = 1  # as click has it for the other commands


@click.command(
    epilog=examples(
        "jobledger events replay --since 2026-01-31 --until 2026-02-01",
        "jobledger events replay --job my-job -o ndjson",
        "jobledger events replay -o parquet --output-file events.parquet",
    )
)
@namespace_filter
@all_namespaces_option
@click.option("--job", metavar="JOB", default="", help="Of this job: its name, or its whole id.")
@click.option("--type", "types", multiple=True, type=click.Choice(EVENT_WORDS), help="Of any of these types.")
@click.option("--actor", "actors", multiple=True, metavar="NAME", help="Of any of these actors.")
@click.option("--after", metavar="CURSOR", default="", help="What came after this position.")
@click.option(
    "--since",
    type=PointText(),
    metavar="POINT",
    default=None,
    help="Then or later: a time, `2h`, a sequence.",
)
@click.option(
    "--until", type=PointText(), metavar="POINT", default=None, help="Up to then, that one included."
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMS),
    default="table",
    show_default=True,
    help="For people, a line of JSON each, or a Parquet file.",
)
@click.option(
    "--output-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write to this file; it is there when it is whole.",
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
    """Tell the log's events again, from point to point.

    From the beginning, or from where --after or --since say, up to the end of the log as it is now, or to
    --until. The log is read itself where it can be reached, else through the service's live feed. Progress
    is shown on a terminal; at the end, the cursor to go on from is told on standard error, also after Ctrl-C.
    """
    if after and since:
        raise click.UsageError("--after and --since contradict each other; give one of them")
    if form == "parquet" and output_file is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text for a terminal; name a file with --output-file")
    from jobledger.projections.subscriptions.filters import parse_types
    from jobledger.service.export.query import Asked

    where = session.namespaces(namespace, everything=all_namespaces)
    question = Asked(
        after=after,
        since=since or "",
        until=until or "",
        namespace="" if where == "*" else where,
        job=job,
        types=frozenset(parse_types(types)),
        actors=frozenset(actors),
    )
    run = _Run(session, question, form, output_file, colors=ctx.color is not False)
    by_service = run.goes_by_service()
    # One way to end in order; a file that was begun does not stay behind.
    end_on_sigterm()
    ctx.exit(asyncio.run(run.run(by_service=by_service)))


class _Run:
    """One call of the command."""

    def __init__(
        self, session: Session, asked: "Asked", form: str, path: Path | None, *, colors: bool
    ) -> None:
        self._session = session
        self._asked = asked
        self._form = form
        self._path = path
        self._colors = colors
        self._is_on_terminal = path is None and sys.stdout.isatty()
        self._progress = _Progress(is_shown=sys.stderr.isatty() and not self._is_on_terminal)

    def goes_by_service(self) -> bool:
        """Whether to go through the service: it was named, or the log is not served here and it answers."""
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
        """Tell; returns the exit code."""
        from jobledger.service.export.exporter import Export
        from jobledger.service.export.output_file import OutputClosed, open_target

        async with self._from_service() if by_service else self._from_log() as replay:
            target = open_target(self._path)
            try:
                form = self._form_on(target)
                telling = Export(replay.range, form, self._progress.show)
                return await self._tell(telling, replay, form, target)
            except OutputClosed:
                target.abandon()
                return _READER_GONE_CODE
            except BaseException:
                target.abandon()
                raise

    async def _tell(self, telling: "Export", replay: "Replay", form: "Form", target: "Target") -> int:
        """Write it, end what was written, and say where to go on: also where it was broken off."""
        from jobledger.service.errors import OutputFailed
        from jobledger.store.model.errors import JobledgerError

        code, failed = 0, None
        try:
            await telling.run(replay.chunks())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # it ends in order
            code = INTERRUPTED_CODE
        except OutputFailed:
            self._progress.clear()
            if self._path is None:  # what was written stays
                say(f"Go on with: --after {telling.cursor}")
            raise
        except JobledgerError as error:
            failed = error
        self._progress.clear()
        if not telling.is_stuck:
            form.finish()
        target.finish()
        if telling.anomalies:
            say(f"Left out: {telling.anomalies} records that changed no job")
        say(f"Go on with: --after {telling.cursor}")
        if failed is not None:
            raise failed
        return code

    @asynccontextmanager
    async def _from_log(self) -> AsyncIterator["Replay"]:
        from jobledger.service.export.log_source import LogReplay
        from jobledger.service.log_access import open_log

        async with open_log(self._session.settings) as log:
            source = self._session.settings.event_source
            yield await LogReplay.ask(log, self._asked, now=time.time_ns(), source=source)

    @asynccontextmanager
    async def _from_service(self) -> AsyncIterator["Replay"]:
        from jobledger.service.export.background_thread import BackgroundThread
        from jobledger.service.export.feed_source import FeedReplay

        with self._session.client() as client, BackgroundThread() as beside:
            yield await beside.do(lambda: FeedReplay.ask(client, self._asked, now=time.time_ns(), tell=say))

    def _form_on(self, target: "Target") -> "Form":
        """What writes in the form that is wanted."""
        from jobledger.service.export.text_format import Lines, TextFormat

        if self._form == "parquet":
            from jobledger.service.export.parquet import Parquet

            return Parquet(target)
        encoding = sys.stdout.encoding if self._path is None else "utf-8"
        if self._form == "table":
            return TextFormat(target, _line_for_people(self._is_on_terminal, colors=self._colors), encoding)
        if self._is_on_terminal:  # what others wrote must not speak to it
            return TextFormat(target, lambda wire: to_json(wire, compact=True), encoding)
        return Lines(target)


def _line_for_people(is_terminal: bool, *, colors: bool) -> "Line":
    from jobledger.service.cli.tail import event_line

    width = shutil.get_terminal_size().columns if is_terminal else None
    if is_terminal and colors:
        return lambda wire: event_line(wire, width)
    return lambda wire: click.unstyle(event_line(wire, width))


class _Progress:
    """How far it is, on a line of its own that is written over; on terminals only."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._began = time.monotonic()
        self._told = 0.0
        self._line = StatusLine()

    def show(self, telling: "Export") -> None:
        """Say it, if it was not said a moment ago."""
        now = time.monotonic()
        if not self._is_shown or now - self._told < REPLAY_PROGRESS_SECONDS:
            return
        self._told = now
        after, end = telling.range.after, telling.range.end
        if telling.read < after:
            self._line.show(f"what was before: {telling.read:,} of {after:,}")
            return
        done = telling.reached - after
        rate = telling.events / max(now - self._began, 0.001)
        share = 100 * done // max(1, end - after)
        self._line.show(f"{share} %: {telling.reached:,} of {end:,}, {telling.events:,} told, {rate:,.0f}/s")

    def clear(self) -> None:
        """Take the line away."""
        self._line.clear()
