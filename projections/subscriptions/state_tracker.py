"""The state of jobs before and after each event, for a reader that starts anywhere in the log.

Revision, version and state after an event follow from all earlier events of its job. For a job that is not in
its cache, a tracker reads the job's own events from the log and folds them (`store/model/fold`). It does not
use the view, so it cannot lag behind the events.

    records ─► which jobs are not cached? ─► read them from the log, several at once ─► fold in order

The cache is bounded. A job's events are spread over the log, so reading one job costs the server as much as
about TRACKER_SCAN_FACTOR records in a row. Once the jobs that were read one by one have cost as much as the
whole log up to here, the tracker reads that in a row, once. A reader that starts in the middle of a long log
therefore takes at most twice as long as the better of the two ways.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from jobledger.projections.batch import NumberedEvent
from jobledger.projections.limits import (
    QUARANTINE_LOG_LINES,
    TRACKER_EVICTED_BITS,
    TRACKER_MAX_BYTES,
    TRACKER_MAX_JOBS,
    TRACKER_MAX_NAMESPACES,
    TRACKER_MAX_NUMBERS,
    TRACKER_READS,
    TRACKER_SCAN_FACTOR,
)
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.events import (
    JobCreated,
    JobEvent,
    JobStateChanged,
    JobUpdated,
    Read,
    Record,
    Recorded,
    Unreadable,
    decode_event,
    encode_event,
    is_too_deep,
    job_named,
    read_record,
)
from jobledger.store.model.fold import (
    Anomaly,
    SpecHead,
    fold,
    fold_job,
    fold_job_on,
    fold_on,
    head_of,
    last_read,
)
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.limits import READ_PAGE_EVENTS
from jobledger.store.model.subjects import (
    NAMELESS_JOB_ID,
    job_subject_anywhere,
    namespace_subjects,
    plain_job_subject,
    shard_of,
)

CachedJob = TypeVar("CachedJob", JobStatus, Job)

_ENTRY_BYTES: Final = 1_000  # approximate size of a cached job without its strings
_TAG_BYTES: Final = 200
_PROBES: Final = 4  # bits per id

# A packed job is a string: a hexadecimal integer (namespace, sequence, revision, version, state),
# the shard of the job's subject, and a name.
_STATES: Final = tuple(State(each) for each in StateType)
_STATE_NUMBERS: Final = {each: number for number, each in enumerate(StateType)}
# By value: the hash of an Enum is Python code.
_STATE_OF_VALUE: Final = {each._value_: number for number, each in enumerate(StateType)}
_PENDING: Final = _STATE_NUMBERS[StateType.PENDING]
_TERMINAL: Final = frozenset(number for each, number in _STATE_NUMBERS.items() if each.is_terminal)
_STATE_MASK: Final = 0xF
_VERSION_AT, _REVISION_AT, _SEQUENCE_AT, _NAMESPACE_AT = 4, 36, 68, 116
_COUNTER_MAX: Final = 2**32 - 1
_SEQUENCE_MAX: Final = 2**48 - 1
_STATUS_WEIGHT: Final = 4
_SHARD_CHARACTERS: Final = 2
_NAME_CHARACTERS: Final = 64  # of a name that count as one more packed job
_NO_TAGS: Final[dict[str, int]] = {}


class FoldCache(Protocol[CachedJob]):
    """Jobs after their last event, by id."""

    def take(self, job_id: str) -> CachedJob | None:
        """Remove and return a job; the caller puts back its next state."""
        ...

    def put_all(self, jobs: dict[str, CachedJob]) -> None:
        """Add jobs, the most recently used last."""
        ...

    def may_have_evicted(self, job_id: str) -> bool:
        """Whether the job may have been in the cache; False is certain."""
        ...


class WholeCache(Generic[CachedJob]):
    """Whole statuses or jobs, bounded in number and size. Evicts terminal jobs first: few events follow.

    Args:
        status_of: the status of an entry.
        max_jobs: the most jobs.
        max_bytes: their approximate size.
    """

    def __init__(self, status_of: Callable[[CachedJob], JobStatus], max_jobs: int, max_bytes: int) -> None:
        self._status_of: Callable[[CachedJob], JobStatus] = status_of
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._bytes = 0
        # With its size; least recently used first. In a dict, each eviction would pass the places of all jobs
        # that were removed from the front.
        self._active: OrderedDict[str, tuple[CachedJob, int]] = OrderedDict()
        self._ended: OrderedDict[str, tuple[CachedJob, int]] = OrderedDict()
        # A smaller cache also evicts fewer jobs.
        self._evicted = BloomFilter(
            TRACKER_EVICTED_BITS * min(max_jobs, TRACKER_MAX_JOBS) // TRACKER_MAX_JOBS
        )

    def take(self, job_id: str) -> CachedJob | None:
        """See `FoldCache.take`."""
        entry = self._active.pop(job_id, None) or self._ended.pop(job_id, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]

    def put_all(self, jobs: dict[str, CachedJob]) -> None:
        """See `FoldCache.put_all`."""
        status_of = self._status_of
        for job_id, job in jobs.items():
            status = status_of(job)
            size = _size(status, job)
            (self._ended if status.state.state_type.is_terminal else self._active)[job_id] = (job, size)
            self._bytes += size
        while len(self._active) + len(self._ended) > self._max_jobs or self._bytes > self._max_bytes:
            job_id, (_, size) = (self._ended or self._active).popitem(last=False)
            self._bytes -= size
            self._evicted.add(job_id)

    def may_have_evicted(self, job_id: str) -> bool:
        """See `FoldCache.may_have_evicted`."""
        return job_id in self._evicted


class CompactCache:
    """The fields that the fold needs to number a job's next event, in a fifth of the memory of a status.

    A returned status has the job's id, namespace, name, version, revision, tags and state type; its sequence
    is that of the last record of its subject. Its other fields have no meaning.

    Args:
        max_jobs: the most jobs; one that cannot be packed counts as several, in proportion to its size.
    """

    def __init__(self, max_jobs: int = TRACKER_MAX_NUMBERS) -> None:
        self._max_weight = max_jobs
        self._weight = 0
        self._jobs: dict[str, str | JobStatus] = {}  # least recently used first
        self._namespaces: list[str] = []
        self._places: dict[str, int] = {}  # of them
        self._evicted = BloomFilter()

    def take(self, job_id: str) -> JobStatus | None:
        """See `FoldCache.take`."""
        kept = self._jobs.pop(job_id, None)
        if kept is None:
            return None
        self._weight -= _weight(kept)
        if isinstance(kept, JobStatus):
            return kept
        digits, _, rest = kept.partition(" ")
        number = int(digits, 16)
        name = rest[_SHARD_CHARACTERS:]
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
        """See `FoldCache.put_all`."""
        for job_id, status in jobs.items():
            kept = self._jobs[job_id] = self._packed(status)
            self._weight += _weight(kept)
        self._evict()

    def _evict(self) -> None:
        oldest: list[str] = []
        if self._weight > self._max_weight:
            # One iteration: each new one passes the places of all jobs that were removed from the front.
            for job_id, kept in self._jobs.items():
                oldest.append(job_id)
                self._weight -= _weight(kept)
                if self._weight <= self._max_weight:
                    break
        for job_id in oldest:
            del self._jobs[job_id]
            self._evicted.add(job_id)

    def may_have_evicted(self, job_id: str) -> bool:
        """See `FoldCache.may_have_evicted`."""
        return job_id in self._evicted

    def after(
        self, packed: str, record: Record, event: JobEvent, is_exact: bool
    ) -> tuple[str, NumberedEvent] | None:
        """The packed job after its next event, and that event with its numbers; None: `fold` has to decide.

        The same as `fold` for an event that changes the state or the spec of the job. Like `read_record`, it
        checks the subject of the record, with the shard that the job had in its last record.
        """
        digits, _, rest = packed.partition(" ")
        number = int(digits, 16)
        previous, job_id, namespace = event.previous, event.subject, event.namespace
        last = number >> _SEQUENCE_AT & _SEQUENCE_MAX
        revision = (number >> _REVISION_AT & _COUNTER_MAX) + 1
        version = number >> _VERSION_AT & _COUNTER_MAX
        place = number >> _NAMESPACE_AT
        sequence = record.sequence
        if (
            (previous and previous != str(last))
            or not last < sequence <= _SEQUENCE_MAX
            or revision > _COUNTER_MAX
            or self._namespaces[place] != namespace
            or record.subject != plain_job_subject(namespace, rest[:_SHARD_CHARACTERS], job_id)
        ):
            return None
        if isinstance(event, JobStateChanged):
            if number & _STATE_MASK in _TERMINAL:
                return None
            state = _STATE_OF_VALUE[event.data.state.state_type._value_]
        elif isinstance(event, JobUpdated) and _has_head(record, event):
            state, version = _PENDING, version + 1
        else:
            return None
        number = (
            place << _NAMESPACE_AT
            | sequence << _SEQUENCE_AT
            | revision << _REVISION_AT
            | version << _VERSION_AT
            | state
        )
        name = rest[_SHARD_CHARACTERS:] or job_id
        return f"{number:x} {rest}", NumberedEvent(record, event, name, revision, version, is_exact)

    def created(self, record: Record, event: JobEvent, is_exact: bool) -> tuple[str, NumberedEvent] | None:
        """`after` for the first event of a job."""
        if not isinstance(event, JobCreated) or event.previous or record.sequence > _SEQUENCE_MAX:
            return None
        job_id, place, shard = event.subject, self._places.get(event.namespace), shard_of(event.subject)
        if place is None or record.subject != plain_job_subject(event.namespace, shard, job_id):
            return None
        head = head_of(Recorded(record.sequence, record.time, event), event)
        if not isinstance(head, SpecHead):
            return None
        number = (
            place << _NAMESPACE_AT
            | record.sequence << _SEQUENCE_AT
            | 1 << _REVISION_AT
            | 1 << _VERSION_AT
            | _PENDING
        )
        packed = f"{number:x} {shard}{'' if head.name == job_id else head.name}"
        return packed, NumberedEvent(record, event, head.name, 1, 1, is_exact)

    def get(self, job_id: str) -> str | JobStatus | None:
        """The cached job: packed, or whole."""
        return self._jobs.get(job_id)

    def put_packed(self, jobs: dict[str, str]) -> None:
        """Add packed jobs, or replace them, the most recently used last."""
        cached = self._jobs
        for job_id, packed in jobs.items():
            before = cached.pop(job_id, None)
            cached[job_id] = packed
            self._weight += 1 + len(packed) // _NAME_CHARACTERS  # `_weight`, inlined
            if before is not None:
                self._weight -= _weight(before)
        self._evict()

    def _packed(self, status: JobStatus) -> str | JobStatus:
        state = _STATE_NUMBERS[status.state.state_type]
        place = self._places.get(status.namespace, -1)
        if place < 0 and len(self._namespaces) < TRACKER_MAX_NAMESPACES:
            place = self._places[status.namespace] = len(self._namespaces)
            self._namespaces.append(status.namespace)
        if status.quarantine is not None or status.is_lost:
            return status
        sequence = last_read(status)  # the `previous` of the next event
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
        return f"{number:x} {shard_of(status.id)}{'' if status.name == status.id else status.name}"


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
    """The number of packed jobs with a short name that take the same memory."""
    if isinstance(kept, str):
        return 1 + len(kept) // _NAME_CHARACTERS
    return _STATUS_WEIGHT + len(kept.tags) + len(kept.name) // _NAME_CHARACTERS


class BloomFilter:
    """A set of ids in constant memory, with false positives.

    With ten million ids, one in twenty other ids is a false positive, and its job is read from the log.

    Args:
        bits: its size.
    """

    def __init__(self, bits: int = TRACKER_EVICTED_BITS) -> None:
        self._bytes = max(1, bits // 8)
        self._bits = bytearray()

    def add(self, text: str) -> None:
        """Add an id."""
        if not self._bits:  # most readers never evict a job
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
    if state.message or state.details or status.tags:  # rare
        details = sum(len(key) + len(value) for key, value in state.details.items())
        size += len(state.message) + details + _TAG_BYTES * len(status.tags)
    return size


_log = logging.getLogger("jobledger.subscriptions")


class FoldedEvent(NamedTuple, Generic[CachedJob]):
    """One event that changed a job.

    Attributes:
        record: the record.
        event: its event.
        before: the job before the event; None if the event created it.
        after: the job after the event.
    """

    record: Record
    event: JobEvent
    before: CachedJob | None
    after: CachedJob


class Scope(NamedTuple):
    """The records that a reader can get.

    Attributes:
        subjects: subject filter of the records.
        covers: whether a record that passes `subjects` is one of them.
    """

    subjects: str
    covers: Callable[[Record], bool] = lambda _: True

    @property
    def is_partial(self) -> bool:
        """Whether events of one job id may be on subjects outside the scope, in other namespaces."""
        return not self.subjects.startswith(_ALL_NAMESPACES)


_ALL_NAMESPACES: Final = namespace_subjects(None).removesuffix("*.*")
_EVERYTHING: Final = Scope(namespace_subjects(None))


class StateTracker(Generic[CachedJob]):
    """Folds the records of one reader; created by `status_tracker`, `job_tracker` or `number_tracker`.

    Attributes:
        anomalies: records so far that changed no job: foreign records, and events without effect.
        frozen: records so far that were ignored because their job is quarantined.
    """

    def __init__(
        self,
        log: EventLog,
        step: Callable[[CachedJob | None, Read], CachedJob | Anomaly],
        step_on: Callable[[CachedJob | None, Read], CachedJob | None],
        status_of: Callable[[CachedJob], JobStatus],
        new_cache: Callable[[], FoldCache[CachedJob]],
        *,
        from_first: bool,
        scope: Scope,
        logs_quarantine: bool = True,
    ) -> None:
        self.anomalies = 0
        self.frozen = 0
        self._noted = 0 if logs_quarantine else QUARANTINE_LOG_LINES
        self._log = log
        self._step: Callable[[CachedJob | None, Read], CachedJob | Anomaly] = step
        self._step_on: Callable[[CachedJob | None, Read], CachedJob | None] = step_on
        self._status_of: Callable[[CachedJob], JobStatus] = status_of
        self._new_cache: Callable[[], FoldCache[CachedJob]] = new_cache
        self._cache: FoldCache[CachedJob] = new_cache()
        self._from_first = from_first
        self._scope = scope
        self._is_partial = scope.is_partial
        self._reads = 0  # of jobs
        self._may_scan = not from_first

    async def fold(self, records: Sequence[Record]) -> list[FoldedEvent[CachedJob]]:
        """The records that changed a job, each with the job before and after.

        Args:
            records: in log order, after those of the last call. After an error they can be passed again.

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
        step, status_of, folded = self._step, self._status_of, list[FoldedEvent[CachedJob]]()
        for record, recorded in zip(records, read, strict=True):
            # `job_named`, inlined: every event of a subscription passes here.
            job_id = recorded.event.subject if type(recorded) is Recorded else job_named(recorded)
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
                if status.sequence == record.sequence and type(recorded) is Recorded:
                    visible = before if before is not None and not status_of(before).is_lost else None
                    folded.append(FoldedEvent(record, recorded.event, visible, after))
                else:
                    self.frozen += 1
                    self._note_frozen(status)
        self._cache.put_all(known)
        return folded

    async def _before(self, records: Sequence[Record], read: Sequence[Read]) -> dict[str, CachedJob]:
        """The jobs of the records, each before its first record."""
        known, missing = self._take(records, read)
        try:
            if missing and await self._scan_if_cheaper(records[0].sequence, len(missing)):
                known, missing = self._take(records, read)
            if missing:
                known.update(await self._read_all(missing))
                self._reads += len(missing)
        except BaseException:
            self._cache.put_all(known)  # they were not folded
            raise
        return known

    def _take(
        self, records: Sequence[Record], read: Sequence[Read]
    ) -> tuple[dict[str, CachedJob], dict[str, tuple[str, int]]]:
        """The cached jobs, and the missing ones: id and first sequence, by the subject to read."""
        known: dict[str, CachedJob] = {}
        missing: dict[str, tuple[str, int]] = {}
        first: dict[str, int] = {}  # of foreign records before the first event of a subject
        cache = self._cache
        for record, recorded in zip(records, read, strict=True):
            job_id = recorded.event.subject if type(recorded) is Recorded else job_named(recorded)
            if job_id in known:
                continue
            found = cache.take(job_id)
            if found is not None:
                known[job_id] = found
            elif isinstance(recorded, Unreadable):
                first.setdefault(record.subject, record.sequence)  # no event: the job need not be read
            elif (
                not self._from_first
                or cache.may_have_evicted(job_id)
                # Another namespace may have used this id first, in events outside the scope.
                or (self._is_partial and NAMELESS_JOB_ID.fullmatch(job_id))
            ):
                sequence = first.get(record.subject, record.sequence)
                missing.setdefault(_subject_of(record, job_id), (job_id, sequence))
        return known, missing

    async def _scan_if_cheaper(self, sequence: int, missing: int) -> bool:
        """Read everything before a sequence if that is cheaper than reading the missing jobs one by one."""
        if not self._may_scan or (self._reads + missing) * TRACKER_SCAN_FACTOR < sequence:
            return False
        cache = self._new_cache()
        await self._scan(cache, sequence - 1)
        self._cache, self._from_first, self._may_scan = cache, True, False
        return True

    async def _scan(self, cache: FoldCache[CachedJob], up_to: int) -> None:
        """Fold all records in scope up to a sequence into a cache."""
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
                    self._fold_into(cache, page)
                    page = []
        self._fold_into(cache, page)

    def _fold_into(self, cache: FoldCache[CachedJob], page: Sequence[Read]) -> None:
        known: dict[str, CachedJob | None] = {}
        evicted: set[str] = set()  # they are read from the log if one of their events comes
        for recorded in page:
            job_id = job_named(recorded)
            if job_id not in known:
                known[job_id] = cache.take(job_id)
                if known[job_id] is None and cache.may_have_evicted(job_id):
                    evicted.add(job_id)
            known[job_id] = self._step_on(known[job_id], recorded)
        cache.put_all({key: job for key, job in known.items() if job is not None and key not in evicted})

    def _note_frozen(self, status: JobStatus) -> None:
        """Log one line per job, up to a limit."""
        quarantine = status.quarantine
        if quarantine is None or quarantine.sequence != quarantine.last:
            return
        self._noted += 1
        if self._noted <= QUARANTINE_LOG_LINES:
            _log.warning(
                "job %s in namespace %s is quarantined: %s; its events are ignored until that is resolved",
                status.id,
                status.namespace,
                quarantine.reason,
            )

    async def _read_all(self, missing: dict[str, tuple[str, int]]) -> dict[str, CachedJob]:
        turns = asyncio.Semaphore(TRACKER_READS)

        async def read(subject: str, sequence: int) -> CachedJob | None:
            async with turns:
                return await self._read_job(subject, sequence)

        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                for subject, (job_id, sequence) in missing.items():
                    tasks.append((job_id, group.create_task(read(subject, sequence))))
        except BaseExceptionGroup as failed:  # the first one is enough to report
            raise failed.exceptions[0] from None
        return {job_id: found for job_id, task in tasks if (found := task.result()) is not None}

    async def _read_job(self, subject: str, sequence: int) -> CachedJob | None:
        """The job before one of its events; that event is read too, so that a lagging replica is noticed."""
        status: CachedJob | None = None
        async for record in records_between(self._log, subject, after=0, up_to=sequence):
            if record.sequence < sequence:
                status = self._step_on(status, read_record(record))
        return status


