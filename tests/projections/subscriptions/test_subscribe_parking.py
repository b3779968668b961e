"""A failed event is retried, then its job is parked; the retry queue is bounded and follows operators."""

import asyncio

import msgspec
import pytest

from jobledger import (
    EmbeddedServer,
    InvalidInput,
    JetStreamLog,
    LogUnavailable,
    SubscribedEvent,
    SubscriptionState,
    subscribe,
)
from jobledger.projections.limits import PARKED_ERROR_MAX_CHARACTERS, RETRY_FIRST_SECONDS, RETRY_LAST_SECONDS
from jobledger.projections.subscriptions import parking, subscription as subscription_module
from jobledger.projections.subscriptions.parking import (
    ParkedJob,
    ParkedState,
    decode_parked,
    failed_again,
    retry_now,
    retry_wait_seconds,
    skipped,
)
from tests.support.failing_handlers import Handler, Running, gone, rewrite, the_record
from tests.support.log_writer import Writer
from tests.support.logs import eventually
from tests.support.readers import WITHIN_SECONDS

JOBS = 4
ROUNDS = 5


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries are quick."""
    monkeypatch.setattr(parking, "RETRY_FIRST_SECONDS", 0.05)


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


async def test_a_standby_that_takes_over_knows_the_parked_jobs(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the records first, and hands out no event of a job that waits."""
    monkeypatch.setattr(subscription_module, "RETRY_QUEUE_REFRESH_SECONDS", 1_000.0)
    job = writer.job_at[1]
    other = await JetStreamLog.connect(server.url)
    heir = Handler({})
    async with Running(subscribe(jetstream_log, "heir", retries=0), Handler({1: 99})) as running:
        await eventually(lambda: running.events.status.parked == 1, within_seconds=30)
        standby = Running(subscribe(other, "heir", retries=0), heir)
        await standby.__aenter__()
        await standby.events.wait_state(SubscriptionState.STANDBY, timeout_seconds=30)
        running.handler.fails[22] = 99  # enters the retry queue while the other one stands by
        await writer.round()
        await eventually(lambda: running.events.status.parked == 2, within_seconds=30)
    await writer.round()
    waits = {job, writer.job_at[22]}
    await heir.until(*(each for each in range(25, 29) if writer.job_at[each] not in waits))
    assert not waits & heir.of_job.keys()
    await standby.__aexit__()
    await other.close()


async def test_an_operators_write_wins_over_a_redelivery(
    jetstream_log: JetStreamLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reset while its events are redelivered, a job starts again: nothing overwrites an operator."""
    monkeypatch.setattr(subscription_module, "RETRY_QUEUE_REFRESH_SECONDS", 0.0)
    job = writer.job_at[2]
    handler = Handler({2: 1})

    async def handle(event: SubscribedEvent) -> None:
        await handler(event)
        if event.sequence == writer.of_job[job][2] and len(handler.of_job[job]) == 3:
            parked = await the_record(jetstream_log, "operator", job)
            assert parked is not None
            await rewrite(jetstream_log, msgspec.structs.replace(retry_now(parked), after=0))

    async with subscribe(jetstream_log, "operator") as events:
        task = asyncio.create_task(events.run(handle))
        await handler.until(*range(1, 21))
        await eventually(lambda: gone(jetstream_log, "operator", job), within_seconds=30)
        first, *_ = writer.of_job[job]
        again = handler.of_job[job].index(first, 1)
        assert handler.of_job[job][again:] == writer.of_job[job]
        assert handler.of_job[job][:again] == writer.of_job[job][:again]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_full_retry_queue_holds_the_failed_event(
    jetstream_log: JetStreamLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the maximum of jobs in the queue, the next failed event is retried in place."""
    monkeypatch.setattr(parking, "RETRY_QUEUE_MAX_JOBS", 1)
    handler = Handler({1: 99, 2: 3})
    async with Running(subscribe(jetstream_log, "full", retries=0), handler) as running:
        await handler.until(3)
        assert [each for each in handler.tried if each[0] == 2] == [(2, 1), (2, 2), (2, 3), (2, 4)]
        assert running.events.status.parked == 1
        job = writer.job_at[1]
        await handler.until(*(each for each in range(2, 21) if writer.job_at[each] != job))


async def test_fail_in_a_loop_does_what_run_does(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """`event.fail` adds the job to the retry queue."""
    found: list[tuple[int, int]] = []
    async with subscribe(jetstream_log, "by-hand") as events, asyncio.timeout(WITHIN_SECONDS):
        async for event in events:
            found.append((event.sequence, event.attempt))
            if event.sequence == 4 and event.attempt == 1:
                await event.fail(RuntimeError("not now"))
            if {each[0] for each in found} == {*range(1, 21)} and len(found) == 21:
                break
    assert [each for each in found if each[0] == 4] == [(4, 1), (4, 2)]
    job = [sequence for sequence, _ in found if writer.job_at[sequence] == writer.job_at[4]]
    assert job == [4, *writer.of_job[writer.job_at[4]]]


async def test_without_a_name_a_failure_is_raised(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """An anonymous reader has no retry queue."""
    del writer
    async with subscribe(jetstream_log) as events:
        with pytest.raises(ValueError, match="3 is poison"):
            await events.run(Handler({3: 1}))
    async with subscribe(jetstream_log) as events:
        event = await anext(events)
        with pytest.raises(InvalidInput, match="name"):
            await event.fail(RuntimeError("no"))


async def test_a_failure_is_recorded_after_a_lost_connection(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """It is recorded once the log is reachable; the order is kept."""
    handler = Handler({7: 1})
    async with Running(subscribe(jetstream_log, "offline"), handler) as running:
        await handler.until(*range(1, 21))
        assert dict(handler.of_job) == writer.of_job
        records = running.events._queue._records  # type: ignore[union-attr]
        put, failures = records.put, 2

        async def flaky(key: str, value: bytes, *, expect: int) -> object:
            nonlocal failures
            if failures:
                failures -= 1
                raise LogUnavailable("not now")
            return await put(key, value, expect=expect)

        records.put = flaky  # type: ignore[method-assign]
        handler.fails[22] = 1
        await writer.round()
        await handler.until(*range(21, 25))
        assert failures == 0
        assert dict(handler.of_job) == writer.of_job


def test_waits_grow_up_to_the_maximum() -> None:
    """1 s, 2 s, 4 s, and never more than the maximum."""
    assert [retry_wait_seconds(n) for n in (2, 3, 4)] == [0.1, 0.2, 0.4]
    assert RETRY_FIRST_SECONDS == 1.0
    assert retry_wait_seconds(10**6) == RETRY_LAST_SECONDS


def test_an_error_is_truncated() -> None:
    """The record keeps a bounded part of a handler's error, as text."""
    parked = ParkedJob(
        subscription="s", job_id="j", subject="jobs.a.00.j", state=ParkedState.RETRYING, sequence=3, after=2
    )
    failed = failed_again(parked, ValueError("x" * 10_000 + "\udcff"), retries=1, now=5)
    assert len(failed.error) == PARKED_ERROR_MAX_CHARACTERS
    assert decode_parked(failed.encode()) == failed
    odd = failed_again(parked, ValueError("\udcff"), retries=1, now=5)
    assert decode_parked(odd.encode()) == odd
    assert decode_parked(b"{}") is None
