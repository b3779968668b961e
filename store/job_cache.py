"""What a ledger remembers between commands: jobs as it last saw them, and whose turn it is."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import msgspec

from jobledger.store.model.errors import LogBusy
from jobledger.store.model.job import Job, JobStatus, State
from jobledger.store.model.limits import (
    CACHE_MAX_BYTES,
    CACHE_MAX_JOBS,
    HISTORY_PLACES_MAX_BYTES,
    TURNS_MAX_WAITING,
)

_ENTRY_BYTES = 1_000  # what an entry takes beside its spec, about


_TAG_BYTES = 200  # the same for one tag


class CachedJob(msgspec.Struct, frozen=True):
    """A job's subject as it was seen.

    Attributes:
        subject: where the job's events are.
        job: the job; None if its subject holds no job.
        sequence: the last sequence of the subject, which the next append expects.
        time: the stream's time of the record at that sequence; 0 if it is not known.
        lost: what is known of a job of which no creating event could be read; None for all others.
        base: the same subject as it was last read from the log. An acknowledgement carries no stream time, so
            what was folded from our own appends since lacks it: good enough to decide on, not to be shown.
    """

    subject: str
    job: Job | None = None
    sequence: int = 0
    base: "CachedJob | None" = None
    time: int = 0
    lost: Job | None = None

    @property
    def status(self) -> JobStatus | None:
        """What the fold knows of the subject, also of a job of which nothing else is known."""
        held = self.job or self.lost
        return held.status if held is not None else None


class HistoryPlace(NamedTuple):
    """A job's status after one of its events.

    Attributes:
        sequence: of the event.
        time: the stream's time of it.
        status: after it; None while there is no job.
    """

    sequence: int
    time: int
    status: JobStatus | None


class HistoryPlaces:
    """Where readers of histories are, so that a later page costs a page; the least recently used go first.

    Args:
        max_bytes: of all of them together.
    """

    def __init__(self, max_bytes: int = HISTORY_PLACES_MAX_BYTES) -> None:
        self._places: dict[tuple[str, int], HistoryPlace] = {}  # in the order of use, oldest first
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, subject: str, sequence: int) -> HistoryPlace | None:
        """The place at an event of a subject."""
        place = self._places.pop((subject, sequence), None)
        if place is not None:
            self._places[subject, sequence] = place
        return place

    def put(self, subject: str, place: HistoryPlace, *, instead_of: int) -> None:
        """Remember a place, and forget the one that the same reader left."""
        self._forget((subject, instead_of))
        self._forget((subject, place.sequence))
        size = _place_size(place)
        if size <= self._max_bytes:
            self._places[subject, place.sequence] = place
            self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._places)))

    def _forget(self, key: tuple[str, int]) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._bytes -= _place_size(place)


def _place_size(place: HistoryPlace) -> int:
    status = place.status
    return _ENTRY_BYTES + (0 if status is None else status.state.size + _TAG_BYTES * len(status.tags))


class JobCache:
    """Cached jobs by id; the least recently used go first. Bounded in number and in bytes."""

    def __init__(self, max_jobs: int = CACHE_MAX_JOBS, max_bytes: int = CACHE_MAX_BYTES) -> None:
        self._entries: dict[
            str, tuple[CachedJob, int]
        ] = {}  # with its size; in the order of use, oldest first
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, job_id: str) -> CachedJob | None:
        """What is known of a job."""
        entry = self._entries.pop(job_id, None)
        if entry is None:
            return None
        self._entries[job_id] = entry
        return entry[0]

    def put(self, job_id: str, known: CachedJob) -> None:
        """Remember, unless something newer is remembered already.

        That a job does not exist is not worth a place.
        """
        before = self._entries.get(job_id)
        if known.job is None or (before is not None and before[0].sequence > known.sequence):
            return
        self.forget(job_id)
        size = _size(known)
        self._entries[job_id] = (known, size)
        self._bytes += size
        while len(self._entries) > self._max_jobs or self._bytes > self._max_bytes:
            self.forget(next(iter(self._entries)))

    def clear(self) -> None:
        """Remember nothing."""
        self._entries.clear()
        self._bytes = 0

    def forget(self, job_id: str) -> None:
        """Remember nothing of this job any more."""
        entry = self._entries.pop(job_id, None)
        if entry is not None:
            self._bytes -= entry[1]


class KeyedLocks:
    """One lock per key, there only while somebody holds or awaits it.

    Commands on one job in one process take turns, so that they don't race each other to the log.
    """

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def hold(self, key: str, waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> "_Turn":
        """Wait for the key's turn: `async with locks.hold(key):`.

        Args:
            key: what is locked.
            waiting: entered while the turn is waited for.
        """
        return _Turn(self._locks, key, waiting)


class _Turn:
    """One holder or waiter of a key; a class, because a decorated generator costs three times as much."""

    __slots__ = ("_key", "_lock", "_locks", "_waiting")

    def __init__(
        self,
        locks: dict[str, tuple[asyncio.Lock, int]],
        key: str,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._locks = locks
        self._waiting = waiting
        self._key = key
        self._lock, users = locks.get(key) or (asyncio.Lock(), 0)
        if users >= TURNS_MAX_WAITING:
            raise LogBusy(f"{users} commands on job {key} are waiting; nothing was written; slow down")
        locks[key] = (self._lock, users + 1)

    async def __aenter__(self) -> None:
        try:
            if self._lock.locked():
                with self._waiting():
                    await self._lock.acquire()
            else:
                await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks[self._key]
        if users == 1:
            del self._locks[self._key]
        else:
            self._locks[self._key] = (lock, users - 1)


def _size(known: CachedJob) -> int:
    size = _ENTRY_BYTES
    if known.job is not None:
        size += _job_size(known.job)
    if known.base is not None and known.base.job is not None:
        size += _job_size(known.base.job)
    return size


def _job_size(job: Job) -> int:
    beyond = job.status.quarantine.beyond if job.status.quarantine is not None else None
    more = len(job.spec_beyond) + (_state_size(beyond.state) if beyond is not None else 0)
    return more + len(job.spec) + _state_size(job.status.state) + _TAG_BYTES * len(job.status.tags)


def _state_size(state: State) -> int:
    if not (state.message or state.details):
        return 0
    details = sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in state.details.items())
    return sys.getsizeof(state.message) + details
