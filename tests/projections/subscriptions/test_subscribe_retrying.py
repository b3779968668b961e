"""A failed event is retried and then parked; its job's later events wait, all other jobs continue."""

import asyncio

import pytest

from jobledger import (
    JetStreamLog,
    SubscribedEvent,
    subscribe,
)
from jobledger.projections.subscriptions import parking
from jobledger.projections.subscriptions import parking as retrying
from jobledger.projections.subscriptions.parking import (
    ParkedState,
    retry_now,
    skipped,
)
from tests.support.failing_handlers import Handler, Running, gone, rewrite, the_record
from tests.support.log_writer import Writer
from tests.support.logs import eventually

JOBS = 4
ROUNDS = 5


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries are quick."""
    monkeypatch.setattr(retrying, "RETRY_FIRST_SECONDS", 0.05)


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Five rounds of four jobs."""
    writer = Writer(jetstream_log, JOBS)
    for _ in range(ROUNDS):
        await writer.round()
    return writer


async def test_a_failed_event_is_retried(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """Its job waits until it succeeds, and continues in order; other jobs do not wait."""
    handler = Handler({6: 2})
    async with Running(subscribe(jetstream_log, "again"), handler):
        await handler.until(*range(1, JOBS * ROUNDS + 1))
        job = writer.job_at[6]
        assert [each for each in handler.tried if each[0] == 6] == [(6, 1), (6, 2), (6, 3)]
        assert dict(handler.of_job) == writer.of_job
        assert sorted(handler.done) == list(range(1, 21))
        others = [sequence for sequence in handler.done if writer.job_at[sequence] != job]
        assert handler.done.index(6) > handler.done.index(others[-1])
        await eventually(lambda: gone(jetstream_log, "again", job))
        await writer.round()
        await handler.until(*range(21, 25))
        assert dict(handler.of_job) == writer.of_job


async def test_after_the_last_retry_the_job_is_parked(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """One attempt and the retries, then none by itself; it is visible and counted."""
    handler = Handler({5: 99})
    job = writer.job_at[5]
    async with Running(subscribe(jetstream_log, "parks", retries=2), handler) as running:
        await eventually(lambda: running.events.status.parked == 1, within_seconds=30)
        assert [each for each in handler.tried if each[0] == 5] == [(5, 1), (5, 2), (5, 3)]
        parked = await the_record(jetstream_log, "parks", job)
        assert parked is not None
        assert (parked.state, parked.sequence, parked.after, parked.attempts) == (ParkedState.PARKED, 5, 4, 3)
        assert parked.error == "ValueError: 5 is poison"
        await writer.round()
        await handler.until(*(sequence for sequence in writer.revisions if writer.job_at[sequence] != job))
        assert handler.of_job[job] == writer.of_job[job][:1]
        assert running.events.status.retrying == 0


async def test_without_retries_the_first_failure_parks_the_job(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """With `retries=0`."""
    handler = Handler({5: 99})
    async with Running(subscribe(jetstream_log, "never", retries=0), handler) as running:
        await handler.until(*(sequence for sequence in writer.revisions if sequence % JOBS != 1))
        await eventually(lambda: running.events.status.parked == 1)
        assert [each for each in handler.tried if each[0] == 5] == [(5, 1)]


async def test_a_parked_job_survives_a_restart(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """A new process hands out no event of a parked job; after `retry` it hands out all of them."""
    job = writer.job_at[2]
    async with Running(subscribe(jetstream_log, "kept", retries=0), Handler({2: 1})) as running:
        await eventually(lambda: running.events.status.parked == 1)
    handler = Handler({})
    async with Running(subscribe(jetstream_log, "kept", retries=0), handler) as running:
        await writer.round()
        await handler.until(*(each for each in range(21, 25) if writer.job_at[each] != job))
        assert handler.of_job[job] == []
        parked = await the_record(jetstream_log, "kept", job)
        assert parked is not None
        await rewrite(jetstream_log, retry_now(parked))
        await handler.until(*writer.of_job[job])
        assert handler.of_job[job] == writer.of_job[job]
        await eventually(lambda: running.events.status.parked == 0)


async def test_skipping_gives_up_one_event(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """The failed event is skipped, the job's later ones are handled in order."""
    handler = Handler({6: 99})
    job = writer.job_at[6]
    async with Running(subscribe(jetstream_log, "skips", retries=0), handler) as running:
        await eventually(lambda: running.events.status.parked == 1)
        parked = await the_record(jetstream_log, "skips", job)
        assert parked is not None
        await rewrite(jetstream_log, skipped(parked))
        await handler.until(*(each for each in writer.of_job[job] if each != 6))
        assert handler.of_job[job] == [each for each in writer.of_job[job] if each != 6]


async def test_a_redelivered_later_event_has_its_own_retries(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """Another event of the job fails during redelivery; the order is kept."""
    handler = Handler({2: 1, 10: 2, 14: 1})
    async with Running(subscribe(jetstream_log, "twice"), handler):
        await handler.until(*range(1, 21))
        assert dict(handler.of_job) == writer.of_job
        assert [each for each in handler.tried if each[0] == 10] == [(10, 1), (10, 2), (10, 3)]


async def test_many_jobs_fail_concurrently(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """All first events fail twice: each job continues in order."""
    handler = Handler(dict.fromkeys(range(1, JOBS + 1), 2))
    async with Running(subscribe(jetstream_log, "all-fail"), handler):
        await handler.until(*range(1, 21))
        assert dict(handler.of_job) == writer.of_job


async def test_events_written_during_a_redelivery_are_handled_in_order(
    jetstream_log: JetStreamLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost."""
    monkeypatch.setattr(parking, "REDELIVERY_SAVE_EVENTS", 2)
    handler = Handler({1: 3, 2: 2, 9: 1, 17: 2})
    async with Running(subscribe(jetstream_log, "meanwhile"), handler):
        for _ in range(10):
            await writer.round()
            await asyncio.sleep(0.01)
        await handler.until(*writer.revisions)
        assert dict(handler.of_job) == writer.of_job


async def test_filters_apply_to_redelivered_events(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """Events that the subscription filters out are not redelivered; the others are complete."""
    wanted = [sequence for sequence, revision in writer.revisions.items() if revision in (3, 5)]
    handler = Handler({wanted[0]: 1})
    whole: list[SubscribedEvent] = []

    async def handle(event: SubscribedEvent) -> None:
        await handler(event)
        whole.append(event)

    async with subscribe(jetstream_log, "picky", states=["Running"], with_jobs=True) as events:
        task = asyncio.create_task(events.run(handle))
        await handler.until(*wanted)
        assert sorted(handler.done) == sorted(wanted)
        for event in whole:
            assert event.revision == writer.revisions[event.sequence]
            assert event.before is not None
            assert event.before.status.revision == event.revision - 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
