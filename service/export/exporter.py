"""Writes the chunks of a source in a format, and counts its progress."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from jobledger.service.cursor import format_cursor
from jobledger.service.export.background_thread import BackgroundThread
from jobledger.service.export.query import Chunk, ExportRange
from jobledger.service.export.text_format import EventFormat
from jobledger.service.limits import REPLAY_WRITE_GRACE_SECONDS


class Export:
    """One export.

    Attributes:
        range: the range in the log.
        reached: every matching event up to this sequence is written.
        events: written so far.
        anomalies: records that changed no job, and are omitted.
        read: the last sequence that was read; it may be before the range, to build the state of the jobs.
        is_blocked: whether the reader of the output did not accept the last chunk.

    Args:
        range_: the range in the log.
        format_: writes the events.
        on_progress: called after each chunk.
    """

    def __init__(
        self, range_: ExportRange, format_: EventFormat, on_progress: Callable[["Export"], None]
    ) -> None:
        self.range = range_
        self.reached = range_.after
        self.events = 0
        self.anomalies = 0
        self.read = 0
        self.is_blocked = False
        self._format = format_
        self._on_progress = on_progress
        self._pending: tuple[asyncio.Future[None], Chunk] | None = None

    @property
    def cursor(self) -> str:
        """The cursor to resume from."""
        return format_cursor(self.range.stream_tag, self.reached)

    async def run(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        """Write all chunks; each is written while the next one is read.

        Raises:
            CancelledError: cancelled; the pending chunk is written if the reader accepts it.
            JobledgerError: reading or writing failed.
            OutputClosed: the reader closed the output.
        """
        with BackgroundThread() as thread:
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        await self._wait_for_pending()
                        done = thread.run(partial(self._format.write, chunk.documents))
                        self._pending = done, chunk
                await self._wait_for_pending()
            except BaseException:
                await self._finish_pending()
                raise

    async def _wait_for_pending(self) -> None:
        if self._pending is not None:
            done, chunk = self._pending
            await asyncio.shield(done)
            self._pending = None
            self._count(chunk)

    async def _finish_pending(self) -> None:
        """After an error: count the pending chunk if it is written within the grace period."""
        if self._pending is None:
            return
        done, chunk = self._pending
        await asyncio.wait([done], timeout=REPLAY_WRITE_GRACE_SECONDS)
        self.is_blocked = not done.done()
        if done.done() and done.exception() is None:
            self._count(chunk)

    def _count(self, chunk: Chunk) -> None:
        self.reached = chunk.reached
        self.events += len(chunk.documents)
        self.anomalies = chunk.anomalies
        self.read = chunk.read
        self._on_progress(self)
