"""Read a number of events of a subscription, or up to a sequence, with a timeout."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobledger import EmbeddedServer, JetStreamLog, SubscribedEvent, Subscription
from jobledger.store.consumer import ConsumerInfo
from jobledger.store.jetstream.consumer.holder import JetStreamConsumer

WITHIN_SECONDS = 30.0


async def take(events: Subscription, count: int) -> list[SubscribedEvent]:
    """Return the next events; the last one is not acknowledged."""
    found: list[SubscribedEvent] = []
    async with asyncio.timeout(WITHIN_SECONDS):
        while len(found) < count:
            found.append(await anext(events))
    return found


async def take_to(events: Subscription, sequence: int) -> list[SubscribedEvent]:
    """Return the next events up to this sequence; the last one is not acknowledged."""
    found: list[SubscribedEvent] = []
    async with asyncio.timeout(WITHIN_SECONDS):
        while not found or found[-1].sequence < sequence:
            found.append(await anext(events))
    return found


async def finish(events: Subscription) -> None:
    """Acknowledge the last event and wait until the server knows it."""
    assert events._event is not None
    await events._event.ack()


def sequences(found: list[SubscribedEvent]) -> list[int]:
    """Return the sequences of events."""
    return [event.sequence for event in found]


def take_later(events: Subscription, count: int) -> "asyncio.Task[list[SubscribedEvent]]":
    """Return a task for the next events, in the task that handled the last one."""
    events._task = None  # the test's task stops reading
    return asyncio.create_task(take(events, count))


class Reader:
    """Reads a subscription in the background."""

    def __init__(self, events: Subscription) -> None:
        self.events = events
        self.found: list[SubscribedEvent] = []
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Handle every event."""
        async for event in self.events:
            self.found.append(event)
            self._news.set()

    async def until(self, sequence: int) -> None:
        """Wait until this event, or a later one, is delivered."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while not self.found or max(sequences(self.found)) < sequence:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def reading(events: Subscription) -> AsyncIterator[Reader]:
    """Open a subscription, read it and close it."""
    async with events:
        reader = Reader(events)
        task = asyncio.create_task(reader.read())
        try:
            yield reader
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def other_process(server: EmbeddedServer, *, accept_loss: bool = False) -> AsyncIterator[JetStreamLog]:
    """Return a log on its own connection, like another process."""
    log = await JetStreamLog.connect(server.url, accept_loss=(lambda _: None) if accept_loss else None)
    try:
        yield log
    finally:
        await log.close()


def source_of(events: Subscription) -> JetStreamConsumer:
    """Return the consumer of an unshared subscription."""
    source = events._partitions[0]._source
    assert isinstance(source, JetStreamConsumer)
    return source


async def the_info(log: JetStreamLog, name: str) -> ConsumerInfo:
    """Return the server's info of a consumer."""
    info = await log.consumers().info(name)
    assert info is not None
    return info
