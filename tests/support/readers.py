"""Reading subscriptions in tests: so many events, or up to a sequence, within a bound."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobledger import EmbeddedServer, JetStreamLog, SubscribedEvent, Subscription
from jobledger.store.consumer import ConsumerInfo
from jobledger.store.jetstream.consumer.holder import JetStreamConsumer

WITHIN_SECONDS = 30.0


async def take(events: Subscription, count: int) -> list[SubscribedEvent]:
    """The next so many events; the last one of them is not done yet."""
    found: list[SubscribedEvent] = []
    async with asyncio.timeout(WITHIN_SECONDS):
        while len(found) < count:
            found.append(await anext(events))
    return found


async def take_to(events: Subscription, sequence: int) -> list[SubscribedEvent]:
    """The next events, up to this sequence; that one is not done yet."""
    found: list[SubscribedEvent] = []
    async with asyncio.timeout(WITHIN_SECONDS):
        while not found or found[-1].sequence < sequence:
            found.append(await anext(events))
    return found


async def finish(events: Subscription) -> None:
    """The last event is done, and the server knows it."""
    assert events._event is not None
    await events._event.ack()


def sequences(found: list[SubscribedEvent]) -> list[int]:
    """Of events."""
    return [event.sequence for event in found]


def take_later(events: Subscription, count: int) -> "asyncio.Task[list[SubscribedEvent]]":
    """The next so many events, waited for in the background by the task that handled the last one."""
    events._task = None  # this test's own task does not go on reading
    return asyncio.create_task(take(events, count))


class Reader:
    """Reads a subscription in the background."""

    def __init__(self, events: Subscription) -> None:
        self.events = events
        self.found: list[SubscribedEvent] = []
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Handle all that comes."""
        async for event in self.events:
            self.found.append(event)
            self._news.set()

    async def until(self, sequence: int) -> None:
        """Wait until an event is handed out, or one behind it."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while not self.found or max(sequences(self.found)) < sequence:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def reading(events: Subscription) -> AsyncIterator[Reader]:
    """A subscription that is entered, read and left."""
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
    """A log on a connection of its own, as another process has it."""
    log = await JetStreamLog.connect(server.url, accept_loss=(lambda _: None) if accept_loss else None)
    try:
        yield log
    finally:
        await log.close()


def source_of(events: Subscription) -> JetStreamConsumer:
    """The consumer that a subscription which is not shared reads."""
    source = events._partitions[0]._source
    assert isinstance(source, JetStreamConsumer)
    return source


async def the_info(log: JetStreamLog, name: str) -> ConsumerInfo:
    """A consumer that is there, as the server has it."""
    info = await log.consumers().info(name)
    assert info is not None
    return info
