"""Turns at something scarce: each client's in the order that they came, and clients in rotation.

    enter ──► a slot is free, and the client is below its share ──► turn ──► leave
         └──► waits in its client's own line ──► the next slot goes to the next client in rotation ──┘

A client that asks for much therefore delays itself: one that asks for a single turn waits for the turns that
have begun, and for at most one of each other client.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class FairQueue:
    """Some slots, shared by clients.

    Args:
        slots: turns at once.
        per_client: of these, for one client at most; below `slots`, one client leaves room for others.
        waiting_per_client: turns of one client that wait.
        refusal: makes the error for one that is too many, from the number that wait.
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
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # in the order of the rotation

    @property
    def waiting(self) -> int:
        """Turns that wait."""
        return sum(map(len, self._lines.values()))

    @asynccontextmanager
    async def turn(self, client: str = "") -> AsyncIterator[None]:
        """Hold a slot; see `enter`."""
        await self.enter(client)
        try:
            yield
        finally:
            self.leave(client)

    def try_enter(self, client: str) -> bool:
        """Take a slot if that needs no waiting; every slot that was taken is given back by `leave`."""
        if not self._free or client in self._lines or self._active[client] >= self._per_client:
            return False
        self._take(client)
        return True

    async def enter(self, client: str) -> None:
        """Take a slot, as soon as it is the client's turn.

        Raises:
            Exception: that of `refusal`, if too many turns of this client wait.
        """
        if self.try_enter(client):
            return
        line = self._lines.setdefault(client, deque())
        if len(line) >= self._waiting_per_client:
            raise self._refusal(len(line))
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.leave(client)  # it was granted just before
            else:
                self._forget(client, granted)
            raise

    def leave(self, client: str) -> None:
        """Give a slot back, and let the next ones have theirs."""
        self._free += 1
        self._active[client] -= 1
        if not self._active[client]:
            del self._active[client]
        while self._free and (following := self._next()) is not None:
            line = self._lines.pop(following)
            granted = line.popleft()
            if line:
                self._lines[following] = line  # at the end of the rotation
            if not granted.done():
                self._take(following)
                granted.set_result(None)

    def _next(self) -> str | None:
        return next((client for client in self._lines if self._active[client] < self._per_client), None)

    def _take(self, client: str) -> None:
        self._free -= 1
        self._active[client] += 1

    def _forget(self, client: str, granted: "asyncio.Future[None]") -> None:
        line = self._lines.get(client)
        if line is not None and granted in line:
            line.remove(granted)
            if not line:
                del self._lines[client]
