"""Logs with a live view and snapshots of it, for queries as of an earlier point."""

import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from jobledger import MemoryLog, Projector, View
from jobledger.projections.as_of.reader import AsOf
from jobledger.store.log import PendingEvent
from jobledger.store.model.events import Record
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND
from tests.support.histories import append_all, records_of

WAIT_SECONDS = 60.0


class History:
    """A log with its live view and its snapshots."""

    def __init__(self, log: MemoryLog, view: View, asof: AsOf, records: list[Record]) -> None:
        self.log = log
        self.view = view
        self.asof = asof
        self.records = records


async def log_of(drafts: list[PendingEvent]) -> MemoryLog:
    """Return a log of these drafts, one second apart."""
    ticks = itertools.count(NANOSECONDS_PER_SECOND, NANOSECONDS_PER_SECOND)
    log = MemoryLog(clock=lambda: next(ticks))
    await append_all(log, drafts)
    return log


@asynccontextmanager
async def history(drafts: list[PendingEvent], **bounds: int) -> AsyncIterator[History]:
    """Open a history in a temporary directory."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = await log_of(drafts)
        projector = await stack.enter_async_context(Projector(log, directory / "view.db"))
        await projector.wait_for(len(drafts), WAIT_SECONDS)
        view = await stack.enter_async_context(await View.open(directory / "view.db", readers=1))
        asof = await stack.enter_async_context(await AsOf.open(log, view, directory / "asof", **bounds))
        yield History(log, view, asof, await records_of(log))
