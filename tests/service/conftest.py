"""Tests of the service run on the event loop that `jobledger serve` uses."""

from tests.support.service_loop import pytest_asyncio_loop_factories  # noqa: F401 - a hook
