"""Making a copy of the view as of one sequence: from the live view, or from another copy, and the log.

A copy has no specs: every spec that there ever was is in the live view, by the sequence that brought it, and
never changes. A file that is not finished is worth nothing, so nothing is synced, and the indexes that only
lists need are made at the end.
"""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from jobledger.projections.as_of.job import records_as_of
from jobledger.projections.batch import Batch, fold_batch, job_ids_in, read_events, resolve_released
from jobledger.projections.database import Writer, attach_statement
from jobledger.projections.limits import (
    ASOF_BATCH_BYTES,
    ASOF_BATCH_JOBS,
    ASOF_EVENTS_PER_JOB_READ,
    ASOF_FOLD_EVENTS,
    ASOF_LATE_INDEX_EVENTS,
    ASOF_NEAR_MAX_EVENTS,
    ASOF_READS,
    ASOF_READS_MAX_JOBS,
)
from jobledger.projections.rows import JOB_COLUMNS, LOST_COLUMNS, STATUS_COLUMNS, lost_status_of, status_of
from jobledger.projections.subscriptions.state_tracker import BloomFilter
from jobledger.projections.writer import ViewWriter
from jobledger.store.log import EventLog, LogReader
from jobledger.store.model.errors import LogDamaged
from jobledger.store.model.events import JobCreated, Record, Recorded, SpecData, read_record
from jobledger.store.model.fold import last_read
from jobledger.store.model.job import JobStatus

_COLUMNS: Final = ", ".join(JOB_COLUMNS)
# A frozen job's row says what it is now: what it was at a point, only its events say.
_CHANGED: Final = (
    "FROM live.jobs WHERE created_sequence <= ?1 AND (sequence > ?1 OR passed > ?1 OR quarantine != '')"
)
_COUNT_LOST: Final = "SELECT count(*), coalesce(min(sequence), ?1 + 1) FROM live.lost_jobs WHERE sequence > 0"
_READ_LOST: Final = f"SELECT {', '.join(LOST_COLUMNS)} FROM live.lost_jobs WHERE sequence > 0"
_COUNT_CHANGED: Final = f"SELECT count(*), coalesce(min(created_sequence), ?1 + 1) {_CHANGED}"
_READ_CHANGED: Final = f"SELECT {', '.join(STATUS_COLUMNS)} {_CHANGED}"
_TAKE_JOBS: Final = (
    f"INSERT INTO main.jobs ({_COLUMNS}) SELECT {_COLUMNS} FROM live.jobs"
    " WHERE created_sequence <= ?1 AND sequence <= ?1 AND passed <= ?1 AND quarantine = ''"
    " ORDER BY created_sequence"
)
_TAKE_LABELS: Final = (
    "INSERT INTO main.labels (created_sequence, key, value) SELECT created_sequence, key, value"
    " FROM live.labels WHERE created_sequence IN (SELECT created_sequence FROM main.jobs)"
    " ORDER BY key, value, created_sequence"
)


async def seed_copy(
    log: EventLog, view: ViewWriter, writer: Writer, live: Path, *, up_to: int, most_events: int
) -> bool:
    """Begin an empty copy with the live view; the log is to be folded on from where `view.sequence` is then.

    Args:
        log: of the view.
        view: the copy, empty, tied to the log.
        writer: its connection.
        live: the live view's file, which has come to the point.
        up_to: the sequence that the copy is to be as of.
        most_events: what else there is to fold, from another copy on.

    Returns:
        Whether that pays; if not, the copy is still empty.

    Raises:
        ViewError: if one of the files can't be used.
        LogUnavailable: if the log does not answer.
    """
    statuses: list[JobStatus] = []
    await writer.execute(attach_statement(live))
    try:
        async with writer.transaction():  # all of it reads one snapshot of the live view
            [(changed, oldest)] = await writer.rows(_COUNT_CHANGED, (up_to,))
            [(lost, oldest_lost)] = await writer.rows(_COUNT_LOST, (up_to,))
            changed, oldest = changed + lost, min(oldest, oldest_lost)
            span, reads = up_to + 1 - oldest, changed * ASOF_EVENTS_PER_JOB_READ
            if min(span, reads) > most_events:
                return False
            await writer.execute(_TAKE_JOBS, (up_to,))
            await writer.execute(_TAKE_LABELS)
            by_job = reads < span and changed <= ASOF_READS_MAX_JOBS
            if by_job:
                statuses = [status_of(row) for row in await writer.rows(_READ_CHANGED, (up_to,))]
                statuses += [lost_status_of(row) for row in await writer.rows(_READ_LOST)]
    finally:
        await writer.execute("DETACH DATABASE live")
    batch = Batch()
    for start in range(0, len(statuses), ASOF_READS):
        some = statuses[start : start + ASOF_READS]
        for records in await asyncio.gather(*(_prefix(log, status, up_to) for status in some)):
            if records:
                fold_batch(read_events(records), {}, onto=batch)
            batch.specs.clear()
    batch.anomalies.clear()
    batch.last_sequence = up_to if by_job or not changed else oldest - 1
    await view.write(batch)
    return True


