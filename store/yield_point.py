"""A point in long work at which more urgent work can run first.

The work awaits `yield_point` after each small step. The caller of the work decides what that does: a service
sets `yield_hook` for each request that reads; without a hook it does nothing.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

yield_hook: Final[ContextVar[Callable[[], Awaitable[None]] | None]] = ContextVar("yield_hook", default=None)
"""What `yield_point` awaits in this task and in the tasks that it starts."""


async def yield_point() -> None:
    """Let more urgent work run first, if there is any; cheap enough for each record of a page."""
    hook = yield_hook.get()
    if hook is not None:
        await hook()
