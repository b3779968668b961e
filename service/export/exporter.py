"""How far a telling came: what was written, and where to go on."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from jobledger.service.cursor import format_cursor
from jobledger.service.export.background_thread import BackgroundThread
from jobledger.service.export.query import Chunk, Range
from jobledger.service.export.text_format import Form
from jobledger.service.limits import REPLAY_WRITE_GRACE_SECONDS


class Export:
    """One telling under way.

    Attributes:
        range: where it began and is to end.
        reached: all up to this sequence was written, or is not asked for.
        events: how many were written.
        anomalies: records that changed no job, and so were left out.
        read: all up to this sequence was read; before the beginning, for what the jobs were then.
        is_stuck: whether its reader did not take what was written last.

    Args:
        range_: where it begins and ends.
        form: what writes it.
        watch: called after each chunk that was written.
    """

    def __init__(self, range_: Range, form: Form, watch: Callable[["Export"], None]) -> None:
        self.range = range_
        self.reached = range_.after
        self.events = 0
        self.anomalies = 0
        self.read = 0
        self.is_stuck = False
        self._form = form
        self._watch = watch
        self._under_way: tuple[asyncio.Future[None], Chunk] | None = None

    @property
    def cursor(self) -> str:
        """Where to go on."""
        return format_cursor(self.range.mark, self.reached)

    async def run(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        """Write all of it; one chunk is written while the next is read.

        Raises:
            CancelledError: it was called off; what was under way is written, if its reader takes it.
            JobledgerError: it can't be read on, or not be written.
            ReaderGone: nobody reads any more.
        """
        with BackgroundThread() as beside:
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        await self._written()
                        done = beside.do(partial(self._form.write, chunk.documents))
                        self._under_way = done, chunk
                await self._written()
            except BaseException:
                await self._let_end()
                raise

    async def _written(self) -> None:
        """Wait until what was given last is written."""
        if self._under_way is not None:
            done, chunk = self._under_way
            await asyncio.shield(done)
            self._under_way = None
            self._note(chunk)

    async def _let_end(self) -> None:
        """It is over, for another reason: what is being written is counted if it is written soon."""
        if self._under_way is None:
            return
        done, chunk = self._under_way
        await asyncio.wait([done], timeout=REPLAY_WRITE_GRACE_SECONDS)
        self.is_stuck = not done.done()
        if done.done() and done.exception() is None:
            self._note(chunk)

    def _note(self, chunk: Chunk) -> None:
        self.reached = chunk.reached
        self.events += len(chunk.documents)
        self.anomalies = chunk.anomalies
        self.read = chunk.read
        self._watch(self)