async def _prefix(log: EventLog, status: JobStatus, up_to: int) -> list[Record]:
    return [record async for record in records_as_of(log, status, up_to, last=last_read(status))]


_LIST_INDEXES: Final = (
    "SELECT name, sql FROM main.sqlite_schema"
    " WHERE type = 'index' AND tbl_name = 'jobs' AND name != 'jobs_id' AND sql IS NOT NULL"
)

_NEXT_IDS: Final = (
    "SELECT created_sequence, id FROM main.jobs WHERE created_sequence > ? ORDER BY created_sequence LIMIT ?"
)


class BuildInputs(NamedTuple):
    """What a copy is made of.

    Attributes:
        log: the events.
        epoch: of the log.
        live: the live view's file.
        base: a copy to begin with, at the point or before; None: there is none that is near.
        base_sequence: what that copy is as of; 0 without one.
    """

    log: EventLog
    epoch: str
    live: Path
    base: Path | None
    base_sequence: int


async def build_copy(path: Path, up_to: int, of: BuildInputs, tell: Callable[[int], None]) -> None:
    """Make the file of a copy as of a sequence, the cheapest way.

    Args:
        path: of the new file; whatever goes wrong, the caller removes it.
        up_to: the sequence, which both the log and the live view have.
        of: what it is made of.
        tell: called with the sequence that was reached, again and again.

    Raises:
        ViewError: if a file can't be read or written.
        LogUnavailable: if the log does not answer.
        LogBroken: if the log is another one, or not whole.
    """
    distance = up_to - of.base_sequence
    seeded = of.base is None or distance > ASOF_NEAR_MAX_EVENTS
    if seeded:
        async with _open(path, of.epoch, late_indexes=True) as (writer, view):
            seeded = await seed_copy(of.log, view, writer, of.live, up_to=up_to, most_events=distance)
            if seeded:
                await _fold(view, of, up_to, tell, await _ids(writer, view, up_to))
    if not seeded:
        assert of.base is not None  # without one, all of the log is what else there is to fold
        await asyncio.to_thread(shutil.copyfile, of.base, path)
        late = distance >= ASOF_LATE_INDEX_EVENTS
        async with _open(path, of.epoch, late_indexes=late) as (writer, view):
            await _fold(view, of, up_to, tell, await _ids(writer, view, up_to))


@asynccontextmanager
async def _open(path: Path, epoch: str, *, late_indexes: bool) -> AsyncIterator[tuple[Writer, ViewWriter]]:
    """A copy's file to write; a new one is made ready, and the lists' indexes may come at the end."""
    writer = await Writer.open(path, durable=False)
    view = await ViewWriter.from_connection(writer, specs=False)
    try:
        if view.epoch is None:
            await view.adopt(epoch)
            await writer.execute("DROP TABLE specs")
        indexes = await writer.rows(_LIST_INDEXES) if late_indexes else []
        for name, _ in indexes:
            await writer.execute(f"DROP INDEX {name}")
        yield writer, view
        for _, sql in indexes:
            await writer.execute(sql)
    finally:
        await view.close()


async def _ids(writer: Writer, view: ViewWriter, up_to: int) -> BloomFilter | None:
    """The jobs of a copy, if much is to be folded: a new job then need not be looked for in the file."""
    if up_to - view.sequence < ASOF_LATE_INDEX_EVENTS:
        return None
    ids, after = BloomFilter(), 0
    while rows := await writer.rows(_NEXT_IDS, (after, ASOF_FOLD_EVENTS)):
        for _, job_id in rows:
            ids.add(job_id)
        after = rows[-1][0]
    return ids


async def _fold(
    view: ViewWriter, of: BuildInputs, up_to: int, tell: Callable[[int], None], ids: BloomFilter | None
) -> None:
    """Fold the log on. A job that changes often is written seldom: only what it is in the end counts."""
    if view.sequence >= up_to:
        return
    feed = await of.log.follow(after=view.sequence, epoch=of.epoch)
    writing: asyncio.Task[None] | None = None
    batch: Batch | None = None
    size, reached = 0, view.sequence
    try:
        while reached < up_to:
            records = await feed.take(ASOF_FOLD_EVENTS)
            reached = records[-1].sequence
            if reached > up_to:
                records = [record for record in records if record.sequence <= up_to]
            if records:
                batch = await _fold_on(view, batch, records, ids)
                size += sum(len(record.payload) for record in records)
            tell(min(reached, up_to))
            is_full = size >= ASOF_BATCH_BYTES or (batch and len(batch.statuses) >= ASOF_BATCH_JOBS)
            if batch is not None and (is_full or reached >= up_to):
                if writing is not None:
                    await writing
                await _resolve_released(of.log, batch)
                view.remember(batch.statuses)
                writing = asyncio.create_task(view.write(batch))  # the next one is folded meanwhile
                batch, size = None, 0
        if writing is not None:
            await writing
    finally:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await feed.close()


