"""How much may be under way at once, for all and for each client: work, waits, and bodies that arrive.

    body ──► uploading ──► working ──► answered
                             │  ▲
                             ▼  │  `waiting()`: a long poll, `wait_for`, a turn in a queue
                            waiting

Each of the three has a budget of its own, of which one client gets a fraction. So a client that waits, or
sends slowly, takes no slot from those who work; and reads leave some slots to writes. Feeds have their own
budget (`FeedHub`); health and metrics are not counted at all.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Final

from jobledger.projections.fairqueue import FairQueue
from jobledger.service import limits as named
from jobledger.service.errors import TooManyRequests


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
        turn = _Turn(self, client)
        token = _turn.set(turn)
        try:
            yield
        finally:
            _turn.reset(token)
            self.work.give(client)


class _Turn:
    """One request that is counted: it works, or waits."""

    __slots__ = ("_capacity", "_depth", "client")

    def __init__(self, capacity: Capacity, client: str) -> None:
        self._capacity = capacity
        self._depth = 0
        self.client = client

    def park(self) -> None:
        if not self._depth:
            self._capacity.waits.take(self.client)
            self._capacity.work.give(self.client)
        self._depth += 1

    def resume(self) -> None:
        self._depth -= 1
        if not self._depth:
            # Not refused: its client has waited for it, and waits are bounded themselves.
            self._capacity.waits.give(self.client)
            self._capacity.work.take_anyway(self.client)


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