class NumberTracker(StateTracker[JobStatus]):
    """A `StateTracker` of compact jobs that numbers most events without creating statuses.

    An event without tags, quarantine, anomaly or lost predecessor only increments numbers of its job. The
    events of all other jobs are folded as usual.
    """

    async def number(self, records: Sequence[Record]) -> list[NumberedEvent]:
        """The records that changed a job, each with the job's numbers; see `fold`."""
        cache = self._cache
        if not self._from_first or not isinstance(cache, CompactCache):  # jobs may have to be read
            return [_numbered_event(each) for each in await self.fold(records)]
        numbered: list[NumberedEvent] = []
        packed: dict[str, str] = {}  # jobs after their events in `numbered`; cached when all are folded
        others: list[Record] = []
        other_jobs: set[str] = set()
        is_partial = self._is_partial
        for record in records:
            event, is_exact = _decoded(record)
            if event is not None and event.subject not in other_jobs:
                job_id = event.subject
                before = packed.get(job_id) or cache.get(job_id)
                if isinstance(before, str):
                    after = cache.after(before, record, event, is_exact)
                elif (
                    before is None
                    and not cache.may_have_evicted(job_id)
                    and not (is_partial and NAMELESS_JOB_ID.fullmatch(job_id))
                ):
                    after = cache.created(record, event, is_exact)
                else:
                    after = None
                if after is not None:
                    packed[job_id], each = after
                    numbered.append(each)
                    continue
            job_id = job_named(read_record(record))  # the event may name another job
            if job_id in packed:  # rare: its first events are numbered already
                return [_numbered_event(each) for each in await self.fold(records)]
            other_jobs.add(job_id)
            others.append(record)
        if others:
            numbered += [_numbered_event(each) for each in await self.fold(others)]
            numbered.sort(key=lambda each: each.record.sequence)
        cache.put_packed(packed)
        return numbered


