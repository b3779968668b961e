"""The event loop of the service."""

import asyncio
import sys

import pytest
import uvloop

from jobledger.service.server import event_loop


async def running() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_the_service_runs_on_uvloop() -> None:
    """Where it is installed, as the `server` extra does."""
    assert isinstance(event_loop.run(running()), uvloop.Loop)


def test_the_service_runs_on_asyncio_where_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no uvloop for Windows and for PyPy."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert event_loop.loop_factory() is None
    assert not isinstance(event_loop.run(running()), uvloop.Loop)


async def test_these_tests_run_on_the_loop_of_the_service() -> None:
    """So that what differs between the loops is tested on the one that is used."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
