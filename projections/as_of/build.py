"""Building a snapshot: a view as of one sequence, from the live view or another snapshot, and the log.

A snapshot has no specs: the live view keeps every spec by the sequence of its event, and specs never change.
An unfinished file is worthless, so nothing is synced, and the indexes that only lists need are created last.

A build runs in a thread with its own event loop, so that folding does not delay requests:

    the serving loop                        the thread's loop
    log (its connection lives here)  ◄────  `_RemoteLog`: requests, returns records
    `run_in_thread` waits                   folds records, writes the snapshot
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
from jobledger.store.log import EventLog, LogInfo, LogReader
from jobledger.store.model.errors import LogDamaged
from jobledger.store.model.events import JobCreated, Record, Recorded, SpecData, read_record
from jobledger.store.model.fold import last_read
from jobledger.store.model.job import JobStatus

_COLUMNS: Final = ", ".join(JOB_COLUMNS)
# The row of a job in quarantine has its present state; its state at a point follows only from its events.
_CHANGED: Final = (
    "FROM live.jobs WHERE created_sequence <= ?1 AND (sequence > ?1 OR passed > ?1 OR quarantine != '')"
)
_COUNT_LOST: Final = "SELECT count(*), coalesce(min(sequence), ?1 + 1) FROM live.lost_jobs WHERE sequence > 0"
_READ_LOST: Final = f"SELECT {', '.join(LOST_COLUMNS)} FROM live.lost_jobs WHERE sequence > 0"
_COUNT_CHANGED: Final = f"SELECT count(*), coalesce(min(created_sequence), ?1 + 1) {_CHANGED}"
_READ_CHANGED: Final = f"SELECT {', '.join(STATUS_COLUMNS)} {_CHANGED}"
_COPY_JOBS: Final = (
    f"INSERT INTO main.jobs ({_COLUMNS}) SELECT {_COLUMNS} FROM live.jobs"
    " WHERE created_sequence <= ?1 AND sequence <= ?1 AND passed <= ?1 AND quarantine = ''"
    " ORDER BY created_sequence"
)
_COPY_LABELS: Final = (
    "INSERT INTO main.labels (created_sequence, key, value) SELECT created_sequence, key, value"
    " FROM live.labels WHERE created_sequence IN (SELECT created_sequence FROM main.jobs)"
    " ORDER BY key, value, created_sequence"
)
_LIST_INDEXES: Final = (
    "SELECT name, sql FROM main.sqlite_schema"
    " WHERE type = 'index' AND tbl_name = 'jobs' AND name != 'jobs_id' AND sql IS NOT NULL"
)
_NEXT_IDS: Final = (
    "SELECT created_sequence, id FROM main.jobs WHERE created_sequence > ? ORDER BY created_sequence LIMIT ?"
)

T = TypeVar("T")


class BuildInputs(NamedTuple):
    """The sources of a snapshot.

    Attributes:
        log: the events.
        epoch: of the log.
        live: the live view's file.
        base: the nearest snapshot at or before the point; None if there is none.
        base_sequence: the point of that snapshot; 0 without one.
    """

    log: EventLog
    epoch: str
    live: Path
    base: Path | None
    base_sequence: int


async def build_snapshot(
    path: Path, up_to: int, inputs: BuildInputs, on_progress: Callable[[int], None]
) -> None:
    """Create the file of a snapshot with the cheaper of two methods: from the live view, or from `base`.

    Args:
        path: of the new file; if the build fails, the caller removes it.
        up_to: the point; the log and the live view have reached it.
        inputs: the sources.
        on_progress: called repeatedly with the sequence reached.

    Raises:
        ViewError: if a file cannot be read or written.
        LogUnavailable: if the log does not answer.
        LogBroken: if the log was replaced or lost events.
    """
    distance = up_to - inputs.base_sequence
    is_seeded = inputs.base is None or distance > ASOF_NEAR_MAX_EVENTS
    if is_seeded:
        async with open_snapshot(path, inputs.epoch, late_indexes=True) as (writer, view):
            is_seeded = await _seed(inputs, view, writer, up_to=up_to, max_events=distance)
            if is_seeded:
                await _fold(view, inputs, up_to, on_progress, await _job_ids(writer, view, up_to))
    if not is_seeded:
        assert inputs.base is not None  # without a base, seeding always pays
        await asyncio.to_thread(shutil.copyfile, inputs.base, path)
        late = distance >= ASOF_LATE_INDEX_EVENTS
        async with open_snapshot(path, inputs.epoch, late_indexes=late) as (writer, view):
            await _fold(view, inputs, up_to, on_progress, await _job_ids(writer, view, up_to))


@asynccontextmanager
async def open_snapshot(
    path: Path, epoch: str, *, late_indexes: bool
) -> AsyncIterator[tuple[Writer, ViewWriter]]:
    """Open a snapshot for writing; with `late_indexes`, list indexes are created when the block ends."""
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


# --- from the live view -------------------------------------------------------------------------------------


async def _seed(
    inputs: BuildInputs, view: ViewWriter, writer: Writer, *, up_to: int, max_events: int
) -> bool:
    """Start an empty snapshot from the live view; the log is then folded from `view.sequence`.

    A job's row at a point follows from the job's own events up to it. So SQLite copies the rows of jobs that
    did not change since the point. The others are folded: from their own subjects if they are few, otherwise
    from the log, starting at the oldest of them. Folding an event that a row already has is harmless.

    Returns False, with the snapshot still empty, if this costs more than folding `max_events` from `base`.
    """
    statuses: list[JobStatus] = []
    await writer.execute(attach_statement(inputs.live))
    try:
        async with writer.transaction():  # one snapshot of the live view
            [(changed, oldest)] = await writer.rows(_COUNT_CHANGED, (up_to,))
            [(lost, oldest_lost)] = await writer.rows(_COUNT_LOST, (up_to,))
            changed, oldest = changed + lost, min(oldest, oldest_lost)
            span, reads = up_to + 1 - oldest, changed * ASOF_EVENTS_PER_JOB_READ
            if min(span, reads) > max_events:
                return False
            await writer.execute(_COPY_JOBS, (up_to,))
            await writer.execute(_COPY_LABELS)
            by_job = reads < span and changed <= ASOF_READS_MAX_JOBS
            if by_job:
                statuses = [status_of(row) for row in await writer.rows(_READ_CHANGED, (up_to,))]
                statuses += [lost_status_of(row) for row in await writer.rows(_READ_LOST)]
    finally:
        await writer.execute("DETACH DATABASE live")
    batch = Batch()
    for start in range(0, len(statuses), ASOF_READS):
        some = statuses[start : start + ASOF_READS]
        for records in await asyncio.gather(*(_history(inputs.log, status, up_to) for status in some)):
            if records:
                fold_batch(read_events(records), {}, onto=batch)
            batch.specs.clear()
    batch.anomalies.clear()
    batch.last_sequence = up_to if by_job or not changed else oldest - 1
    await view.write(batch)
    return True


async def _history(log: EventLog, status: JobStatus, up_to: int) -> list[Record]:
    return [record async for record in records_as_of(log, status, up_to, last=last_read(status))]


# --- from the log -------------------------------------------------------------------------------------------


async def _job_ids(writer: Writer, view: ViewWriter, up_to: int) -> BloomFilter | None:
    """The ids of a snapshot's jobs, if there is much to fold: new jobs then need no lookup in the file."""
    if up_to - view.sequence < ASOF_LATE_INDEX_EVENTS:
        return None
    ids, after = BloomFilter(), 0
    while rows := await writer.rows(_NEXT_IDS, (after, ASOF_FOLD_EVENTS)):
        for _, job_id in rows:
            ids.add(job_id)
        after = rows[-1][0]
    return ids


