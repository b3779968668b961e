"""A partition after a reset, an operator's write during a retry, and records of another stream."""

import asyncio

import pytest

from jobledger import JetStreamLog, MemoryLog, SubscribedEvent, subscribe
from jobledger.projections.subscriptions import parking, subscription as subscription_module
from jobledger.projections.subscriptions.ephemeral_source import EphemeralSource
from jobledger.projections.subscriptions.filters import EventFilter
from jobledger.projections.subscriptions.parking import (
    ParkedJob,
    ParkedState,
    RetryQueue,
    retry_now,
    skipped,
)
from jobledger.projections.subscriptions.partition import EventBuilder, Partition
from jobledger.store.kv import MemoryKeyValue
from jobledger.store.model.subjects import ALL_SUBJECTS
from tests.support.failing_handlers import Handler, gone, rewrite, the_record
from tests.support.log_writer import Writer
from tests.support.logs import eventually

JOBS = 4
EVENTS = 12
WITHIN_SECONDS = 20


class ConsumerListener:
    """Passes the calls of a source on to a partition, with `kept` replaced."""

    def __init__(self, partition: Partition, *, kept: bool) -> None:
        self._partition = partition
        self._kept = kept

    def on_change(self) -> None:
        self._partition.on_change()

    def on_reset(self, *, position: int, kept: bool) -> None:
        assert not kept, "an ephemeral source starts so"
        self._partition.on_reset(position=position, kept=self._kept)