def _decoded(record: Record) -> tuple[JobEvent | None, bool]:
    """The event of a record, and whether its payload is exactly that; None if `read_record` has to decide."""
    payload = record.payload
    try:
        event = decode_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, False
    is_exact = encode_event(event) == payload
    if not (is_exact and isinstance(event, JobStateChanged)) and is_too_deep(payload):
        return None, False
    return event, is_exact


def _has_head(record: Record, event: JobUpdated) -> bool:
    return isinstance(head_of(Recorded(record.sequence, record.time, event), event), SpecHead)


def _numbered_event(folded: FoldedEvent[JobStatus]) -> NumberedEvent:
    record, event, _, status = folded
    return NumberedEvent(record, event, status.name, status.revision, status.version)


def status_tracker(
    log: EventLog,
    *,
    from_first: bool,
    scope: Scope = _EVERYTHING,
    max_jobs: int = TRACKER_MAX_JOBS,
    max_bytes: int = TRACKER_MAX_BYTES,
) -> StateTracker[JobStatus]:
    """A tracker of statuses, without specs.

    Args:
        log: where jobs are read that are not cached.
        from_first: whether the records passed start with the log's first one, so that a job that was never
            passed does not exist and need not be read.
        scope: the records that may be passed.
        max_jobs: the most jobs in the cache.
        max_bytes: their approximate size.
    """
    return StateTracker(
        log,
        fold,
        fold_on,
        _status,
        lambda: WholeCache(_status, max_jobs, max_bytes),
        from_first=from_first,
        scope=scope,
    )


