"""The event loop of the service's tests: that of `jobledger serve`.

A conftest imports the hook for the tests of its folder.
"""

import asyncio
from collections.abc import Callable, Mapping

from jobledger.service.server.event_loop import loop_factory


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the one event loop of these tests."""
    return {"service": loop_factory() or asyncio.new_event_loop}
