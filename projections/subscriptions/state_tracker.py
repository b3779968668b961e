"""What jobs became by the events that a reader of the log meets, wherever in the log it begins.

Revision, version and state of an event follow from all events of its job before it. A reader that began in
the middle, or forgot a job since, reads that job's own events from the log, up to the event: the one fold
(`store/model/fold`) does the rest. No view is asked, so nothing here can lag behind the events.

    records ─► which jobs are not remembered? ─► read those from the log, several at once ─► fold in order

What is remembered is bounded (`remembering`). A job's events lie all over the log, and the server looks for
each of them, so reading one job costs as much as reading some FOLDER_SCAN_FACTOR records in a row. Once the
jobs that were read have cost as much as the whole log up to here, that is read in a row, once: whoever begins
in the middle of a long log is so never slower than twice the better of the two ways.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from jobledger.projections.limits import (
    FOLDER_FORGOTTEN_BITS,
    FOLDER_MAX_BYTES,
    FOLDER_MAX_JOBS,
    FOLDER_MAX_NAMESPACES,
    FOLDER_MAX_NUMBERS,
    FOLDER_READS,
    FOLDER_SCAN_FACTOR,
    QUARANTINE_LOG_LINES,
)
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.events import JobEvent, Read, Record, Recorded, Unreadable, job_named, read_record
from jobledger.store.model.fold import Anomaly, fold, fold_job, fold_job_on, fold_on, last_read
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.limits import READ_PAGE_EVENTS
from jobledger.store.model.subjects import NAMELESS_JOB_ID, job_subject_anywhere, namespace_subjects

CachedJob = TypeVar("CachedJob", JobStatus, Job)

_ENTRY_BYTES: Final = 1_000  # what a remembered job takes beside its texts, about
_TAG_BYTES: Final = 200
_PROBES: Final = 4  # bits of one id

# A job in one text: an integer in hexadecimal (namespace, sequence, revision, version, state), and its name.
_STATES: Final = tuple(State(each) for each in StateType)
_STATE_NUMBERS: Final = {each: number for number, each in enumerate(StateType)}
_STATE_MASK: Final = 0xF
_VERSION_AT, _REVISION_AT, _SEQUENCE_AT, _NAMESPACE_AT = 4, 36, 68, 116
_COUNTER_MAX: Final = 2**32 - 1
_SEQUENCE_MAX: Final = 2**48 - 1
_STATUS_WEIGHT: Final = 4
_NAME_CHARACTERS: Final = 64  # of a packed job, that count as one more
_NO_TAGS: Final[dict[str, int]] = {}


class Memory(Protocol[CachedJob]):
    """Jobs as they were last seen, by id."""

    def take(self, job_id: str) -> CachedJob | None:
        """Hand over what is known of a job: the caller puts back what it became."""
        ...

    def put_all(self, jobs: dict[str, CachedJob]) -> None:
        """Remember jobs, in the order of their use."""
        ...

    def may_have_forgotten(self, job_id: str) -> bool:
        """Whether this job may have been put here once; False is certain."""
        ...


class WholeMemory(Generic[CachedJob]):
    """Jobs as they are, bounded in number and in bytes. Those that have ended go first: little comes after.

    Args:
        status_of: the status of what is kept.
        max_jobs: kept.
        max_bytes: of those, about.
    """

    def __init__(self, status_of: Callable[[CachedJob], JobStatus], max_jobs: int, max_bytes: int) -> None:
        self._status_of: Callable[[CachedJob], JobStatus] = status_of
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._bytes = 0
        self._active: dict[
            str, tuple[CachedJob, int]
        ] = {}  # with its size; in the order of use, oldest first
        self._ended: dict[str, tuple[CachedJob, int]] = {}
        # Who remembers a part of the jobs forgets a part of them.
        self._forgotten = BloomFilter(
            FOLDER_FORGOTTEN_BITS * min(max_jobs, FOLDER_MAX_JOBS) // FOLDER_MAX_JOBS
        )

    def take(self, job_id: str) -> CachedJob | None:
        """See `Memory.take`."""
        entry = self._active.pop(job_id, None) or self._ended.pop(job_id, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]

    def put_all(self, jobs: dict[str, CachedJob]) -> None:
        """See `Memory.put_all`."""
        status_of = self._status_of
        for job_id, job in jobs.items():
            status = status_of(job)
            size = _size(status, job)
            (self._ended if status.state.state_type.is_terminal else self._active)[job_id] = (job, size)
            self._bytes += size
        while len(self._active) + len(self._ended) > self._max_jobs or self._bytes > self._max_bytes:
            oldest = self._ended or self._active
            job_id = next(iter(oldest))
            self._bytes -= oldest.pop(job_id)[1]
            self._forgotten.add(job_id)

    def may_have_forgotten(self, job_id: str) -> bool:
        """See `Memory.may_have_forgotten`."""
        return job_id in self._forgotten


class NumberMemory:
    """Of each job what the fold needs to number its next event, in a fifth of the memory of its status.

    What is handed over has the job's id, namespace, name, version, revision, tags and the type of its state,
    and as its sequence that of the last record of its subject; all else of it means nothing.

    Args:
        max_jobs: kept; one that can't be packed counts as several, by the memory that it takes.
    """

    def __init__(self, max_jobs: int = FOLDER_MAX_NUMBERS) -> None:
        self._max_weight = max_jobs
        self._weight = 0
        self._jobs: dict[str, str | JobStatus] = {}  # in the order of use, oldest first
        self._namespaces: list[str] = []
        self._places: dict[str, int] = {}  # of them
        self._forgotten = BloomFilter()

    def take(self, job_id: str) -> JobStatus | None:
        """See `Memory.take`."""
        kept = self._jobs.pop(job_id, None)
        if kept is None:
            return None
        self._weight -= _weight(kept)
        if isinstance(kept, JobStatus):
            return kept
        digits, _, name = kept.partition(" ")
        number = int(digits, 16)
        return _numbered(
            job_id,
            self._namespaces[number >> _NAMESPACE_AT],
            name or job_id,
            _STATES[number & _STATE_MASK],
            version=number >> _VERSION_AT & _COUNTER_MAX,
            revision=number >> _REVISION_AT & _COUNTER_MAX,
            sequence=number >> _SEQUENCE_AT & _SEQUENCE_MAX,
        )

    def put_all(self, jobs: dict[str, JobStatus]) -> None:
        """See `Memory.put_all`."""
        for job_id, status in jobs.items():
            kept = self._jobs[job_id] = self._packed(status)
            self._weight += _weight(kept)
        while self._weight > self._max_weight:
            job_id = next(iter(self._jobs))
            self._weight -= _weight(self._jobs.pop(job_id))
            self._forgotten.add(job_id)

    def may_have_forgotten(self, job_id: str) -> bool:
        """See `Memory.may_have_forgotten`."""
        return job_id in self._forgotten

    def _packed(self, status: JobStatus) -> str | JobStatus:
        state = _STATE_NUMBERS[status.state.state_type]
        place = self._places.get(status.namespace, -1)
        if place < 0 and len(self._namespaces) < FOLDER_MAX_NAMESPACES:
            place = self._places[status.namespace] = len(self._namespaces)
            self._namespaces.append(status.namespace)
        if status.quarantine is not None or status.is_lost:
            return status
        sequence = last_read(status)  # what the next event names as the one before it
        is_large = status.revision > _COUNTER_MAX or sequence > _SEQUENCE_MAX
        if place < 0 or status.tags or is_large:
            return _numbered(
                status.id,
                status.namespace,
                status.name,
                _STATES[state],
                version=status.version,
                revision=status.revision,
                sequence=sequence,
                tags=status.tags,
            )
        number = (
            place << _NAMESPACE_AT
            | sequence << _SEQUENCE_AT
            | status.revision << _REVISION_AT
            | status.version << _VERSION_AT
            | state
        )
        return f"{number:x} {'' if status.name == status.id else status.name}"


def _numbered(
    job_id: str,
    namespace: str,
    name: str,
    state: State,
    *,
    version: int,
    revision: int,
    sequence: int,
    tags: dict[str, int] = _NO_TAGS,
) -> JobStatus:
    return JobStatus(
        id=job_id,
        namespace=namespace,
        name=name,
        state=state,
        version=version,
        revision=revision,
        create_time=0,
        modify_time=0,
        created_sequence=0,
        spec_sequence=0,
        sequence=sequence,
        tags=tags,
    )


def _weight(kept: str | JobStatus) -> int:
    """How many packed jobs with a short name take as much memory."""
    if isinstance(kept, str):
        return 1 + len(kept) // _NAME_CHARACTERS
    return _STATUS_WEIGHT + len(kept.tags) + len(kept.name) // _NAME_CHARACTERS


class BloomFilter:
    """A Bloom filter: a set that takes no more memory as it grows, and says yes too often instead.

    With ten million ids in it, one in twenty others is taken for one of them, and is read from the log.

    Args:
        bits: how many it has.
    """

    def __init__(self, bits: int = FOLDER_FORGOTTEN_BITS) -> None:
        self._bytes = max(1, bits // 8)
        self._bits = bytearray()

    def add(self, text: str) -> None:
        """Put an id in."""
        if not self._bits:  # most readers never forget a job
            self._bits = bytearray(self._bytes)
        for place in _places(text, 8 * self._bytes):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, text: str) -> bool:
        bits = self._bits
        return bool(bits) and all(
            bits[place >> 3] >> (place & 7) & 1 for place in _places(text, 8 * len(bits))
        )


def _places(text: str, bits: int) -> list[int]:
    both = hash(text)
    first, second = both & 0xFFFFFFFF, (both >> 32) & 0xFFFFFFFF | 1
    return [(first + probe * second) % bits for probe in range(_PROBES)]


def _size(status: JobStatus, job: JobStatus | Job) -> int:
    size = _ENTRY_BYTES + (len(job.spec) if isinstance(job, Job) else 0)
    state = status.state
    if state.message or state.details or status.tags:  # seldom
        details = sum(len(key) + len(value) for key, value in state.details.items())
        size += len(state.message) + details + _TAG_BYTES * len(status.tags)
    return size


_log = logging.getLogger("jobledger.subscriptions")


class FoldedEvent(NamedTuple, Generic[CachedJob]):
    """One event that changed a job.

    Attributes:
        record: as the log has it.
        event: what it says.
        before: the job right before it; None: it came to be by this event.
        after: the job right after it.
    """

    record: Record
    event: JobEvent
    before: CachedJob | None
    after: CachedJob


class Scope(NamedTuple):
    """Which records a reader can meet.

    Attributes:
        subjects: the log's filter for them.
        covers: whether one that passes that is among them.
    """

    subjects: str
    covers: Callable[[Record], bool] = lambda _: True

    @property
    def is_partial(self) -> bool:
        """Whether it has only a part of what may be on the subjects of one job id, in all namespaces."""
        return not self.subjects.startswith(_ALL_NAMESPACES)


_ALL_NAMESPACES: Final = namespace_subjects(None).removesuffix("*.*")
_EVERYTHING: Final = Scope(namespace_subjects(None))


class Folder(Generic[CachedJob]):
    """Folds what one reader reads; made by `status_folder`, `job_folder` or `number_folder`.

    Attributes:
        anomalies: records so far that changed no job: no events of ours, or events that make no sense.
        frozen: records so far that were left out because their job is quarantined.
    """

    def __init__(
        self,
        log: EventLog,
        step: Callable[[CachedJob | None, Read], CachedJob | Anomaly],
        step_on: Callable[[CachedJob | None, Read], CachedJob | None],
        status_of: Callable[[CachedJob], JobStatus],
        remember: Callable[[], Memory[CachedJob]],
        *,
        from_first: bool,
        scope: Scope,
    ) -> None:
        self.anomalies = 0
        self.frozen = 0
        self._noted = 0
        self._log = log
        self._step: Callable[[CachedJob | None, Read], CachedJob | Anomaly] = step
        self._step_on: Callable[[CachedJob | None, Read], CachedJob | None] = step_on
        self._status_of: Callable[[CachedJob], JobStatus] = status_of
        self._remember: Callable[[], Memory[CachedJob]] = remember
        self._memory: Memory[CachedJob] = remember()
        self._from_first = from_first
        self._scope = scope
        self._is_partial = scope.is_partial
        self._reads = 0  # of jobs
        self._may_scan = not from_first

    async def fold(self, records: Sequence[Record]) -> list[FoldedEvent[CachedJob]]:
        """The records that changed jobs, with the jobs before and after.

        Args:
            records: in the order of the log, after those of the last call. After an error the same ones can
                be given again.

        Raises:
            LogUnavailable: if the log can't be read.
        """
        read = [read_record(record) for record in records]
        known = await self._before(records, read)
        return self._fold_on(records, read, known)

    def _fold_on(
        self,
        records: Sequence[Record],
        read: Sequence[Read],
        known: dict[str, CachedJob],
    ) -> list[FoldedEvent[CachedJob]]:
        step, status_of, told = self._step, self._status_of, list[FoldedEvent[CachedJob]]()
        for record, recorded in zip(records, read, strict=True):
            job_id = job_named(recorded)
            before = known.get(job_id)
            after = step(before, recorded)
            if isinstance(after, Anomaly):
                self.anomalies += 1
                passed = self._step_on(before, recorded)
                if passed is not None:
                    known[job_id] = passed
            elif after is not before:
                known[job_id] = after
                status = status_of(after)
                if status.sequence == record.sequence and isinstance(recorded, Recorded):
                    shown = before if before is not None and not status_of(before).is_lost else None
                    told.append(FoldedEvent(record, recorded.event, shown, after))
                else:
                    self.frozen += 1
                    self._note_frozen(status)
        self._memory.put_all(known)
        return told

    async def _before(self, records: Sequence[Record], read: Sequence[Read]) -> dict[str, CachedJob]:
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
        self, records: Sequence[Record], read: Sequence[Read]
    ) -> tuple[dict[str, CachedJob], dict[str, tuple[str, int]]]:
        """The jobs that are remembered, and the others: id, and first sequence, by where they are read."""
        known: dict[str, CachedJob] = {}
        missing: dict[str, tuple[str, int]] = {}
        first: dict[str, int] = {}  # foreign records before an event, by subject: they are still to be folded
        memory = self._memory
        for record, recorded in zip(records, read, strict=True):
            job_id = job_named(recorded)
            if job_id in known:
                continue
            found = memory.take(job_id)
            if found is not None:
                known[job_id] = found
            elif isinstance(recorded, Unreadable):
                first.setdefault(record.subject, record.sequence)  # not worth a read, without an event
            elif (
                not self._from_first
                or memory.may_have_forgotten(job_id)
                # Another namespace may have had this id first, and its events are not handed in.
                or (self._is_partial and NAMELESS_JOB_ID.fullmatch(job_id))
            ):
                sequence = first.get(record.subject, record.sequence)
                missing.setdefault(_where(record, job_id), (job_id, sequence))
        return known, missing

    async def _scan_if_cheaper(self, sequence: int, missing: int) -> bool:
        """Read all that was before a sequence, if that is cheaper than so many jobs more, one by one."""
        if not self._may_scan or (self._reads + missing) * FOLDER_SCAN_FACTOR < sequence:
            return False
        memory = self._remember()
        await self._scan(memory, sequence - 1)
        self._memory, self._from_first, self._may_scan = memory, True, False
        return True

    async def _scan(self, memory: Memory[CachedJob], up_to: int) -> None:
        """Fold all records in scope up to a sequence into a memory."""
        last = await self._log.read_last(self._scope.subjects)
        if last is None:
            return
        covers, page = self._scope.covers, list[Read]()
        found = records_between(self._log, self._scope.subjects, after=0, up_to=last.sequence)
        async with aclosing(found):
            async for record in found:
                if record.sequence > up_to:
                    break
                if covers(record):
                    recorded = read_record(record)
                    if not (self._is_partial and NAMELESS_JOB_ID.fullmatch(job_named(recorded))):
                        page.append(recorded)
                if len(page) == READ_PAGE_EVENTS:
                    self._fold_into(memory, page)
                    page = []
        self._fold_into(memory, page)

    def _fold_into(self, memory: Memory[CachedJob], page: Sequence[Read]) -> None:
        known: dict[str, CachedJob | None] = {}
        lost: set[str] = set()  # the memory was too small for them: they are read if they are met
        for recorded in page:
            job_id = job_named(recorded)
            if job_id not in known:
                known[job_id] = memory.take(job_id)
                if known[job_id] is None and memory.may_have_forgotten(job_id):
                    lost.add(job_id)
            known[job_id] = self._step_on(known[job_id], recorded)
        memory.put_all({key: job for key, job in known.items() if job is not None and key not in lost})

    def _note_frozen(self, status: JobStatus) -> None:
        """One line in the log for each job, up to a limit."""
        quarantine = status.quarantine
        if quarantine is None or quarantine.sequence != quarantine.last:
            return
        self._noted += 1
        if self._noted <= QUARANTINE_LOG_LINES:
            _log.warning(
                "job %s in namespace %s is quarantined: %s; its events are left out until that is resolved",
                status.id,
                status.namespace,
                quarantine.reason,
            )

    async def _read_all(self, missing: dict[str, tuple[str, int]]) -> dict[str, CachedJob]:
        turns = asyncio.Semaphore(FOLDER_READS)

        async def read(subject: str, sequence: int) -> CachedJob | None:
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

    async def _read_job(self, subject: str, sequence: int) -> CachedJob | None:
        """The job right before one of its events; up to that one is read, so a lagging replica is seen."""
        status: CachedJob | None = None
        async for record in records_between(self._log, subject, after=0, up_to=sequence):
            if record.sequence < sequence:
                status = self._step_on(status, read_record(record))
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
        fold_on,
        _status,
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
        fold_job_on,
        _status_of_job,
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
    """Folds names, revisions, versions and types of states, of many more jobs: the rest means nothing.

    Args:
        log: where jobs that are not remembered are read.
        from_first: as of `status_folder`.
        scope: which records may be handed in.
        max_jobs: remembered.
    """
    return Folder(
        log, fold, fold_on, _status, lambda: NumberMemory(max_jobs), from_first=from_first, scope=scope
    )


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
