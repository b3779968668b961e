"""Atomic batches of any size, sent without the publisher's choice between batches and single publishes."""

import asyncio
from collections.abc import Sequence

from jobledger.store.jetstream.api import PubAck
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.jetstream.publisher import Batch
from jobledger.store.jetstream.reconcile import PendingAppend
from jobledger.store.log import NO_JOB, PendingEvent


async def send_batch(log: JetStreamLog, drafts: Sequence[PendingEvent]) -> PubAck | None:
    """Send first events of jobs as one batch; returns the server's answer, or None without one."""
    loop = asyncio.get_running_loop()
    batch = Batch(log.publisher._connection)
    for each in drafts:
        batch.add(PendingAppend(each, NO_JOB, loop.create_future(), loop.time()))
    await batch.send(1, len(drafts) - 1, loop.time())
    return await log.publisher._commit(batch)
