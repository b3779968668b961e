"""A daemon thread for blocking calls.

A blocked call (a reader of a pipe that stops reading, a service that sends nothing) stops neither the event
loop, and with it the connection to the log, nor the end of the process: an executor would wait for its
threads, a daemon thread is not waited for.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Self, TypeVar

T = TypeVar("T")


class BackgroundThread:
    """Runs calls one after the other: `with BackgroundThread() as thread: await thread.run(call)`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()

    def __enter__(self) -> Self:
        threading.Thread(target=self._work, name="export", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Queue a call; cancelling the future does not cancel the call."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((call, done))
        return done

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            call, done = work
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001  # the caller handles it
                error = raised
            try:
                self._loop.call_soon_threadsafe(_resolve, done, result, error)
            except RuntimeError:  # the loop is closed
                return


def _resolve(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
