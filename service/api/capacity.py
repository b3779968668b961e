"""How much may be under way at once, for all and for each client: work, waits, and bodies that arrive.

    body ──► uploading ──► working ──► answered
                             │  ▲
                             ▼  │  `waiting()`: a long poll, `wait_for`, a turn in a queue
                            waiting

Each of the three has a budget of its own, of which one client gets a fraction. So a client that waits, or
sends slowly, takes no slot from those who work; and reads leave some slots to writes. Feeds have their own
budget (`FeedHub`); health and metrics are not counted at all.

All requests share one interpreter, and a read that takes long is cut into slices (`store/yield_point`). While
writes are under way, or were a moment ago, all such reads together get one slice after another, clients in
rotation, and before each of them a pause that is a few times as long. So the latency of most writes does not
change, whatever somebody else reads, and no read is ever stopped. Copies as of a point are built in
threads of their own and are not part of this.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Final

from jobledger.projections.fair_queue import FairQueue
from jobledger.service import limits as named
from jobledger.service.errors import TooManyRequests
from jobledger.store.yield_point import yield_hook


class Budget:
    """Places of one kind.

    Args:
        what: is counted, for the error.
        total: places, for all together.
        per_client: for one client; a client without a name has no share of its own.
        reserved: of `total`, that only those get who may use the reserve.
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
        self._clients: Counter[str] = Counter()

    def take(self, client: str, *, may_use_reserve: bool = True) -> None:
        """Take a place.

        Raises:
            TooManyRequests: if there is none, for this client or at all.
        """
        kept, mine = (0, 0) if may_use_reserve else (self._reserved, self._reserved_per_client)
        if client and self._clients[client] >= self._per_client - mine:
            raise TooManyRequests(f"{self._per_client - mine} {self._what} of this client; try again later")
        if self.count >= self._total - kept:
            raise TooManyRequests(f"{self._total - kept} {self._what}; try again later")
        self.take_anyway(client)

    def take_anyway(self, client: str) -> None:
        """Take a place, even beyond the budget: for one that was promised."""
        self.count += 1
        self._clients[client] += 1

    def give(self, client: str) -> None:
        """Give a place back."""
        self.count -= 1
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


class Capacity:
    """The budgets of one process."""

    def __init__(self) -> None:
        self.work = Budget(
            "requests are under way",
            named.REQUESTS_MAX_IN_FLIGHT,
            named.REQUESTS_MAX_PER_CLIENT,
            reserved=named.REQUESTS_KEPT_FOR_WRITES,
            reserved_per_client=named.REQUESTS_KEPT_FOR_WRITES_PER_CLIENT,
        )
        self.waits = Budget("requests are waiting", named.WAITS_MAX, named.WAITS_MAX_PER_CLIENT)
        self.uploads = Budget("request bodies are arriving", named.UPLOADS_MAX, named.UPLOADS_MAX_PER_CLIENT)
        self._writes = 0  # that are worked on
        self._write_at = float("-inf")  # when their number changed
        self._slices = FairQueue(
            1,
            per_client=1,
            waiting_per_client=named.REQUESTS_MAX_IN_FLIGHT + named.WAITS_MAX,  # no more requests exist
            refusal=lambda count: TooManyRequests(f"{count} long reads wait for their turn; try again later"),
        )

    @contextmanager
    def uploading(self, client: str) -> Iterator[None]:
        """While a request's body arrives."""
        self.uploads.take(client)
        try:
            yield
        finally:
            self.uploads.give(client)

    @contextmanager
    def working(self, client: str, *, is_write: bool) -> Iterator[None]:
        """While a request is answered; within it, `waiting` gives the slot to others."""
        self.work.take(client, may_use_reserve=is_write)
        turn = _Turn(self, client, is_write=is_write)
        token, hook_token = _turn.set(turn), yield_hook.set(None if is_write else turn.yield_point)
        try:
            yield
        finally:
            yield_hook.reset(hook_token)
            _turn.reset(token)
            turn.end()
            self.work.give(client)

    def count_write(self, change: int) -> None:
        """Count a write that is under way, or one less."""
        self._writes += change
        self._write_at = perf_counter()

    async def yield_point(self, client: str, slice_seconds: float) -> None:
        """Wait until a long read may have its next slice.

        Args:
            client: whose read it is.
            slice_seconds: how long its last one took.
        """
        await asyncio.sleep(0)
        if not self._is_busy(perf_counter()):
            return
        pause = named.LONG_READ_PAUSE_FACTOR * min(slice_seconds, named.LONG_READ_SLICE_MAX_SECONDS)
        async with self._slices.turn(client):
            start = perf_counter() + pause
            while (now := perf_counter()) < start and self._is_busy(now):  # noqa: ASYNC110 - it waits for time
                await asyncio.sleep(min(start - now, named.LONG_READ_LOOK_SECONDS))

    def _is_busy(self, now: float) -> bool:
        return self._writes > 0 or now - self._write_at < named.LONG_READ_LOOK_SECONDS


class _Turn:
    """One request that is counted: it works, or waits."""

    __slots__ = ("_began", "_capacity", "_depth", "_is_write", "client")

    def __init__(self, capacity: Capacity, client: str, *, is_write: bool) -> None:
        self._capacity = capacity
        self._depth = 0
        self._began = perf_counter()
        self._is_write = is_write
        self.client = client
        self._count(1)

    def park(self) -> None:
        if not self._depth:
            self._capacity.waits.take(self.client)
            self._capacity.work.give(self.client)
            self._count(-1)
        self._depth += 1

    def resume(self) -> None:
        self._depth -= 1
        if not self._depth:
            # Not refused: its client has waited for it, and waits are bounded themselves.
            self._capacity.waits.give(self.client)
            self._capacity.work.take_anyway(self.client)
            self._count(1)
            self._began = perf_counter()  # what it waited is no slice

    def end(self) -> None:
        self._count(-1)

    async def yield_point(self) -> None:
        """Between two steps of a read: once it has used up a slice, let writes go first."""
        seconds = perf_counter() - self._began
        if seconds >= named.LONG_READ_SLICE_SECONDS:
            await self._capacity.yield_point(self.client, seconds)
            self._began = perf_counter()

    def _count(self, change: int) -> None:
        if self._is_write:
            self._capacity.count_write(change)


_turn: Final[ContextVar[_Turn | None]] = ContextVar("turn", default=None)


@contextmanager
def waiting() -> Iterator[None]:
    """While the request of this task waits for something to happen; it takes no work slot meanwhile.

    Raises:
        TooManyRequests: if too many wait already.
    """
    turn = _turn.get()
    if turn is None:  # a feed, or a request for health
        yield
        return
    turn.park()
    try:
        yield
    finally:
        turn.resume()


def client_of_request() -> str:
    """Whose request this task answers: the id of a token; empty without tokens."""
    turn = _turn.get()
    return turn.client if turn is not None else ""


@asynccontextmanager
async def queued(queue: FairQueue) -> AsyncIterator[None]:
    """Hold a turn of a queue, which the request waits for without a work slot.

    Raises:
        TooManyRequests: if too many of its client wait already.
    """
    client = client_of_request()
    if not queue.try_enter(client):
        with waiting():
            await queue.enter(client)
    try:
        yield
    finally:
        queue.leave(client)
