"""Making a copy of the view as of one sequence: from the live view, or from another copy, and the log.

A copy has no specs: every spec that there ever was is in the live view, by the sequence that brought it, and
never changes. A file that is not finished is worth nothing, so nothing is synced, and the indexes that only
lists need are made at the end.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from jobledger.projections.as_of.seed import seed_copy
from jobledger.projections.batch import Batch, fold_batch, jobs_named, read_all, resolve_thawed
from jobledger.projections.database import Writer
from jobledger.projections.limits import (
    ASOF_BATCH_BYTES,
    ASOF_BATCH_JOBS,
    ASOF_FOLD_EVENTS,
    ASOF_LATE_INDEX_EVENTS,
    ASOF_NEAR_MAX_EVENTS,
)
from jobledger.projections.subscriptions.state_tracker import BloomFilter
from jobledger.projections.writer import ViewWriter
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogDamaged
from jobledger.store.model.events import JobCreated, Record, Recorded, SpecData, read_record

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
    view = await ViewWriter.over(writer, specs=False)
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
                await _resolve_thawed(of.log, batch)
                view.remember(batch.statuses)
                writing = asyncio.create_task(view.write(batch))  # the next one is folded meanwhile
                batch, size = None, 0
        if writing is not None:
            await writing
    finally:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await feed.close()


async def _resolve_thawed(log: EventLog, batch: Batch) -> None:
    """Read the specs of jobs that are no longer frozen from the log: a copy has none."""
    specs: dict[int, bytes] = {}
    for status, _ in batch.thawed.values():
        record = await log.read_at(status.spec_sequence)
        read = read_record(record) if record is not None else None
        if not (isinstance(read, Recorded) and isinstance(read.event.data, SpecData)):
            raise LogDamaged(
                f"event {status.spec_sequence} of the log can't be read again", sequence=status.spec_sequence
            )
        specs[status.spec_sequence] = bytes(read.event.data.spec)
    resolve_thawed(batch, specs)


async def _fold_on(
    view: ViewWriter, batch: Batch | None, records: Sequence[Record], ids: BloomFilter | None
) -> Batch:
    events = read_all(records)
    await asyncio.sleep(0)  # others have their turn meanwhile
    jobs = jobs_named(events)
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
