"""The states of a subscription, and those of a job with a failed event, one transition per test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from jobledger import (
    EmbeddedServer,
    JetStreamLog,
    SubscribedEvent,
    Subscription,
    SubscriptionDeleted,
    Subscriptions,
    SubscriptionState,
    subscribe,
)
from jobledger.projections.subscriptions import parking, subscription as subscription_module
from jobledger.store.jetstream.consumer import api as consumer_api, holder as consumer, pin
from tests.support.log_writer import Writer
from tests.support.logs import ask, eventually
from tests.support.proxy import Proxy

NAME = "states"
SECONDS = 30.0  # of any wait
JOBS = 5
CATCHING_UP, LIVE = SubscriptionState.CATCHING_UP, SubscriptionState.LIVE
RECONNECTING, STANDBY = SubscriptionState.RECONNECTING, SubscriptionState.STANDBY
STOPPED, PARKED = SubscriptionState.STOPPED, SubscriptionState.PARKED


class Reader:
    """Handles events while its gate is open."""

    def __init__(self, events: Subscription) -> None:
        self.events = events
        self.gate = asyncio.Event()
        self.handled: list[int] = []
        self.fails: set[int] = set()
        self.task = asyncio.create_task(events.run(self._handle))

    async def _handle(self, event: SubscribedEvent) -> None:
        await self.gate.wait()
        if event.sequence in self.fails:
            raise RuntimeError("poison")
        self.handled.append(event.sequence)

    async def until(self, *states: SubscriptionState) -> None:
        await self.events.wait_state(*states, timeout_seconds=SECONDS)

    async def until_handled(self, sequence: int) -> None:
        await eventually(lambda: sequence in self.handled, within_seconds=SECONDS)


@asynccontextmanager
async def reading(log: JetStreamLog, *, retries: int = 1) -> AsyncIterator[Reader]:
    """A reader of the subscription that these tests use."""
    async with subscribe(log, NAME, retries=retries) as events:
        reader = Reader(events)
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Writes events; one of each job exists."""
    writer = Writer(jetstream_log, JOBS)
    await writer.round()
    return writer