async def _fold(
    view: ViewWriter,
    inputs: BuildInputs,
    up_to: int,
    on_progress: Callable[[int], None],
    ids: BloomFilter | None,
) -> None:
    """Fold the log up to the point, in large batches: only the last state of a job is written."""
    if view.sequence >= up_to:
        return
    log_reader = await inputs.log.follow(after=view.sequence, epoch=inputs.epoch)
    writing: asyncio.Task[None] | None = None
    batch: Batch | None = None
    size, reached = 0, view.sequence
    try:
        while reached < up_to:
            records = await log_reader.take(ASOF_FOLD_EVENTS)
            reached = records[-1].sequence
            if reached > up_to:
                records = [record for record in records if record.sequence <= up_to]
            if records:
                batch = await _fold_onto(view, batch, records, ids)
                size += sum(len(record.payload) for record in records)
            on_progress(min(reached, up_to))
            is_full = size >= ASOF_BATCH_BYTES or (batch and len(batch.statuses) >= ASOF_BATCH_JOBS)
            if batch is not None and (is_full or reached >= up_to):
                if writing is not None:
                    await writing
                await _resolve_released(inputs.log, batch)
                view.remember(batch.statuses)
                writing = asyncio.create_task(view.write(batch))  # while the next batch is folded
                batch, size = None, 0
        if writing is not None:
            await writing
    finally:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await log_reader.close()