async def popped(partition: Partition, up_to: int) -> list[int]:
    """The sequences of the events that the partition hands out, each handled, up to one of them."""
    found: list[int] = []
    async with asyncio.timeout(WITHIN_SECONDS):
        while not found or found[-1] < up_to:
            while (not found or found[-1] < up_to) and (
                event := await partition.next(redelivered_first=False)
            ) is not None:
                found.append(event.sequence)
                partition.complete()
            await asyncio.sleep(0)
    return found


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "held by another meanwhile"])
async def test_a_partition_drops_what_it_handled_before_a_reset(*, kept: bool) -> None:
    """Deliveries restart at an earlier position: handled events count as handled if it was kept."""
    log = MemoryLog()
    writer = Writer(log, JOBS)
    for _ in range(EVENTS // JOBS):
        await writer.round()
    epoch = (await log.info()).epoch
    sources = [EphemeralSource(log, subjects=ALL_SUBJECTS, after=after, epoch=epoch) for after in (0, 3)]
    builder = EventBuilder(log, EventFilter(), with_jobs=False)
    partition = Partition(0, sources[0], builder, on_change=lambda: None)
    await sources[0].start(ConsumerListener(partition, kept=False))
    assert await popped(partition, 7) == [1, 2, 3, 4, 5, 6, 7]
    assert partition._ready, "events of the time before the reset are ready"
    partition._source = sources[1]
    await sources[1].start(ConsumerListener(partition, kept=kept))
    wanted = list(range(8 if kept else 4, EVENTS + 1))
    assert await popped(partition, EVENTS) == wanted
    assert partition._unacknowledged == EVENTS - 3, "dropped events are acknowledged too"
    for source in sources:
        await source.close()
    await log.close()


@pytest.mark.parametrize(
    ("reset", "end", "first"),
    [
        ("no reset", "complete", 2),
        ("no reset", "fail", 2),
        ("no reset", "take back", 1),
        ("kept", "complete", 2),
        ("kept", "fail", 2),
        ("kept", "take back", 1),
        ("lost", "complete", 1),
        ("lost", "fail", 1),
        ("lost", "take back", 1),
    ],
)
async def test_the_end_of_a_handler_counts_as_the_partition_is_held(reset: str, end: str, first: int) -> None:
    """Deliveries restart while event 1 is handled: the next event, and whether its job is queued."""
    log = MemoryLog()
    await Writer(log, JOBS).round()
    epoch = (await log.info()).epoch
    sources = [EphemeralSource(log, subjects=ALL_SUBJECTS, after=0, epoch=epoch) for _ in range(2)]
    queue = RetryQueue(MemoryKeyValue(), "s", epoch, retries=0)
    builder = EventBuilder(log, EventFilter(), with_jobs=False)
    partition = Partition(0, sources[0], builder, on_change=lambda: None, queue=queue)
    await sources[0].start(ConsumerListener(partition, kept=False))
    event = await next_event(partition)
    if reset != "no reset":
        partition._source = sources[1]
        await sources[1].start(ConsumerListener(partition, kept=reset == "kept"))
    if end == "complete":
        assert partition.complete()
    elif end == "fail":
        await partition.fail(queue, RuntimeError("bad"))
    else:
        partition.take_back()
    assert partition.event is None
    assert ([*queue.jobs] == [event.job_id]) is (end == "fail" and reset != "lost")
    assert (await next_event(partition)).sequence == first
    for source in sources:
        await source.close()
    await log.close()


async def next_event(partition: Partition) -> SubscribedEvent:
    """The next event that the partition hands out."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while (event := await partition.next(redelivered_first=False)) is None:  # noqa: ASYNC110 - a test
            await asyncio.sleep(0)
    return event


@pytest.mark.parametrize("known", [True, False], ids=["known at the failure", "found out by writing"])
@pytest.mark.parametrize("action", ["skip", "retry"])
async def test_an_operators_write_wins_over_a_retry_that_fails(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch, action: str, *, known: bool
) -> None:
    """The event fails again after an operator wrote: it is skipped, or has all its retries again."""
    monkeypatch.setattr(parking, "RETRY_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(subscription_module, "RETRY_QUEUE_REFRESH_SECONDS", 1_000.0)
    writer = Writer(jetstream_log, JOBS)
    for _ in range(EVENTS // JOBS):
        await writer.round()
    job = writer.job_at[2]
    handler = Handler({2: 2})
    async with subscribe(jetstream_log, "operator", retries=1) as events:

        async def handle(event: SubscribedEvent) -> None:
            if (event.sequence, event.attempt) == (2, 2) and len(handler.tried) > 1 and action not in done:
                done.append(action)
                parked = await the_record(jetstream_log, "operator", job)
                assert parked is not None
                await rewrite(jetstream_log, (skipped if action == "skip" else retry_now)(parked))
                if known:
                    assert events._queue is not None
                    await events._queue.refresh()
            await handler(event)

        done: list[str] = []
        task = asyncio.create_task(events.run(handle))
        mine = writer.of_job[job]
        await handler.until(*(each for each in range(1, EVENTS + 1) if each != 2))
        await eventually(lambda: gone(jetstream_log, "operator", job), within_seconds=WITHIN_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    attempts = [attempt for sequence, attempt in handler.tried if sequence == 2]
    if action == "skip":
        assert attempts == [1, 2]
        assert handler.of_job[job] == mine[1:]
    else:
        assert attempts == [1, 2, 1], "not parked after its second failure"
        assert handler.of_job[job] == mine


async def test_records_of_another_stream_are_ignored(jetstream_log: JetStreamLog) -> None:
    """A record of a stream that was created again is ignored, and can be overwritten."""
    records = await jetstream_log.key_value("SUBSCRIPTIONS")
    before, now = RetryQueue(records, "s", "old"), RetryQueue(records, "s", "new")

    def parked(epoch: str, sequence: int) -> ParkedJob:
        return ParkedJob(
            subscription="s",
            job_id="j-1",
            subject="jobs.default.00.j-1",
            state=ParkedState.RETRYING,
            sequence=sequence,
            after=sequence - 1,
            epoch=epoch,
        )

    assert await before.put(parked("old", 90)) == parked("old", 90)
    await now.refresh()
    assert now.jobs == {}
    assert (now.count(ParkedState.RETRYING), now.next_try(), [*now.due(2**62)]) == (0, None, [])
    assert await now.put(parked("new", 5)) == parked("new", 5)
    assert now.jobs == {"j-1": parked("new", 5)}
    unaware = RetryQueue(records, "s", "newest")  # wrote before it looked
    assert await unaware.put(parked("newest", 7)) == parked("newest", 7)
    await now.refresh()
    assert await the_record(jetstream_log, "s", "j-1") == parked("newest", 7)