@pytest.fixture
async def other_log(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """A log on a connection of its own, like another process."""
    log = await JetStreamLog.connect(server.url)
    yield log
    await log.close()


@pytest.fixture
async def behind_proxy(server: EmbeddedServer) -> AsyncIterator[tuple[Proxy, JetStreamLog]]:
    """A log whose connection can be cut."""
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        yield proxy, log
        await log.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Periodic checks run more often."""
    monkeypatch.setattr(consumer, "HOLD_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(consumer, "PIN_SECONDS", 2.0)
    monkeypatch.setattr(consumer_api, "PIN_SECONDS", 2.0)
    monkeypatch.setattr(pin, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(subscription_module, "HOLD_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(subscription_module, "RETRY_QUEUE_REFRESH_SECONDS", 0.1)
    monkeypatch.setattr(parking, "RETRY_FIRST_SECONDS", 0.1)


async def test_opened_to_catching_up(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """With events to handle it is catching up until the last of them is handled."""
    async with reading(jetstream_log) as reader:
        assert reader.events.state is CATCHING_UP
        await eventually(lambda: reader.events.status.gap == JOBS, within_seconds=SECONDS)
        assert reader.events.state is CATCHING_UP
        assert reader.events.status.lag_seconds >= 0
        assert writer.revisions


async def test_catching_up_to_live(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """When every event is handled it is live, with no gap."""
    async with reading(jetstream_log) as reader:
        reader.gate.set()
        await reader.until(LIVE)
        assert reader.handled == sorted(writer.revisions)
        status = reader.events.status
        assert (status.gap, status.lag_seconds, status.position) == (0, 0, JOBS)


async def test_live_stays_live(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """Events that are written and handled at once do not change that."""
    async with reading(jetstream_log) as reader:
        reader.gate.set()
        await reader.until(LIVE)
        for _ in range(3):
            await writer.round()
            await reader.until_handled(max(writer.revisions))
            assert reader.events.state is LIVE


async def test_live_to_reconnecting(behind_proxy: tuple[Proxy, JetStreamLog], writer: Writer) -> None:
    """A lost connection is visible at once, and the loop over the events continues to wait."""
    proxy, log = behind_proxy
    async with reading(log) as reader:
        reader.gate.set()
        await reader.until(LIVE)
        proxy.refuse()
        proxy.cut()
        await reader.until(RECONNECTING)
        assert not reader.task.done()
        assert len(reader.handled) == len(writer.revisions)
        await proxy.listen()
        await reader.until(LIVE)


async def test_catching_up_to_reconnecting(behind_proxy: tuple[Proxy, JetStreamLog], writer: Writer) -> None:
    """The same among older events, which are handled afterwards, in order."""
    proxy, log = behind_proxy
    async with reading(log) as reader:
        await eventually(lambda: reader.events.status.gap == JOBS, within_seconds=SECONDS)
        proxy.refuse()
        proxy.cut()
        await reader.until(RECONNECTING)
        await proxy.listen()
        await reader.until(CATCHING_UP)
        reader.gate.set()
        await reader.until(LIVE)
        first = {sequence: place for place, sequence in reversed([*enumerate(reader.handled)])}
        assert sorted(first, key=lambda sequence: first[sequence]) == sorted(writer.revisions)


async def test_reconnecting_to_catching_up_to_live(
    behind_proxy: tuple[Proxy, JetStreamLog], writer: Writer
) -> None:
    """After reconnecting it first handles the events that were written meanwhile."""
    proxy, log = behind_proxy
    async with reading(log) as reader:
        reader.gate.set()
        await reader.until(LIVE)
        proxy.refuse()
        proxy.cut()
        await reader.until(RECONNECTING)
        reader.gate.clear()
        await writer.round()
        await proxy.listen()
        await reader.until(CATCHING_UP)
        reader.gate.set()
        await reader.until(LIVE)
        assert set(reader.handled) == set(writer.revisions)


async def test_opened_to_standby(
    jetstream_log: JetStreamLog, other_log: JetStreamLog, writer: Writer
) -> None:
    """While another process holds it, a second one waits, and gets no event."""
    async with reading(jetstream_log) as first, reading(other_log) as second:
        first.gate.set()
        second.gate.set()
        await first.until(LIVE)
        await second.until(STANDBY)
        await writer.round()
        await first.until_handled(max(writer.revisions))
        assert (second.events.state, second.handled, second.events.status.held) == (STANDBY, [], ())


async def test_standby_to_catching_up_to_live(
    jetstream_log: JetStreamLog, other_log: JetStreamLog, writer: Writer
) -> None:
    """When the other process closes, it takes over at its position."""
    async with AsyncExitStack() as other_process:
        first = await other_process.enter_async_context(reading(other_log))
        first.gate.set()
        await first.until(LIVE)
        async with reading(jetstream_log) as second:
            await second.until(STANDBY)
            await other_process.aclose()
            await writer.round()
            await second.until(CATCHING_UP)
            second.gate.set()
            await second.until(LIVE)
            assert second.handled == sorted(writer.revisions)[JOBS:]


async def test_live_to_standby(jetstream_log: JetStreamLog, other_log: JetStreamLog, writer: Writer) -> None:
    """When another process is assigned, it steps back, and handles no event of the other one."""
    async with reading(jetstream_log) as first:
        first.gate.set()
        await first.until(LIVE)
        async with reading(other_log) as second:
            second.gate.set()
            await second.until(STANDBY)
            await ask(jetstream_log, f"CONSUMER.UNPIN.JOBS.{NAME}", {"group": "m"})
            await writer.round()
            await first.until(STANDBY)
            await second.until(LIVE)
            assert second.handled == sorted(writer.revisions)[JOBS:]
            assert first.handled == sorted(writer.revisions)[:JOBS]


async def test_live_to_stopped_by_closing(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """When the block ends it is stopped, and holds no partition."""
    async with reading(jetstream_log) as reader:
        reader.gate.set()
        await reader.until(LIVE)
    assert writer.revisions
    assert reader.events.state is STOPPED
    assert reader.events.status.held == ()


async def test_live_to_stopped_by_an_error_that_needs_a_person(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """Deleted on the server: the loop over the events raises that."""
    async with reading(jetstream_log) as reader:
        reader.gate.set()
        await reader.until(LIVE)
        assert (await ask(jetstream_log, f"CONSUMER.DELETE.JOBS.{NAME}"))["success"]
        await reader.until(STOPPED)
        with pytest.raises(SubscriptionDeleted):
            await asyncio.wait_for(reader.task, SECONDS)
        assert writer.revisions


async def poisoned(reader: Reader, writer: Writer) -> int:
    """One job's second event fails, with two later ones; returns its sequence."""
    reader.gate.set()
    await reader.until(LIVE)
    poison = max(writer.revisions) + 1
    reader.fails.add(poison)
    for _ in range(3):
        await writer.round()
    return poison


async def test_delivered_to_retrying_and_back(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """A failed event's job waits, all others continue; the later events follow in order."""
    async with reading(jetstream_log, retries=100) as reader:
        poison = await poisoned(reader, writer)
        of_job = [each for each in writer.of_job[writer.job_at[poison]] if each >= poison]
        others = set(writer.revisions) - set(of_job)
        await eventually(lambda: others <= set(reader.handled), within_seconds=SECONDS)
        assert not set(of_job) & set(reader.handled)
        assert (reader.events.status.retrying, reader.events.status.parked) == (1, 0)
        reader.fails.clear()
        await reader.until_handled(of_job[-1])
        assert [each for each in reader.handled if each in of_job] == of_job
        await eventually(lambda: reader.events.status.retrying == 0, within_seconds=SECONDS)
        await writer.round()
        await reader.until_handled(max(writer.of_job[writer.job_at[poison]]))


Change = Callable[[Subscriptions, str], Awaitable[object]]


@pytest.mark.parametrize("word", ["retry", "skip"])
async def test_retrying_to_parked_to_delivered(
    jetstream_log: JetStreamLog, writer: Writer, word: str
) -> None:
    """After the last retry it is parked until an operator says retry or skip; then it continues in order."""
    async with reading(jetstream_log, retries=1) as reader:
        poison = await poisoned(reader, writer)
        job_id = writer.job_at[poison]
        await reader.until(PARKED)
        status = reader.events.status
        assert (status.state, status.retrying, status.parked) == (PARKED, 0, 1)
        of_job = [each for each in writer.of_job[job_id] if each >= poison]
        assert not set(of_job) & set(reader.handled)
        subscriptions = Subscriptions(jetstream_log)
        if word == "retry":
            reader.fails.clear()
            await subscriptions.retry(NAME, job_id)
        else:
            await subscriptions.skip(NAME, job_id)
            of_job = of_job[1:]
        await reader.until_handled(of_job[-1])
        assert [each for each in reader.handled if each in of_job] == of_job
        await reader.until(LIVE)
        assert reader.events.status.parked == 0
        assert (poison in reader.handled) is (word == "retry")


async def test_retrying_continues_after_a_restart_without_new_events(
    jetstream_log: JetStreamLog, other_log: JetStreamLog, writer: Writer
) -> None:
    """The next process retries a job even if the log has no new event for it."""
    async with reading(jetstream_log, retries=100) as reader:
        poison = await poisoned(reader, writer)
        others = {each for each in writer.revisions if writer.job_at[each] != writer.job_at[poison]}
        await eventually(lambda: others <= set(reader.handled), within_seconds=SECONDS)
        await eventually(lambda: reader.events.status.gap == 0, within_seconds=SECONDS)
    async with reading(other_log, retries=100) as reader:
        reader.gate.set()
        await reader.until_handled(max(writer.of_job[writer.job_at[poison]]))
        assert reader.handled == [each for each in writer.of_job[writer.job_at[poison]] if each >= poison]


async def test_standby_to_catching_up_when_a_process_with_every_event_dies(
    behind_proxy: tuple[Proxy, JetStreamLog], jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """Its events are delivered again, although the log has no new event."""
    proxy, log = behind_proxy
    async with reading(log) as first:

        async def has_all() -> bool:
            info = await ask(jetstream_log, f"CONSUMER.INFO.JOBS.{NAME}")
            return (info["num_ack_pending"], info["num_pending"]) == (JOBS, 0)

        await eventually(has_all, within_seconds=SECONDS)
        assert first.events.status.gap == JOBS
        async with reading(jetstream_log) as second:
            second.gate.set()
            await second.until(STANDBY)
            proxy.refuse()
            proxy.cut()
            await second.until(LIVE)
            assert second.handled == sorted(writer.revisions)
            assert first.handled == []
        await proxy.listen()
