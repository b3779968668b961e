"""Handlers that fail on demand, subscriptions that run them, and their parking records."""

import asyncio
from collections import defaultdict
from typing import Self

from jobledger import (
    JetStreamLog,
    SubscribedEvent,
    Subscription,
)
from jobledger.projections.subscriptions.definition import parked_key
from jobledger.projections.subscriptions.parking import (
    ParkedJob,
    decode_parked,
)
from tests.support.readers import WITHIN_SECONDS

JOBS = 4
ROUNDS = 5


class Handler:
    """A handler that fails at configured events, and records its calls."""

    def __init__(self, fails: dict[int, int]) -> None:
        self.fails = fails
        self.done: list[int] = []
        self.tried: list[tuple[int, int]] = []
        self.of_job: dict[str, list[int]] = defaultdict(list)
        self.news = asyncio.Event()

    async def __call__(self, event: SubscribedEvent) -> None:
        """Handle one event."""
        self.tried.append((event.sequence, event.attempt))
        self.news.set()
        if self.fails.get(event.sequence, 0) > 0:
            self.fails[event.sequence] -= 1
            raise ValueError(f"{event.sequence} is poison")
        self.done.append(event.sequence)
        self.of_job[event.job_id].append(event.sequence)

    async def until(self, *wanted: int) -> None:
        """Wait until these events were handled."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while not set(wanted) <= {*self.done}:
                self.news.clear()
                await self.news.wait()


class Running:
    """Run a handler on a subscription until the block ends."""

    def __init__(self, events: Subscription, handler: Handler) -> None:
        self.events = events
        self.handler = handler

    async def __aenter__(self) -> Self:
        await self.events.__aenter__()
        self._task = asyncio.create_task(self.events.run(self.handler))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.events.__aexit__(asyncio.CancelledError, None, None)


async def the_record(log: JetStreamLog, name: str, job_id: str) -> ParkedJob | None:
    """Return the parking record of a job."""
    entry = await (await log.key_value("SUBSCRIPTIONS")).get(parked_key(name, job_id))
    return decode_parked(entry.value) if entry is not None else None


async def rewrite(log: JetStreamLog, parked: ParkedJob) -> None:
    """Return the admin interface of subscriptions."""
    records = await log.key_value("SUBSCRIPTIONS")
    key = parked_key(parked.subscription, parked.job_id)
    entry = await records.get(key)
    assert entry is not None
    assert await records.put(key, parked.encode(), expect=entry.revision) is not None


async def gone(log: JetStreamLog, name: str, job_id: str) -> bool:
    """Whether a job has no parking record."""
    return await the_record(log, name, job_id) is None
