"""What operators see of durable subscriptions, and do about them, is what those who read them then do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobledger import (
    AmbiguousId,
    InvalidInput,
    JetStreamLog,
    JobNotFound,
    Ledger,
    LogUnavailable,
    ParkedJob,
    State,
    StateType,
    SubscribedEvent,
    SubscriptionDeleted,
    SubscriptionInfo,
    SubscriptionNotFound,
    Subscriptions,
    subscribe,
)
from jobledger.projections.limits import ADMIN_WRITE_TRIES
from jobledger.projections.subscriptions.admin import Attendance
from jobledger.projections.subscriptions.parking import ParkedState
from tests.conftest import make_spec
from tests.support.logs import eventually

pytestmark = pytest.mark.slow  # operators, readers and takeovers: seconds each

WITHIN_SECONDS = 60.0


class Reader:
    """Reads a subscription; fails where a test says.

    Attributes:
        handled: the sequences that were handled, in order.
        tried: those that were tried.
        bad: says which events fail.
    """

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.tried: list[int] = []
        self.bad: Callable[[SubscribedEvent], bool] = lambda _: False

    async def handle(self, event: SubscribedEvent) -> None:
        """Handle one."""
        self.tried.append(event.sequence)
        if self.bad(event):
            raise ValueError(f"no good: {event.sequence}")
        self.handled.append(event.sequence)

    async def until(self, *sequences: int) -> None:
        """Wait until these and no others were handled."""
        await eventually(lambda: self.handled == [*sequences], within_seconds=WITHIN_SECONDS)


@asynccontextmanager
async def reading(
    log: JetStreamLog, reader: Reader, name: str = "billing", **how: Any
) -> AsyncIterator[None]:
    """Handle the events of a subscription while the block runs."""
    is_open = asyncio.Event()

    async def read() -> None:
        async with subscribe(log, name, **how) as events:
            is_open.set()
            await events.run(reader.handle)

    task = asyncio.create_task(read())
    try:
        await asyncio.wait_for(is_open.wait(), WITHIN_SECONDS)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def create(log: JetStreamLog, *names: str) -> list[str]:
    """Create jobs; their ids."""
    return [(await Ledger(log).create(make_spec(name))).job_id for name in names]


async def run_job(log: JetStreamLog, job_id: str) -> None:
    """One more event of a job."""
    await Ledger(log).set_state(job_id, State(StateType.RUNNING))


async def shown(
    subscriptions: Subscriptions, condition: Callable[[SubscriptionInfo], bool], name: str = "billing"
) -> SubscriptionInfo:
    """A subscription, once it is as expected."""

    async def fits() -> bool:
        return condition(await subscriptions.show(name))

    await eventually(fits, within_seconds=WITHIN_SECONDS)
    return await subscriptions.show(name)


async def set_aside(subscriptions: Subscriptions, state: ParkedState | None = None) -> ParkedJob:
    """The one job that is set aside, once it is."""

    async def is_there() -> bool:
        found = await subscriptions.parked("billing")
        return len(found) == 1 and (state is None or found[0].state is state)

    await eventually(is_there, within_seconds=WITHIN_SECONDS)
    (job,) = await subscriptions.parked("billing")
    return job


async def test_how_far_a_subscription_is_can_be_seen_from_anywhere(jetstream_log: JetStreamLog) -> None:
    """Its place, gap, lag, and whether somebody reads it."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    assert await subscriptions.list() == []
    await create(jetstream_log, "one", "two")
    async with reading(jetstream_log, reader, types=("created",)):
        await reader.until(1, 2)
        info = await shown(subscriptions, lambda info: info.gap == 0 and info.state is Attendance.LIVE)
        assert (info.name, info.position, info.lag_seconds) == ("billing", 2, 0.0)
        assert (info.definition.types, [part.held for part in info.parts]) == (
            ("jobledger.job.created.v1",),
            [True],
        )
        assert await subscriptions.list() == [info]
    await create(jetstream_log, "three")
    info = await shown(subscriptions, lambda info: info.state is Attendance.NO_CONSUMER)
    assert (info.gap, info.position) == (1, 2)
    assert info.lag_seconds > 0


