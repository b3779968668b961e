"""A cancelled handler has not handled its event, however the block is left."""

import asyncio

import pytest

from jobledger import JetStreamLog, SubscribedEvent, subscribe
from jobledger.projections.subscriptions import parking
from jobledger.projections.subscriptions.definition import parked_key
from jobledger.projections.subscriptions.parking import ParkedJob, ParkedState, RetryQueue
from jobledger.store.model.errors import LogUnfit
from jobledger.store.model.limits import RECORD_REMOVED_SECONDS
from tests.support.log_writer import Writer

JOBS = 4
WITHIN_SECONDS = 60


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """One event of each of four jobs."""
    writer = Writer(jetstream_log, JOBS)
    await writer.round()
    return writer


class Hanging:
    """Handles events up to one, and hangs there the first time."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.hangs = asyncio.Event()
        self.done = asyncio.Event()
        self.started: list[int] = []

    async def __call__(self, event: SubscribedEvent) -> None:
        """Handle an event."""
        self.started.append(event.sequence)
        if event.sequence == self._at and not self.hangs.is_set():
            self.hangs.set()
            await asyncio.Event().wait()
        if event.sequence == JOBS:
            self.done.set()


@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.usefixtures("writer")
async def test_a_cancelled_handler_acknowledges_nothing(
    jetstream_log: JetStreamLog, *, awaited: bool
) -> None:
    """Its task is cancelled, and the block left without an exception: the event is delivered again."""
    handler = Hanging(2)
    async with asyncio.timeout(WITHIN_SECONDS):
        async with subscribe(jetstream_log, "cut") as events:
            task = asyncio.create_task(events.run(handler))
            await handler.hangs.wait()
            task.cancel()
            if awaited:
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(task, return_exceptions=True)
        async with subscribe(jetstream_log, "cut") as events:
            assert (await anext(events)).sequence == 2


@pytest.mark.usefixtures("writer")
async def test_a_cancelled_handler_gets_its_event_again(jetstream_log: JetStreamLog) -> None:
    """In the same block too, and no earlier event is delivered again."""
    handler = Hanging(2)
    async with asyncio.timeout(WITHIN_SECONDS), subscribe(jetstream_log, "cut") as events:
        task = asyncio.create_task(events.run(handler))
        await handler.hangs.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        task = asyncio.create_task(events.run(handler))
        await handler.done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert handler.started == [1, 2, 2, 3, 4]


@pytest.mark.usefixtures("writer")
async def test_a_foreign_consumer_is_not_adopted(jetstream_log: JetStreamLog) -> None:
    """It would deliver other events: refused, with the difference named."""
    async with asyncio.timeout(WITHIN_SECONDS):
        async with subscribe(jetstream_log, "orphan", namespace="elsewhere"):
            pass
        records = await jetstream_log.key_value("SUBSCRIPTIONS")
        entry = await records.get("definition.orphan")
        assert entry is not None
        assert await records.delete("definition.orphan", expect=entry.revision)
        with pytest.raises(
            LogUnfit, match=r"filter_subjects is \['jobs\.elsewhere.*nats consumer rm JOBS orphan"
        ):
            async with subscribe(jetstream_log, "orphan"):
                pass


async def test_a_deletion_that_is_no_longer_visible_is_noticed(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was away for longer than deletions are visible reads every record again."""
    now = 1_000.0
    monkeypatch.setattr(parking, "lease_clock", lambda: now)
    records = await jetstream_log.key_value("SUBSCRIPTIONS")
    ours, others = RetryQueue(records, "s", "e"), RetryQueue(records, "s", "e")
    for job_id in ("j-1", "j-2"):
        await others.put(
            ParkedJob(
                subscription="s",
                job_id=job_id,
                subject="jobs.default.00.j",
                state=ParkedState.PARKED,
                sequence=5,
                after=4,
                epoch="e",
            )
        )
    await ours.refresh()
    assert sorted(ours.jobs) == ["j-1", "j-2"]
    assert await others.remove("j-1")
    # A day later the server has forgotten the deletion, as if this process had never read it.
    entry = await records.get(parked_key("s", "j-2"))
    assert entry is not None
    ours._refreshed_up_to = entry.revision + 1
    await ours.refresh()
    assert "j-1" in ours.jobs
    now += RECORD_REMOVED_SECONDS
    await ours.refresh()
    assert [*ours.jobs] == ["j-2"]
