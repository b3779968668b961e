"""One job as of a point: its own events up to there, folded. It costs the read of one subject."""

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
        sequence: the last that counts.
        last: of the job's records, one at `sequence` or behind it, or the very last: it is how a replica that
            lags is known, and waited for.

    Raises:
        LogUnavailable: if the log can't be read.
    """
    subject = job_subject(status.namespace, status.id)
    async for record in records_between(log, subject, after=0, up_to=last):
        if record.sequence > sequence:
            return
        yield record


async def job_as_of(log: EventLog, present: Job, sequence: int, *, checkpoint: int) -> Job:
    """A job as it was when the log ended at a sequence.

    Args:
        log: the log.
        present: the job as the view has it.
        sequence: the point.
        checkpoint: how far the view was when it was asked, or less.

    Raises:
        JobNotFound: if it did not exist yet.
        LogUnavailable: if the log can't be read.
    """
    status = present.status
    if last_read(status) <= sequence <= checkpoint and status.quarantine is None:
        return present  # nothing has happened to it since
    job: Job | None = None
    last = await last_sequence_of(log, status, sequence)
    async for record in records_as_of(log, status, sequence, last=last):
        job = fold_job_on(job, read_record(record))
    if job is None or job.status.is_lost:
        raise did_not_exist(status, sequence)
    return job


async def last_sequence_of(log: EventLog, status: JobStatus, sequence: int) -> int:
    """A job's record to read up to, to have all up to a sequence: one behind it, else the last there is.

    Args:
        log: the log.
        status: of the job, as the view has it.
        sequence: up to which all is wanted.
    """
    if status.sequence >= sequence:
        return status.sequence
    last = await log.read_last(job_subject(status.namespace, status.id))
    return last.sequence if last is not None else status.sequence


async def sequence_of_revision(log: EventLog, status: JobStatus, revision: int) -> int:
    """The sequence of the event that made a revision of a job.

    Args:
        log: the log.
        status: of the job, as the view has it.
        revision: from 1.

    Raises:
        JobNotFound: if the job has no such revision.
        LogUnavailable: if the log can't be read.
    """
    subject = job_subject(status.namespace, status.id)
    last = await log.read_last(subject)
    if last is not None:
        before: JobStatus | None = None
        async for record in records_between(log, subject, after=0, up_to=last.sequence):
            item, before = build_history_item(record, before)
            if item.revision == revision and not (item.anomaly or item.quarantine):
                return record.sequence
    raise JobNotFound(
        f"job {status.id} has no revision {revision}; it is at revision {status.revision}, and its history"
        " tells them all"
    )


def did_not_exist(status: JobStatus, sequence: int, time: int | None = None) -> JobNotFound:
    """The error for a job that exists, but did not at the point that is asked about.

    Args:
        status: of the job.
        sequence: the point.
        time: Unix nanoseconds, if a time was asked about: then the error speaks of times.
    """
    at, created = f"the sequence {sequence}", ""
    if time is not None:
        at, created = format_rfc3339(time), f" at {format_rfc3339(status.create_time)}"
    return JobNotFound(
        f"job {status.id} did not exist at {at}: it was created{created} by event {status.created_sequence}"
    )