async def test_the_lag_is_of_events_that_the_subscription_is_for(jetstream_log: JetStreamLog) -> None:
    """Not of what other partitions, or nobody, has to handle."""
    now = 0
    subscriptions = Subscriptions(jetstream_log, clock=lambda: now)
    await create(jetstream_log, *map(str, range(12)))
    async with subscribe(jetstream_log, "billing", namespace="elsewhere", elastic=True, partitions=2):
        pass
    receipt = await Ledger(jetstream_log).create(make_spec("late", namespace="elsewhere"))
    late = await jetstream_log.read_at(receipt.sequence)
    assert late is not None
    now = late.time + 7 * 10**9
    info = await subscriptions.show("billing")
    assert sorted((part.gap, part.lag_seconds) for part in info.parts) == [(0, 0.0), (1, 7.0)]
    assert (info.gap, info.lag_seconds) == (1, 7.0)


async def test_a_job_that_fails_is_shown_and_goes_on_when_it_is_told_to(jetstream_log: JetStreamLog) -> None:
    """Retry: its event, then its later ones; all others went on meanwhile."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    bad, _ = await create(jetstream_log, "bad", "good")
    reader.bad = lambda event: event.job_id == bad
    async with reading(jetstream_log, reader, retries=0):
        job = await set_aside(subscriptions, ParkedState.PARKED)
        assert (job.job_id, job.sequence, job.attempts, job.error) == (bad, 1, 1, "ValueError: no good: 1")
        await run_job(jetstream_log, bad)
        await create(jetstream_log, "other")
        await reader.until(2, 4)
        info = await subscriptions.show("billing")
        assert (info.parked, info.retrying) == (1, 0)
        assert await subscriptions.retry("billing", bad) == 1
        await eventually(lambda: reader.tried.count(1) == 2, within_seconds=WITHIN_SECONDS)
        reader.bad = lambda _: False
        await set_aside(subscriptions, ParkedState.PARKED)
        assert await subscriptions.retry("billing") == 1
        await reader.until(2, 4, 1, 3)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)


async def test_a_skipped_event_is_given_up_and_its_job_goes_on(jetstream_log: JetStreamLog) -> None:
    """Its later events are handled, in order."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    (bad,) = await create(jetstream_log, "bad")
    reader.bad = lambda event: event.sequence == 1
    async with reading(jetstream_log, reader, retries=0):
        await set_aside(subscriptions, ParkedState.PARKED)
        await run_job(jetstream_log, bad)
        assert await subscriptions.skip("billing", bad) == 1
        await reader.until(2)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)
    with pytest.raises(InvalidInput, match="job is missing"):
        await subscriptions.skip("billing", "")


async def test_a_job_is_named_by_the_beginning_of_its_id(jetstream_log: JetStreamLog) -> None:
    """Of those that are set aside; one that is not is told."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    one, two = await create(jetstream_log, "one", "two")
    reader.bad = lambda _: True
    async with reading(jetstream_log, reader, retries=0):
        await shown(subscriptions, lambda info: info.parked == 2)
        for job in ("j-nothing", "three"):
            with pytest.raises(JobNotFound, match="is not in the retry queue"):
                await subscriptions.retry("billing", job)
        with pytest.raises(AmbiguousId) as caught:
            await subscriptions.retry("billing", "j-")
        assert sorted(caught.value.candidates) == sorted((one, two))
        assert await subscriptions.skip("billing", one[:12]) == 1
        await shown(subscriptions, lambda info: info.parked + info.retrying == 1)
        assert [job.job_id for job in await subscriptions.parked("billing")] == [two]


@pytest.mark.parametrize("attended", [True, False], ids=["while it is read", "while nobody reads it"])
async def test_a_reset_begins_anew_behind_the_place(jetstream_log: JetStreamLog, attended: bool) -> None:
    """Earlier: everything behind it again. Later: what is up to it never."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    await create(jetstream_log, *"abcd")
    async with reading(jetstream_log, reader):
        await reader.until(1, 2, 3, 4)
        if attended:
            await subscriptions.reset("billing", after=1)
            await reader.until(1, 2, 3, 4, 2, 3, 4)
    if not attended:
        info = await subscriptions.reset("billing", after=1)
        assert (info.gap, info.position) == (3, 1)
        async with reading(jetstream_log, reader):
            await reader.until(1, 2, 3, 4, 2, 3, 4)
    reader.handled.clear()
    await create(jetstream_log, *"ef")
    await subscriptions.reset("billing", after=5)
    async with reading(jetstream_log, reader):
        await reader.until(6)


