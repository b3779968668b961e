"""What jobs became by the events that a reader of the log meets, wherever in the log it begins.

Revision, version and state of an event follow from all events of its job before it. A reader that began in
the middle, or forgot a job since, reads that job's own events from the log, up to the event: the one fold
(`store/fold`) does the rest. No view is asked, so nothing here can lag behind the events.

    records ─► which jobs are not remembered? ─► read those from the log, several at once ─► fold in order

What is remembered is bounded (`remembering`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

from jobledger.projections.limits import (
    FOLDER_MAX_BYTES,
    FOLDER_MAX_JOBS,
    FOLDER_MAX_NUMBERS,
    FOLDER_READS,
)
from jobledger.projections.subscribing.remembering import Known, Memory, NumberMemory, WholeMemory
from jobledger.store.events import JobEvent, Record, Recorded, Unreadable, read_record
from jobledger.store.fold import Anomaly, fold, fold_job
from jobledger.store.job import Job, JobStatus
from jobledger.store.jobs import records_between
from jobledger.store.log import EventLog
from jobledger.store.subjects import NAMELESS_JOB_ID, job_subject_anywhere


class FoldedEvent(NamedTuple, Generic[Known]):
    """One event that changed a job.

    Attributes:
        record: as the log has it.
        event: what it says.
        before: the job right before it; None: it came to be by this event.
        after: the job right after it.
    """

    record: Record
    event: JobEvent
    before: Known | None
    after: Known


class Folder(Generic[Known]):
    """Folds what one reader reads; made by `status_folder`, `job_folder` or `number_folder`.

    Attributes:
        anomalies: records so far that changed no job: no events of ours, or events that make no sense.
    """

    def __init__(
        self,
        log: EventLog,
        step: Callable[[Known | None, Recorded | Unreadable], Known | Anomaly],
        memory: Memory[Known],
        *,
        from_first: bool,
    ) -> None:
        self.anomalies = 0
        self._log = log
        self._step: Callable[[Known | None, Recorded | Unreadable], Known | Anomaly] = step
        self._memory: Memory[Known] = memory
        self._from_first = from_first

    async def fold(self, records: Sequence[Record]) -> list[FoldedEvent[Known]]:
        """The records that changed jobs, with the jobs before and after.

        Args:
            records: in the order of the log, after those of the last call. After an error the same ones can
                be given again.

        Raises:
            LogUnavailable: if the log can't be read.
            UnknownEventType: if a newer release wrote one of them.
        """
        read = [read_record(record) for record in records]
        known = await self._before(records, read)
        return self._fold_on(records, read, known)

    def _fold_on(
        self,
        records: Sequence[Record],
        read: Sequence[Recorded | Unreadable],
        known: dict[str, Known],
    ) -> list[FoldedEvent[Known]]:
        step, told = self._step, []
        for record, recorded in zip(records, read, strict=True):
            if isinstance(recorded, Unreadable):
                self.anomalies += 1
                continue
            event = recorded.event
            before = known.get(event.subject)
            after = step(before, recorded)
            if isinstance(after, Anomaly):
                self.anomalies += 1
            elif after is not before:
                known[event.subject] = after
                told.append(FoldedEvent(record, event, before, after))
        self._memory.put_all(known)
        return told

    async def _before(
        self, records: Sequence[Record], read: Sequence[Recorded | Unreadable]
    ) -> dict[str, Known]:
        """The job of each record, as it was before the first record of it."""
        known: dict[str, Known] = {}
        missing: dict[str, tuple[str, int]] = {}  # by where it is read
        memory = self._memory
        for record, recorded in zip(records, read, strict=True):
            if isinstance(recorded, Unreadable):
                continue
            job_id = recorded.event.subject
            if job_id in known:
                continue
            found = memory.take(job_id)
            if found is not None:
                known[job_id] = found
            elif not self._from_first or memory.may_have_forgotten(job_id):
                missing.setdefault(_where(record, job_id), (job_id, record.sequence))
        if missing:
            try:
                known.update(await self._read_all(missing))
            except BaseException:
                memory.put_all(known)  # these were not folded
                raise
        return known

    async def _read_all(self, missing: dict[str, tuple[str, int]]) -> dict[str, Known]:
        turns = asyncio.Semaphore(FOLDER_READS)

        async def read(subject: str, sequence: int) -> Known | None:
            async with turns:
                return await self._read_job(subject, sequence)

        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                for subject, (job_id, sequence) in missing.items():
                    tasks.append((job_id, group.create_task(read(subject, sequence))))
        except BaseExceptionGroup as failed:  # the first tells enough
            raise failed.exceptions[0] from None
        return {job_id: found for job_id, task in tasks if (found := task.result()) is not None}

    async def _read_job(self, subject: str, sequence: int) -> Known | None:
        """The job right before one of its events; up to that one is read, so a lagging replica is seen."""
        status: Known | None = None
        async for record in records_between(self._log, subject, after=0, up_to=sequence):
            if record.sequence < sequence:
                folded = self._step(status, read_record(record))
                if not isinstance(folded, Anomaly):
                    status = folded
        return status


def status_folder(
    log: EventLog,
    *,
    from_first: bool,
    max_jobs: int = FOLDER_MAX_JOBS,
    max_bytes: int = FOLDER_MAX_BYTES,
) -> Folder[JobStatus]:
    """Folds what is known of jobs without their specs.

    Args:
        log: where jobs that are not remembered are read.
        from_first: whether every record of the jobs that are met, from the log's first one on, is handed in:
            a job that was never met does not exist then, and need not be looked for.
        max_jobs: remembered.
        max_bytes: of those, about.
    """
    memory = WholeMemory(_status, max_jobs, max_bytes)
    return Folder(log, fold, memory, from_first=from_first)


def job_folder(
    log: EventLog,
    *,
    from_first: bool,
    max_jobs: int = FOLDER_MAX_JOBS,
    max_bytes: int = FOLDER_MAX_BYTES,
) -> Folder[Job]:
    """Folds whole jobs, with their specs.

    Args:
        log: where jobs that are not remembered are read.
        from_first: as of `status_folder`; so are the others.
        max_jobs: remembered.
        max_bytes: of those, about.
    """
    memory = WholeMemory(_status_of_job, max_jobs, max_bytes)
    return Folder(log, fold_job, memory, from_first=from_first)


def number_folder(
    log: EventLog, *, from_first: bool, max_jobs: int = FOLDER_MAX_NUMBERS
) -> Folder[JobStatus]:
    """Folds revisions, versions and types of states, of many more jobs: all else of a status means nothing.

    Args:
        log: where jobs that are not remembered are read.
        from_first: as of `status_folder`.
        max_jobs: remembered.
    """
    return Folder(log, fold, NumberMemory(max_jobs), from_first=from_first)


def _status(status: JobStatus) -> JobStatus:
    return status


def _status_of_job(job: Job) -> JobStatus:
    return job.status


def _where(record: Record, job_id: str) -> str:
    """Where the events of a record's job are read.

    The id of a job without a name says nothing of its namespace, so writers of other ones may put events for
    it on subjects of their own. The job is where an event first created one, as in every view.
    """
    return job_subject_anywhere(job_id) if NAMELESS_JOB_ID.fullmatch(job_id) else record.subject
