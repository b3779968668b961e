"""The event loop of the service: uvloop's where it is installed, otherwise asyncio's.

The `server` extra installs uvloop wherever it runs. Nothing depends on it: it saves CPU per request
(docs/PERFORMANCE.md).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on the event loop of the service."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop; None: asyncio's own."""
    try:
        import uvloop  # optional: not every platform has it
    except ImportError:
        return None
    return uvloop.new_event_loop
