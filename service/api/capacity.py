"""Limits on concurrent requests, in total and per client: work, waits, uploads, and bytes in memory.

    body ──► uploading ──► working ──► answered
                             │  ▲
                             ▼  │  `waiting()`: a long poll, `wait_for`, a turn in a queue
                            waiting

Each of the three has its own budget, and one client may use a fraction of it. So a client that waits or sends
slowly takes no slot from those that work, and reads leave some slots to writes. Feeds have their own budget
(`FeedHub`); health and metrics are not counted.

All requests share one interpreter, so long reads are cut into slices (`store/yield_point`). While writes are
in flight, or were a moment ago, all long reads together run one slice at a time, clients in rotation, with a
pause of several times its length before each slice. So long reads hardly change the latency of writes, and no
read is ever aborted. Snapshots as of a point are built in their own threads and are not part of this.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar, Token
from time import perf_counter
from typing import Any, Final

from jobledger.projections.fair_queue import FairQueue
from jobledger.service import limits as named
from jobledger.service.errors import TooManyRequests
from jobledger.store.yield_point import yield_hook


class Budget:
    """A number of slots of one kind.

    Args:
        what: is counted, for the error.
        per_client: slots for one client; a client without a name has no limit of its own.
        reserved: slots of `total` for those that may use the reserve.
        reserved_per_client: the same, of `per_client`.
    """

    def __init__(
        self, what: str, total: int, per_client: int, *, reserved: int = 0, reserved_per_client: int = 0
    ) -> None:
        self.count = 0
        self._what = what
        self._total = total
        self._per_client = per_client
        self._reserved = reserved
        self._reserved_per_client = reserved_per_client
        self._clients: dict[str, int] = {}

    def take(self, client: str, *, may_use_reserve: bool = True) -> None:
        """Take a slot.

        Raises:
            TooManyRequests: if none is free, for this client or in total.
        """
        kept, mine = (0, 0) if may_use_reserve else (self._reserved, self._reserved_per_client)
        if client and self._clients.get(client, 0) >= self._per_client - mine:
            raise TooManyRequests(f"{self._per_client - mine} {self._what} of this client; try again later")
        if self.count >= self._total - kept:
            raise TooManyRequests(f"{self._total - kept} {self._what}; try again later")
        self.take_anyway(client)

    def has_room(self, client: str) -> bool:
        """Whether a read could take a slot now; may be called from any thread."""
        is_within = self.count < self._total - self._reserved
        return is_within and self._clients.get(client, 0) < self._per_client - self._reserved_per_client

    def take_anyway(self, client: str) -> None:
        """Take a slot, even beyond the budget: for a request that had one before."""
        self.count += 1
        self._clients[client] = self._clients.get(client, 0) + 1

    def give(self, client: str) -> None:
        """Return a slot."""
        self.count -= 1
        left = self._clients[client] - 1
        if left:
            self._clients[client] = left
        else:
            del self._clients[client]


class ByteBudget:
    """A number of bytes in memory, in total and for one client.

    Args:
        what: the bytes are for, and `remedy`: what a refused client can do; for the error.
        allows_first: whether a client that holds nothing may exceed `max_bytes_per_client`, and also
            `max_bytes` if nobody holds anything.
    """

    def __init__(
        self,
        what: str,
        remedy: str,
        max_bytes: int,
        max_bytes_per_client: int,
        *,
        allows_first: bool = False,
    ) -> None:
        self.held_bytes = 0
        self._what = what
        self._remedy = remedy
        self._max_bytes = max_bytes
        self._max_bytes_per_client = max_bytes_per_client
        self._allows_first = allows_first
        self._clients: Counter[str] = Counter()

    def hold(self, size_bytes: int, client: str = "") -> None:
        """Count bytes that are now in memory.

        Raises:
            TooManyRequests: if they exceed the budget, of the client or in total; they are not counted then.
        """
        held = self._clients[client]
        is_first = self._allows_first and not held
        if client and not is_first and held + size_bytes > self._max_bytes_per_client:
            raise TooManyRequests(
                f"{held} bytes of {self._what} of this client are in memory, at most"
                f" {self._max_bytes_per_client} are allowed; {self._remedy}"
            )
        is_only = self._allows_first and not self.held_bytes  # with several processes, each has a share
        if not is_only and self.held_bytes + size_bytes > self._max_bytes:
            raise TooManyRequests(
                f"{self.held_bytes} bytes of {self._what} are in memory, at most {self._max_bytes} are"
                f" allowed; {self._remedy}"
            )
        self.held_bytes += size_bytes
        self._clients[client] += size_bytes

    def release(self, size_bytes: int, client: str = "") -> None:
        """Stop counting bytes that are no longer in memory."""
        if not size_bytes:
            return
        self.held_bytes -= size_bytes
        self._clients[client] -= size_bytes
        if not self._clients[client]:
            del self._clients[client]


class Capacity:
    """The budgets of one process.

    Args:
        processes: how many processes of this service answer requests; each has an equal share.
    """

    def __init__(self, processes: int = 1) -> None:
        self.work = Budget(
            "requests are in flight",
            named.REQUESTS_MAX_IN_FLIGHT // processes,
            named.REQUESTS_MAX_PER_CLIENT // processes,
            reserved=named.REQUESTS_KEPT_FOR_WRITES // processes,
            reserved_per_client=named.REQUESTS_KEPT_FOR_WRITES_PER_CLIENT // processes,
        )
        self.waits = Budget(
            "requests are waiting", named.WAITS_MAX // processes, named.WAITS_MAX_PER_CLIENT // processes
        )
        self.uploads = Budget(
            "request bodies are arriving",
            named.UPLOADS_MAX // processes,
            named.UPLOADS_MAX_PER_CLIENT // processes,
        )
        self._writes = 0  # in flight
        self._write_at = float("-inf")  # when that number last changed
        self._slices = FairQueue(
            1,
            per_client=1,
            waiting_per_client=named.REQUESTS_MAX_IN_FLIGHT
            + named.WAITS_MAX,  # the maximum of concurrent requests
            refusal=lambda count: TooManyRequests(f"{count} long reads wait for their turn; try again later"),
        )

    @contextmanager
    def uploading(self, client: str) -> Iterator[None]:
        """Hold an upload slot while a request's body arrives."""
        self.uploads.take(client)
        try:
            yield
        finally:
            self.uploads.give(client)

    def working(self, client: str, *, is_write: bool) -> "_Slot":
        """Hold a work slot while a request is answered; `waiting` releases it for some time."""
        return _Slot(self, client, is_write=is_write)

    def count_write(self, change: int) -> None:
        """Count a write that begins (1) or ends (-1)."""
        self._writes += change
        self._write_at = perf_counter()

    async def yield_point(self, client: str, slice_seconds: float) -> None:
        """Wait until a long read may run its next slice; the last one took `slice_seconds`."""
        await asyncio.sleep(0)
        if not self._is_busy(perf_counter()):
            return
        pause = named.LONG_READ_PAUSE_FACTOR * min(slice_seconds, named.LONG_READ_SLICE_MAX_SECONDS)
        async with self._slices.turn(client):
            start = perf_counter() + pause
            while (now := perf_counter()) < start and self._is_busy(now):  # noqa: ASYNC110 - it waits for a time
                await asyncio.sleep(min(start - now, named.LONG_READ_POLL_SECONDS))

    def _is_busy(self, now: float) -> bool:
        return self._writes > 0 or now - self._write_at < named.LONG_READ_POLL_SECONDS


