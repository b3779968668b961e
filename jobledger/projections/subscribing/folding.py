"""What jobs became by the events that a reader of the log meets, wherever in the log it begins.

Revision, version and state of an event follow from all events of its job before it. A reader that began in
the middle, or forgot a job since, reads that job's own events from the log, up to the event: the one fold
(`store/fold`) does the rest. No view is asked, so nothing here can lag behind the events.

    records ─► which jobs are not remembered? ─► read those from the log, several at once ─► fold in order

What is remembered is bounded (`remembering`). A job's events lie all over the log, and the server looks for
each of them, so reading one job costs as much as reading some FOLDER_SCAN_FACTOR records in a row. Once the
jobs that were read have cost as much as the whole log up to here, that is read in a row, once: whoever begins
in the middle of a long log is so never slower than twice the better of the two ways.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, Generic, NamedTuple

from jobledger.projections.limits import (
    FOLDER_MAX_BYTES,
    FOLDER_MAX_JOBS,
    FOLDER_MAX_NUMBERS,
    FOLDER_READS,
    FOLDER_SCAN_FACTOR,
)
from jobledger.projections.subscribing.remembering import Known, Memory, NumberMemory, WholeMemory
from jobledger.store.errors import UnknownEventType
from jobledger.store.events import JobEvent, Record, Recorded, Unreadable, read_record
from jobledger.store.fold import Anomaly, fold, fold_job
from jobledger.store.job import Job, JobStatus
from jobledger.store.jobs import records_between
from jobledger.store.limits import READ_PAGE_EVENTS
from jobledger.store.log import EventLog
from jobledger.store.subjects import NAMELESS_JOB_ID, job_subject_anywhere, namespace_subjects


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


class Scope(NamedTuple):
    """Which records a reader can meet.

    Attributes:
        subjects: the log's filter for them.
        covers: whether one that passes that is among them.
    """

    subjects: str
    covers: Callable[[Record], bool]


_EVERYTHING: Final = Scope(namespace_subjects(None), lambda _: True)


class Folder(Generic[Known]):
    """Folds what one reader reads; made by `status_folder`, `job_folder` or `number_folder`.

    Attributes:
        anomalies: records so far that changed no job: no events of ours, or events that make no sense.
    """

    def __init__(
        self,
        log: EventLog,
        step: Callable[[Known | None, Recorded | Unreadable], Known | Anomaly],
        remember: Callable[[], Memory[Known]],
        *,
        from_first: bool,
        scope: Scope,
    ) -> None:
        self.anomalies = 0
        self._log = log
        self._step: Callable[[Known | None, Recorded | Unreadable], Known | Anomaly] = step
        self._remember: Callable[[], Memory[Known]] = remember
        self._memory: Memory[Known] = remember()
        self._from_first = from_first
        self._scope = scope
        self._reads = 0  # of jobs
        self._may_scan = not from_first

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
        known, missing = self._take(records, read)
        try:
            if missing and await self._scan_if_cheaper(records[0].sequence, len(missing)):
                known, missing = self._take(records, read)
            if missing:
                known.update(await self._read_all(missing))
                self._reads += len(missing)
        except BaseException:
            self._memory.put_all(known)  # these were not folded
            raise
        return known

    def _take(
        self, records: Sequence[Record], read: Sequence[Recorded | Unreadable]
    ) -> tuple[dict[str, Known], dict[str, tuple[str, int]]]:
        """The jobs that are remembered, and the others: id, and first sequence, by where they are read."""
        known: dict[str, Known] = {}
        missing: dict[str, tuple[str, int]] = {}
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
        return known, missing

    async def _scan_if_cheaper(self, sequence: int, missing: int) -> bool:
        """Read all that was before a sequence, if that is cheaper than so many jobs more, one by one."""
        if not self._may_scan or (self._reads + missing) * FOLDER_SCAN_FACTOR < sequence:
            return False
        memory = self._remember()
        try:
            await self._scan(memory, sequence - 1)
        except UnknownEventType:  # of a job that the reader may never meet
            self._may_scan = False
            return False
        self._memory, self._from_first, self._may_scan = memory, True, False
        return True

    async def _scan(self, memory: Memory[Known], up_to: int) -> None:
        """Fold all records in scope up to a sequence into a memory."""
        last = await self._log.read_last(self._scope.subjects)
        if last is None:
            return
        covers, page = self._scope.covers, list[Recorded]()
        found = records_between(self._log, self._scope.subjects, after=0, up_to=last.sequence)
        async with aclosing(found):
            async for record in found:
                if record.sequence > up_to:
                    break
                if covers(record) and isinstance(recorded := read_record(record), Recorded):
                    page.append(recorded)
                if len(page) == READ_PAGE_EVENTS:
                    self._fold_into(memory, page)
                    page = []
        self._fold_into(memory, page)

    def _fold_into(self, memory: Memory[Known], page: Sequence[Recorded]) -> None:
        known: dict[str, Known | None] = {}
        lost: set[str] = set()  # the memory was too small for them: they are read if they are met
        for recorded in page:
            job_id = recorded.event.subject
            if job_id not in known:
                known[job_id] = memory.take(job_id)
                if known[job_id] is None and memory.may_have_forgotten(job_id):
                    lost.add(job_id)
            after = self._step(known[job_id], recorded)
            if not isinstance(after, Anomaly):
                known[job_id] = after
        memory.put_all({key: job for key, job in known.items() if job is not None and key not in lost})

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
    scope: Scope = _EVERYTHING,
    max_jobs: int = FOLDER_MAX_JOBS,
    max_bytes: int = FOLDER_MAX_BYTES,
) -> Folder[JobStatus]:
    """Folds what is known of jobs without their specs.

    Args:
        log: where jobs that are not remembered are read.
        from_first: whether every record of the jobs that are met, from the log's first one on, is handed in:
            a job that was never met does not exist then, and need not be looked for.
        scope: which records may be handed in.
        max_jobs: remembered.
        max_bytes: of those, about.
    """
    return Folder(
        log,
        fold,
        lambda: WholeMemory(_status, max_jobs, max_bytes),
        from_first=from_first,
        scope=scope,
    )


def job_folder(
    log: EventLog,
    *,
    from_first: bool,
    scope: Scope = _EVERYTHING,
    max_jobs: int = FOLDER_MAX_JOBS,
    max_bytes: int = FOLDER_MAX_BYTES,
) -> Folder[Job]:
    """Folds whole jobs, with their specs.

    Args:
        log: where jobs that are not remembered are read.
        from_first: as of `status_folder`; so are the others.
        scope: which records may be handed in.
        max_jobs: remembered.
        max_bytes: of those, about.
    """
    return Folder(
        log,
        fold_job,
        lambda: WholeMemory(_status_of_job, max_jobs, max_bytes),
        from_first=from_first,
        scope=scope,
    )


def number_folder(
    log: EventLog,
    *,
    from_first: bool,
    scope: Scope = _EVERYTHING,
    max_jobs: int = FOLDER_MAX_NUMBERS,
) -> Folder[JobStatus]:
    """Folds revisions, versions and types of states, of many more jobs: all else of a status means nothing.

    Args:
        log: where jobs that are not remembered are read.
        from_first: as of `status_folder`.
        scope: which records may be handed in.
        max_jobs: remembered.
    """
    return Folder(log, fold, lambda: NumberMemory(max_jobs), from_first=from_first, scope=scope)


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