async def test_a_reset_takes_jobs_that_are_set_aside_along(jetstream_log: JetStreamLog) -> None:
    """All their events behind the place are handled, in order; those up to it are not waited for."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    bad, good = await create(jetstream_log, "bad", "good")
    await run_job(jetstream_log, bad)
    await run_job(jetstream_log, good)
    reader.bad = lambda event: event.sequence == 3
    async with reading(jetstream_log, reader, retries=0):
        await set_aside(subscriptions, ParkedState.PARKED)
        await reader.until(1, 2, 4)
        reader.bad = lambda _: False
        reader.handled.clear()
        await subscriptions.reset("billing", after=0)
        await eventually(lambda: {*reader.handled} == {1, 2, 3, 4}, within_seconds=WITHIN_SECONDS)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)
        for job in ((1, 3), (2, 4)):
            firsts = [sequence for sequence in dict.fromkeys(reader.handled) if sequence in job]
            assert firsts == [*job]
    reader.handled.clear()
    reader.bad = lambda event: event.sequence == 3
    await subscriptions.reset("billing", after=2)
    async with reading(jetstream_log, reader, retries=0):
        await set_aside(subscriptions, ParkedState.PARKED)
        await subscriptions.reset("billing", after=3)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)
        assert 3 not in reader.handled


async def test_what_is_deleted_is_gone_and_who_reads_it_is_told(jetstream_log: JetStreamLog) -> None:
    """Place, definition, and jobs set aside; the name is free for another one."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    await create(jetstream_log, "one", "two")
    reader.bad = lambda event: event.sequence == 1
    async with subscribe(jetstream_log, "billing", retries=0) as events:
        running = asyncio.create_task(events.run(reader.handle))
        await set_aside(subscriptions)
        assert await subscriptions.delete("billing") == 1
        with pytest.raises(SubscriptionDeleted):
            await asyncio.wait_for(running, WITHIN_SECONDS)
    assert await subscriptions.list() == []
    for gone in (
        subscriptions.show("billing"),
        subscriptions.parked("billing"),
        subscriptions.retry("billing"),
        subscriptions.skip("billing", "j"),
        subscriptions.reset("billing", after=0),
        subscriptions.delete("billing"),
        subscriptions.show("no.such >"),
    ):
        with pytest.raises(SubscriptionNotFound):
            await gone
    reader.handled.clear()
    reader.bad = lambda _: False
    async with reading(jetstream_log, reader, start=1, types=("created",)):
        await reader.until(2)


async def test_each_part_of_a_group_is_told(jetstream_log: JetStreamLog) -> None:
    """Which has nobody is seen; its events count."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    await create(jetstream_log, *map(str, range(20)))
    async with reading(jetstream_log, reader, members=2, member=2):
        info = await shown(
            subscriptions,
            lambda info: [part.held for part in info.parts] == [False, True] and not info.parts[1].gap,
        )
        assert [part.name for part in info.parts] == ["billing-1of2", "billing-2of2"]
        assert info.state is Attendance.NO_CONSUMER
        assert len(reader.handled) < 20
    info = await subscriptions.reset("billing", after=0)
    assert info.gap == 20


async def test_a_record_that_changes_all_the_time_is_given_up(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a named number of tries, and with a word about it."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    (bad,) = await create(jetstream_log, "bad")
    reader.bad = lambda _: True
    async with reading(jetstream_log, reader, retries=0):
        await set_aside(subscriptions, ParkedState.PARKED)
    tries = 0

    async def lose(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1

    records = await subscriptions._records()
    monkeypatch.setattr(records, "put", lose)
    with pytest.raises(LogUnavailable, match="keeps changing"):
        await subscriptions.retry("billing", bad)
    assert tries == ADMIN_WRITE_TRIES