class _Slot:
    """The slot of one request, which is working or waiting; held within its block, in the request's task."""

    __slots__ = ("_began", "_capacity", "_depth", "_is_write", "_tokens", "client")

    def __init__(self, capacity: Capacity, client: str, *, is_write: bool) -> None:
        self._capacity = capacity
        self._depth = 0
        self._began = 0.0
        self._is_write = is_write
        self._tokens: tuple[Token[Any], Token[Any]]
        self.client = client

    def __enter__(self) -> None:
        self._capacity.work.take(self.client, may_use_reserve=self._is_write)
        self._tokens = _slot.set(self), yield_hook.set(None if self._is_write else self.yield_point)
        self._began = perf_counter()
        self._count(1)

    def __exit__(self, *_: object) -> None:
        slot, hook = self._tokens
        yield_hook.reset(hook)
        _slot.reset(slot)
        self._count(-1)
        self._capacity.work.give(self.client)

    def park(self) -> None:
        if not self._depth:
            self._capacity.waits.take(self.client)
            self._capacity.work.give(self.client)
            self._count(-1)
        self._depth += 1

    def resume(self) -> None:
        self._depth -= 1
        if not self._depth:
            # Never refused: its client has waited, and waits have a limit of their own.
            self._capacity.waits.give(self.client)
            self._capacity.work.take_anyway(self.client)
            self._count(1)
            self._began = perf_counter()  # the wait was not a slice

    async def yield_point(self) -> None:
        """Called between two steps of a read: after a full slice, let writes run first."""
        seconds = perf_counter() - self._began
        if seconds >= named.LONG_READ_SLICE_SECONDS:
            await self._capacity.yield_point(self.client, seconds)
            self._began = perf_counter()

    def _count(self, change: int) -> None:
        if self._is_write:
            self._capacity.count_write(change)


_slot: Final[ContextVar[_Slot | None]] = ContextVar("slot", default=None)


@contextmanager
def waiting() -> Iterator[None]:
    """Release this task's work slot while it waits for something.

    Raises:
        TooManyRequests: if too many requests are waiting.
    """
    slot = _slot.get()
    if slot is None:  # a feed or a probe
        yield
        return
    slot.park()
    try:
        yield
    finally:
        slot.resume()


def client_of_request() -> str:
    """The client of this task's request: the id of a token; empty without tokens."""
    slot = _slot.get()
    return slot.client if slot is not None else ""


@asynccontextmanager
async def queued(queue: FairQueue) -> AsyncIterator[None]:
    """Hold a turn in a queue; the request waits for it without a work slot.

    Raises:
        TooManyRequests: if too many requests of its client are waiting.
    """
    client = client_of_request()
    if not queue.try_enter(client):
        with waiting():
            await queue.enter(client)
    try:
        yield
    finally:
        queue.leave(client)