async def _fold_onto(
    view: ViewWriter, batch: Batch | None, records: Sequence[Record], ids: BloomFilter | None
) -> Batch:
    events = read_events(records)
    await asyncio.sleep(0)  # yield between decoding and folding
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
    batch.specs.clear()  # a snapshot has neither specs nor anomalies
    batch.anomalies.clear()
    return batch


async def _resolve_released(log: EventLog, batch: Batch) -> None:
    """Read the specs of jobs that left quarantine from the log, because a snapshot has none."""
    specs: dict[int, bytes] = {}
    for status, _ in batch.released.values():
        record = await log.read_at(status.spec_sequence)
        read = read_record(record) if record is not None else None
        if not (isinstance(read, Recorded) and isinstance(read.event.data, SpecData)):
            raise LogDamaged(
                f"event {status.spec_sequence} of the log can no longer be read",
                sequence=status.spec_sequence,
            )
        specs[status.spec_sequence] = bytes(read.event.data.spec)
    resolve_released(batch, specs)


# --- in a thread --------------------------------------------------------------------------------------------


async def run_in_thread(work: Callable[[EventLog], Coroutine[Any, Any, T]], log: EventLog, *, name: str) -> T:
    """Run a coroutine in a new thread with its own event loop.

    Cancellation cancels the coroutine, and waits until it has closed its files.

    Args:
        work: creates the coroutine from a log that is usable in the thread, for reads only.
        log: of the calling loop.
        name: of the thread.

    Raises:
        Exception: any that the coroutine raises.
    """
    remote = cast("EventLog", _RemoteLog(log, asyncio.get_running_loop()))
    task = _ThreadTask(lambda: work(remote))
    threading.Thread(target=task.run, name=name, daemon=True).start()
    try:
        return await asyncio.shield(task.ended)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task.ended})
        raise


class _ThreadTask(Generic[T]):
    """A coroutine that another thread runs; `ended` is a future of the creating loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._home = asyncio.get_running_loop()
        self._lock = threading.Lock()  # protects the next two
        self._is_cancelled = False
        self._task: asyncio.Task[T] | None = None
        self.ended: asyncio.Future[T] = self._home.create_future()

    def run(self) -> None:
        """Run the coroutine; called in the thread."""
        result: T | None = None
        error: BaseException | None = None
        try:
            result = asyncio.run(self._begin())
        except BaseException as raised:  # noqa: BLE001 - raised where the result is awaited
            error = raised
        with suppress(RuntimeError):  # the home loop is closed: nothing waits for the result
            self._home.call_soon_threadsafe(self._finish, result, error)

    def cancel(self) -> None:
        """Cancel the coroutine; `ended` is done when it has finished."""
        with self._lock:
            self._is_cancelled = True
            if self._task is not None and not self.ended.done():
                with suppress(RuntimeError):  # its loop has just closed
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _begin(self) -> T:
        with self._lock:
            self._task = cast("asyncio.Task[T]", asyncio.current_task())
            if self._is_cancelled:
                raise asyncio.CancelledError
        return await self._work()

    def _finish(self, result: T | None, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(cast("T", result))
        elif isinstance(error, asyncio.CancelledError):
            self.ended.cancel()
        else:
            self.ended.set_exception(error)


class _Remote:
    """Awaits coroutines of the home loop in another loop."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        self._home = home

    async def _call(self, function: Callable[[], Awaitable[T]]) -> T:
        async def call() -> T:
            return await function()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._home))


class _RemoteLog(_Remote):
    """The reads of an `EventLog` in another loop."""

    def __init__(self, log: EventLog, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(home)
        self._log = log

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        return await self._call(lambda: self._log.read(subject, after=after, up_to=up_to))

    async def read_last(self, subject: str) -> Record | None:
        return await self._call(lambda: self._log.read_last(subject))

    async def read_at(self, sequence: int) -> Record | None:
        return await self._call(lambda: self._log.read_at(sequence))

    async def info(self) -> LogInfo:
        return await self._call(self._log.info)

    async def follow(self, *, after: int, epoch: str | None = None) -> "_RemoteLogReader":
        log_reader = await self._call(lambda: self._log.follow(after=after, epoch=epoch))
        return _RemoteLogReader(log_reader, self._home)


class _RemoteLogReader(_Remote):
    """A `LogReader` in another loop."""

    def __init__(self, log_reader: LogReader, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(home)
        self._log_reader = log_reader

    async def take(self, max_records: int) -> Sequence[Record]:
        return await self._call(lambda: self._log_reader.take(max_records))

    async def close(self) -> None:
        await self._call(self._log_reader.close)