def job_tracker(
    log: EventLog,
    *,
    from_first: bool,
    scope: Scope = _EVERYTHING,
    logs_quarantine: bool = True,
    max_jobs: int = TRACKER_MAX_JOBS,
    max_bytes: int = TRACKER_MAX_BYTES,
) -> StateTracker[Job]:
    """A tracker of whole jobs, with specs; arguments as of `status_tracker`."""
    return StateTracker(
        log,
        fold_job,
        fold_job_on,
        _status_of_job,
        lambda: WholeCache(_status_of_job, max_jobs, max_bytes),
        from_first=from_first,
        scope=scope,
        logs_quarantine=logs_quarantine,
    )


def number_tracker(
    log: EventLog,
    *,
    from_first: bool,
    scope: Scope = _EVERYTHING,
    max_jobs: int = TRACKER_MAX_NUMBERS,
) -> NumberTracker:
    """A tracker of many more jobs, in which only names, revisions, versions and state types have a meaning.

    Arguments as of `status_tracker`.
    """
    return NumberTracker(
        log, fold, fold_on, _status, lambda: CompactCache(max_jobs), from_first=from_first, scope=scope
    )


def _status(status: JobStatus) -> JobStatus:
    return status


def _status_of_job(job: Job) -> JobStatus:
    return job.status


def _subject_of(record: Record, job_id: str) -> str:
    """The subject from which a record's job is read.

    The id of a nameless job does not depend on its namespace, so writers of other namespaces can publish
    events with that id. The job belongs to the namespace whose event created it first, as in every view.
    """
    return job_subject_anywhere(job_id) if NAMELESS_JOB_ID.fullmatch(job_id) else record.subject
