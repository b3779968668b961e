"""Beginning a copy with the live view: what has not changed since the point is in it as it was then.

A job's row at a point follows from the job's own events up to there. So the rows of all jobs that no event
has changed since are taken over as they are, by SQLite alone, and only the others are folded: each from its
own subject if they are few, else the log from the oldest of them on. (Folding an event that a row has already
is harmless.) In a log whose jobs end some time, few are left at any point, and they are not old.
"""

import asyncio
from pathlib import Path
from typing import Final

from jobledger.projections.as_of.job import records_as_of
from jobledger.projections.batch import Batch, fold_batch, read_all
from jobledger.projections.database import Writer, attach_statement
from jobledger.projections.limits import ASOF_EVENTS_PER_JOB_READ, ASOF_READS, ASOF_READS_MAX_JOBS
from jobledger.projections.rows import JOB_COLUMNS, STATUS_COLUMNS, lost_status_of, status_of
from jobledger.projections.writer import ViewWriter
from jobledger.store.log import EventLog
from jobledger.store.model.events import Record
from jobledger.store.model.fold import last_read
from jobledger.store.model.job import JobStatus

_COLUMNS: Final = ", ".join(JOB_COLUMNS)
# A frozen job's row says what it is now: what it was at a point, only its events say.
_CHANGED: Final = (
    "FROM live.jobs WHERE created_sequence <= ?1 AND (sequence > ?1 OR passed > ?1 OR quarantine != '')"
)
_COUNT_LOST: Final = "SELECT count(*), coalesce(min(sequence), ?1 + 1) FROM live.lost_jobs WHERE sequence > 0"
_READ_LOST: Final = (
    "SELECT namespace, id, sequence, passed, quarantine FROM live.lost_jobs WHERE sequence > 0"
)
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
    batch = Batch({}, {}, {}, [], [], {}, 0)
    for start in range(0, len(statuses), ASOF_READS):
        some = statuses[start : start + ASOF_READS]
        for records in await asyncio.gather(*(_prefix(log, status, up_to) for status in some)):
            if records:
                fold_batch(read_all(records), {}, onto=batch)
            batch.specs.clear()
    batch.anomalies.clear()
    batch.last_sequence = up_to if by_job or not changed else oldest - 1
    await view.write(batch)
    return True


async def _prefix(log: EventLog, status: JobStatus, up_to: int) -> list[Record]:
    return [record async for record in records_as_of(log, status, up_to, last=last_read(status))]
