"""Waiting for the verdict on a log that seems to lack what was read before."""

import asyncio
from collections.abc import Callable

from jobledger.store.log import EventLog, LogInfo
from jobledger.store.model.errors import LogBehind
from jobledger.store.model.events import Record
from jobledger.store.model.limits import TRUNCATION_GIVE_UP_SECONDS, TRUNCATION_LOOK_SECONDS


async def wait_continues(
    log: EventLog, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
) -> LogInfo:
    """`EventLog.continues`, asked until there is a verdict: for a caller that can do nothing meanwhile.

    Raises:
        LogBehind: if there is no verdict within TRUNCATION_GIVE_UP_SECONDS.
        LogError: as `EventLog.continues`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + TRUNCATION_GIVE_UP_SECONDS
    while True:
        try:
            return await log.continues(epoch=epoch, after=after, same=same)
        except LogBehind:
            if clock() >= deadline:
                raise
        await asyncio.sleep(TRUNCATION_LOOK_SECONDS)
