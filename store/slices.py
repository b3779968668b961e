"""Long work on an event loop, cut into slices: between two of them, others have their turn.

The work calls `give_way` once for each small step. Who runs the work decides what that does: a service sets
`way` for each request that reads; elsewhere it does nothing.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

way: Final[ContextVar[Callable[[], Awaitable[None]] | None]] = ContextVar("way", default=None)
"""What `give_way` calls in this task, and in those that it starts."""


async def give_way() -> None:
    """Let more urgent work go first, if there is any; cheap enough to be called for each record."""
    found = way.get()
    if found is not None:
        await found()
