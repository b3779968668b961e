"""Runs a build in a thread with an event loop of its own, so that folding holds up nobody's requests.

    the loop that serves                    the thread's loop
    log (its connection lives here)  ◄────  `_DistantLog`: asks, and gets records
    `in_thread` waits                       folds them, writes the copy

Cancelling `in_thread` cancels what runs in the thread, and waits until it has let go of its files.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from jobledger.store.log import EventLog, Feed
from jobledger.store.model.events import Record

T = TypeVar("T")


async def in_thread(work: Callable[[EventLog], Coroutine[Any, Any, T]], log: EventLog, *, name: str) -> T:
    """The result of a coroutine that runs in a thread of its own.

    Args:
        work: makes the coroutine; it gets a log that can be used there, to read and to follow.
        log: of the loop that calls.
        name: of the thread.

    Raises:
        Exception: whatever the coroutine raises.
    """
    distant = cast("EventLog", _DistantLog(log, asyncio.get_running_loop()))
    errand = _Errand(lambda: work(distant))
    threading.Thread(target=errand.run, name=name, daemon=True).start()
    try:
        return await asyncio.shield(errand.ended)
    except asyncio.CancelledError:
        errand.cancel()
        await asyncio.wait({errand.ended})
        raise


class _Errand(Generic[T]):
    """A coroutine that another thread runs for this loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._home = asyncio.get_running_loop()
        self._lock = threading.Lock()  # of the next two
        self._is_cancelled = False
        self._task: asyncio.Task[T] | None = None
        self.ended: asyncio.Future[T] = self._home.create_future()

    def run(self) -> None:
        """Run it, in the thread."""
        result: T | None = None
        error: BaseException | None = None
        try:
            result = asyncio.run(self._begin())
        except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
            error = raised
        with suppress(RuntimeError):  # the loop at home was closed: nobody waits
            self._home.call_soon_threadsafe(self._settle, result, error)

    def cancel(self) -> None:
        """Let it end; `ended` says when it has."""
        with self._lock:
            self._is_cancelled = True
            if self._task is not None and not self.ended.done():
                with suppress(RuntimeError):  # its loop has just ended
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _begin(self) -> T:
        with self._lock:
            self._task = cast("asyncio.Task[T]", asyncio.current_task())
            if self._is_cancelled:
                raise asyncio.CancelledError
        return await self._work()

    def _settle(self, result: T | None, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(cast("T", result))
        elif isinstance(error, asyncio.CancelledError):
            self.ended.cancel()
        else:
            self.ended.set_exception(error)


class _Distant:
    """Lets a coroutine of another loop be awaited in this one."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        self._home = home

    async def _at_home(self, asked: Callable[[], Awaitable[T]]) -> T:
        async def ask() -> T:
            return await asked()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self._home))


class _DistantLog(_Distant):
    """What a build uses of a log that lives in another loop; see `EventLog`."""

    def __init__(self, log: EventLog, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(home)
        self._log = log

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        return await self._at_home(lambda: self._log.read(subject, after=after, up_to=up_to))

    async def read_last(self, subject: str) -> Record | None:
        return await self._at_home(lambda: self._log.read_last(subject))

    async def follow(self, *, after: int, epoch: str | None = None) -> "_DistantFeed":
        feed = await self._at_home(lambda: self._log.follow(after=after, epoch=epoch))
        return _DistantFeed(feed, self._home)


class _DistantFeed(_Distant):
    """What a build uses of a feed that lives in another loop; see `Feed`."""

    def __init__(self, feed: Feed, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(home)
        self._feed = feed

    async def take(self, max_records: int) -> Sequence[Record]:
        return await self._at_home(lambda: self._feed.take(max_records))

    async def close(self) -> None:
        await self._at_home(self._feed.close)