async def _resolve_released(log: EventLog, batch: Batch) -> None:
    """Read the specs of jobs that are no longer frozen from the log: a copy has none."""
    specs: dict[int, bytes] = {}
    for status, _ in batch.released.values():
        record = await log.read_at(status.spec_sequence)
        read = read_record(record) if record is not None else None
        if not (isinstance(read, Recorded) and isinstance(read.event.data, SpecData)):
            raise LogDamaged(
                f"event {status.spec_sequence} of the log can't be read again", sequence=status.spec_sequence
            )
        specs[status.spec_sequence] = bytes(read.event.data.spec)
    resolve_released(batch, specs)


async def _fold_on(
    view: ViewWriter, batch: Batch | None, records: Sequence[Record], ids: BloomFilter | None
) -> Batch:
    events = read_events(records)
    await asyncio.sleep(0)  # others have their turn meanwhile
    jobs = job_ids_in(events)
    if batch is not None:
        jobs -= batch.statuses.keys()
    if ids is not None:
        created = {
            event.event.subject
            for event in events
            if isinstance(event, Recorded) and isinstance(event.event, JobCreated)
        }
        new = {job_id for job_id in created & jobs if job_id not in ids}
        for job_id in new:
            ids.add(job_id)
        jobs -= new
    batch = fold_batch(events, await view.statuses(jobs), onto=batch)
    batch.last_time = records[-1].time
    batch.specs.clear()  # a copy has none, nor anomalies
    batch.anomalies.clear()
    return batch


T = TypeVar("T")


async def in_thread(work: Callable[[EventLog], Coroutine[Any, Any, T]], log: EventLog, *, name: str) -> T:
    """The result of a coroutine that runs in a thread of its own.

    Args:
        work: makes the coroutine; it gets a log that can be used there, to read and to follow.
        log: of the loop that calls.
        name: of the thread.

    Raises:
        Exception: whatever the coroutine raises.
    """
    distant = cast("EventLog", _DistantLog(log, asyncio.get_running_loop()))
    errand = _Errand(lambda: work(distant))
    threading.Thread(target=errand.run, name=name, daemon=True).start()
    try:
        return await asyncio.shield(errand.ended)
    except asyncio.CancelledError:
        errand.cancel()
        await asyncio.wait({errand.ended})
        raise


class _Errand(Generic[T]):
    """A coroutine that another thread runs for this loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._home = asyncio.get_running_loop()
        self._lock = threading.Lock()  # of the next two
        self._is_cancelled = False
        self._task: asyncio.Task[T] | None = None
        self.ended: asyncio.Future[T] = self._home.create_future()

    def run(self) -> None:
        """Run it, in the thread."""
        result: T | None = None
        error: BaseException | None = None
        try:
            result = asyncio.run(self._begin())
        except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
            error = raised
        with suppress(RuntimeError):  # the loop at home was closed: nobody waits
            self._home.call_soon_threadsafe(self._settle, result, error)

    def cancel(self) -> None:
        """Let it end; `ended` says when it has."""
        with self._lock:
            self._is_cancelled = True
            if self._task is not None and not self.ended.done():
                with suppress(RuntimeError):  # its loop has just ended
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _begin(self) -> T:
        with self._lock:
            self._task = cast("asyncio.Task[T]", asyncio.current_task())
            if self._is_cancelled:
                raise asyncio.CancelledError
        return await self._work()

    def _settle(self, result: T | None, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(cast("T", result))
        elif isinstance(error, asyncio.CancelledError):
            self.ended.cancel()
        else:
            self.ended.set_exception(error)


class _Distant:
    """Lets a coroutine of another loop be awaited in this one."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        self._home = home

    async def _at_home(self, asked: Callable[[], Awaitable[T]]) -> T:
        async def ask() -> T:
            return await asked()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self._home))


class _DistantLog(_Distant):
    """What a build uses of a log that lives in another loop; see `EventLog`."""

    def __init__(self, log: EventLog, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(home)
        self._log = log

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        return await self._at_home(lambda: self._log.read(subject, after=after, up_to=up_to))

    async def read_last(self, subject: str) -> Record | None:
        return await self._at_home(lambda: self._log.read_last(subject))

    async def follow(self, *, after: int, epoch: str | None = None) -> "_DistantFeed":
        feed = await self._at_home(lambda: self._log.follow(after=after, epoch=epoch))
        return _DistantFeed(feed, self._home)


class _DistantFeed(_Distant):
    """What a build uses of a feed that lives in another loop; see `LogReader`."""

    def __init__(self, feed: LogReader, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(home)
        self._feed = feed

    async def take(self, max_records: int) -> Sequence[Record]:
        return await self._at_home(lambda: self._feed.take(max_records))

    async def close(self) -> None:
        await self._at_home(self._feed.close)
