"""A fair queue for a limited number of slots: first in, first out per client, round-robin between clients.

    enter ──► a slot is free and the client is below its limit ──► holds a slot ──► leave
         └──► waits in its client's queue ──► the next slot goes to the next client in the rotation ──┘

A client with many requests delays only itself: a client with one request waits for the slots in use, and for
at most one request of each other client.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class FairQueue:
    """Slots shared by clients.

    Args:
        slots: slots in use at once.
        per_client: slots that one client may use at once; less than `slots` reserves slots for others.
        waiting_per_client: requests of one client that may wait.
        refusal: creates the error for a further request from the number that wait.
    """

    def __init__(
        self,
        slots: int,
        *,
        per_client: int,
        waiting_per_client: int,
        refusal: Callable[[int], Exception],
    ) -> None:
        self._free = slots
        self._per_client = per_client
        self._waiting_per_client = waiting_per_client
        self._refusal = refusal
        self._active: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # in the order of the rotation

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, client: str = "") -> AsyncIterator[None]:
        """Hold a slot within the block; see `enter`."""
        await self.enter(client)
        try:
            yield
        finally:
            self.leave(client)

    def try_enter(self, client: str) -> bool:
        """Take a slot if one is available without waiting; the caller must `leave`."""
        if not self._free or client in self._queues or self._active[client] >= self._per_client:
            return False
        self._take(client)
        return True

    async def enter(self, client: str) -> None:
        """Take a slot when it is the client's turn; the caller must `leave`.

        Raises:
            Exception: from `refusal`, if too many requests of this client wait.
        """
        if self.try_enter(client):
            return
        queue = self._queues.setdefault(client, deque())
        if len(queue) >= self._waiting_per_client:
            raise self._refusal(len(queue))
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.leave(client)  # granted before the cancellation
            else:
                self._forget(client, granted)
            raise

    def leave(self, client: str) -> None:
        """Release a slot, and grant free slots to waiting requests."""
        self._free += 1
        self._active[client] -= 1
        if not self._active[client]:
            del self._active[client]
        while self._free and (following := self._next()) is not None:
            queue = self._queues.pop(following)
            granted = queue.popleft()
            if queue:
                self._queues[following] = queue  # at the end of the rotation
            if not granted.done():
                self._take(following)
                granted.set_result(None)

    def _next(self) -> str | None:
        return next((client for client in self._queues if self._active[client] < self._per_client), None)

    def _take(self, client: str) -> None:
        self._free -= 1
        self._active[client] += 1

    def _forget(self, client: str, granted: "asyncio.Future[None]") -> None:
        queue = self._queues.get(client)
        if queue is not None and granted in queue:
            queue.remove(granted)
            if not queue:
                del self._queues[client]
