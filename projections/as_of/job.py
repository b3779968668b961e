"""One job as of a point: its events up to the point, folded. The cost is one read of the job's subject."""

from collections.abc import AsyncIterator

from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobNotFound
from jobledger.store.model.events import Record, read_record
from jobledger.store.model.fold import fold_job_on, last_read
from jobledger.store.model.history import build_history_item
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.subjects import job_subject
from jobledger.store.timestamps import format_rfc3339


async def records_as_of(
    log: EventLog, status: JobStatus, sequence: int, *, last: int
) -> AsyncIterator[Record]:
    """A job's records up to a sequence, oldest first.

    Args:
        log: the log.
        status: of the job, at any time.
        sequence: the point.
        last: the sequence of one of the job's records at or after the point, or of its last one: a replica
            that does not have it lags, and is waited for.
    """
    subject = job_subject(status.namespace, status.id)
    async for record in records_between(log, subject, after=0, up_to=last):
        if record.sequence > sequence:
            return
        yield record


async def job_as_of(log: EventLog, present: Job, sequence: int, *, checkpoint: int) -> Job:
    """A job as of a sequence.

    Args:
        log: the log.
        present: the job in the view.
        sequence: the point.
        checkpoint: the view's checkpoint when `present` was read, or an earlier one.
    """
    status = present.status
    if last_read(status) <= sequence <= checkpoint and status.quarantine is None:
        return present  # unchanged since the point
    job: Job | None = None
    last = await last_sequence_of(log, status, sequence)
    async for record in records_as_of(log, status, sequence, last=last):
        job = fold_job_on(job, read_record(record))
    if job is None or job.status.is_lost:
        raise did_not_exist(status, sequence)
    return job


async def last_sequence_of(log: EventLog, status: JobStatus, sequence: int) -> int:
    """The `last` argument of `records_as_of` for a point.

    Args:
        log: the log.
        status: of the job, in the view.
        sequence: the point.
    """
    if status.sequence >= sequence:
        return status.sequence
    last = await log.read_last(job_subject(status.namespace, status.id))
    return last.sequence if last is not None else status.sequence


async def sequence_of_revision(log: EventLog, status: JobStatus, revision: int) -> int:
    """The sequence of the event that created a revision of a job."""
    subject = job_subject(status.namespace, status.id)
    last = await log.read_last(subject)
    if last is not None:
        before: JobStatus | None = None
        async for record in records_between(log, subject, after=0, up_to=last.sequence):
            item, before = build_history_item(record, before)
            if item.revision == revision and not (item.anomaly or item.quarantine):
                return record.sequence
    raise JobNotFound(
        f"job {status.id} has no revision {revision}; its current revision is {status.revision}, and its"
        " history lists all revisions"
    )


def did_not_exist(status: JobStatus, sequence: int, time: int | None = None) -> JobNotFound:
    """The error for a job that did not exist yet at a point.

    Args:
        status: of the job.
        sequence: the point.
        time: the point as Unix nanoseconds, if it was requested as a time; the message then has times.
    """
    at, created = f"the sequence {sequence}", ""
    if time is not None:
        at, created = format_rfc3339(time), f" at {format_rfc3339(status.create_time)}"
    return JobNotFound(
        f"job {status.id} did not exist at {at}: it was created{created} by event {status.created_sequence}"
    )
