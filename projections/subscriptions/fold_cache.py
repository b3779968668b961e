"""What a reader remembers of the jobs that it met: bounded, and, roughly, which of them it forgot."""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from jobledger.projections.limits import (
    FOLDER_FORGOTTEN_BITS,
    FOLDER_MAX_JOBS,
    FOLDER_MAX_NAMESPACES,
    FOLDER_MAX_NUMBERS,
)
from jobledger.store.model.fold import last_read
from jobledger.store.model.job import Job, JobStatus, State, StateType

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
