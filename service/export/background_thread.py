"""A thread beside the event loop, which nobody has to wait for at the end.

What blocks there (a reader that stops reading, a service that says nothing) does not stop the loop, and so
not the connection to the log either; and Ctrl-C ends the process although it blocks: the threads of an
executor would be waited for.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Self, TypeVar

T = TypeVar("T")


class BackgroundThread:
    """Does what it is given, one after the other, while a block runs: `with Beside() as beside:`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="beside", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._work.put(None)

    def do(self, what: Callable[[], T]) -> asyncio.Future[T]:
        """Have something done; its result or error is the future's. Cancelling that does not call it off."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._work.put((what, done))
        return done

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            what, done = work
            result, error = None, None
            try:
                result = what()
            except BaseException as raised:  # noqa: BLE001  # it is the caller's, whatever it is
                error = raised
            try:
                self._loop.call_soon_threadsafe(_tell, done, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def _tell(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
