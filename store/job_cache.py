"""What a ledger keeps in memory between commands: jobs as last seen, and one lock per job."""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final, NamedTuple

import msgspec

from jobledger.store.lru import LRUCache
from jobledger.store.model.errors import LogBusy
from jobledger.store.model.job import Job, JobStatus, State
from jobledger.store.model.limits import CACHE_MAX_BYTES, CACHE_MAX_JOBS, TURNS_MAX_WAITING

_ENTRY_BYTES: Final = 1_000  # of an entry without its spec, approximately
_TAG_BYTES: Final = 200


class CachedJob(msgspec.Struct, frozen=True):
    """The subject of a job as last seen.

    Attributes:
        subject: of the job.
        job: None if there is no job on the subject.
        sequence: the last sequence of the subject, which the next append expects.
        time: the stream time of the record at that sequence; 0 if unknown.
        lost: the job if no event that creates it can be read; otherwise None.
        base: the same subject as last read from the log. An acknowledgement has no stream time, so the events
            that were folded from our own appends lack it: good enough to decide on, but not to return.
    """

    subject: str
    job: Job | None = None
    sequence: int = 0
    base: "CachedJob | None" = None
    time: int = 0
    lost: Job | None = None

    @property
    def status(self) -> JobStatus | None:
        """The status of the job, also of a lost one."""
        held = self.job or self.lost
        return held.status if held is not None else None


class JobCache(LRUCache[str, CachedJob]):
    """Jobs by id, as last seen."""

    def __init__(self, max_jobs: int = CACHE_MAX_JOBS, max_bytes: int = CACHE_MAX_BYTES) -> None:
        super().__init__(max_bytes, _size, max_entries=max_jobs)

    def put(self, key: str, value: CachedJob) -> None:
        """Keep a job, unless the cache has a newer one; that a job does not exist is not kept."""
        before = self._entries.get(key)
        if value.job is not None and (before is None or before[0].sequence <= value.sequence):
            super().put(key, value)


def _size(known: CachedJob) -> int:
    size = _ENTRY_BYTES
    if known.job is not None:
        size += _job_size(known.job)
    base = known.base
    if base is not None and base.job is not None:
        size += _job_size(base.job)
    return size


def _job_size(job: Job) -> int:
    status = job.status
    size = len(job.spec) + _state_size(status.state) + _TAG_BYTES * len(status.tags)
    if status.quarantine is not None:
        beyond = status.quarantine.beyond
        size += len(job.spec_beyond) + (_state_size(beyond.state) if beyond is not None else 0)
    return size


def _state_size(state: State) -> int:
    if not (state.message or state.details):
        return 0
    details = sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in state.details.items())
    return sys.getsizeof(state.message) + details


class HistoryPosition(NamedTuple):
    """The status of a job after one of its events, from which a later page of its history continues.

    Attributes:
        sequence: of the event.
        time: its stream time.
        status: None while the job does not exist.
    """

    sequence: int
    time: int
    status: JobStatus | None

    def size_bytes(self) -> int:
        """Return the approximate size in memory."""
        status = self.status
        return _ENTRY_BYTES + (0 if status is None else status.state.size + _TAG_BYTES * len(status.tags))


class KeyedLocks:
    """One lock per key, which exists only while it is held or awaited.

    Commands on one job in one process take turns, so that they do not race each other to the log.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # for each held key, in their order

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, key: str, waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> "_Turn":
        """Hold the lock of a key: `async with locks.hold(key):`.

        Args:
            key: of the lock.
            waiting: a context manager that is entered while the lock is awaited.

        Raises:
            LogBusy: if TURNS_MAX_WAITING callers hold or await it.
        """
        others = self._waiting.get(key)
        if others is not None and len(others) + 1 >= TURNS_MAX_WAITING:
            raise LogBusy(
                f"{len(others) + 1} commands on job {key} are waiting; nothing was written; slow down"
            )
        return _Turn(self._waiting, key, waiting)


class _Turn:
    """A holder or waiter of a lock.

    A class, because a decorated generator costs three times as much. The lock is passed from its holder to
    the first waiter. That needs no object per key but the queue, while an `asyncio.Lock` would be created,
    acquired and released for each command.
    """

    __slots__ = ("_key", "_queues", "_waiting")

    def __init__(
        self,
        queues: dict[str, deque[asyncio.Future[None]]],
        key: str,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._queues = queues
        self._key = key
        self._waiting = waiting

    async def __aenter__(self) -> None:
        queue = self._queues.get(self._key)
        if queue is None:
            self._queues[self._key] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            with self._waiting():
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was this one's turn already
                self._pass_on()
            else:
                turn.cancel()  # skipped by `_pass_on`
                with suppress(ValueError):
                    queue.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        queue = self._queues[self._key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._queues[self._key]
