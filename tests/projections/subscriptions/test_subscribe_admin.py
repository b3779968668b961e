"""The view and the actions of operators agree with what the readers of a subscription do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
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
    SubscriptionState,
    subscribe,
)
from jobledger.projections.limits import ADMIN_LIVE_SECONDS, ADMIN_WRITE_TRIES
from jobledger.projections.subscriptions.admin import Attendance, Part
from jobledger.projections.subscriptions.definition import Definition
from jobledger.projections.subscriptions.parking import ParkedState
from tests.conftest import make_spec
from tests.support.logs import eventually

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
        """Handle an event."""
        self.tried.append(event.sequence)
        if self.bad(event):
            raise ValueError(f"no good: {event.sequence}")
        self.handled.append(event.sequence)

    async def until(self, *sequences: int) -> None:
        """Wait until exactly these events were handled."""
        await eventually(lambda: self.handled == [*sequences], within_seconds=WITHIN_SECONDS)


@asynccontextmanager
async def reading(
    log: JetStreamLog, reader: Reader, name: str = "billing", **how: Any
) -> AsyncIterator[None]:
    """Handle the events of a subscription until the block ends."""
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
    """Create jobs; returns their ids."""
    return [(await Ledger(log).create(make_spec(name))).job_id for name in names]


async def run_job(log: JetStreamLog, job_id: str) -> None:
    """Write one more event of a job."""
    await Ledger(log).set_state(job_id, State(StateType.RUNNING))


async def shown(
    subscriptions: Subscriptions, condition: Callable[[SubscriptionInfo], bool], name: str = "billing"
) -> SubscriptionInfo:
    """A subscription, once it is as expected."""

    async def fits() -> bool:
        return condition(await subscriptions.show(name))

    await eventually(fits, within_seconds=WITHIN_SECONDS)
    return await subscriptions.show(name)


async def job_in_retry_queue(subscriptions: Subscriptions, state: ParkedState | None = None) -> ParkedJob:
    """The one job in the retry queue, once there is one."""

    async def is_there() -> bool:
        found = await subscriptions.parked("billing")
        return len(found) == 1 and (state is None or found[0].state is state)

    await eventually(is_there, within_seconds=WITHIN_SECONDS)
    (job,) = await subscriptions.parked("billing")
    return job


@pytest.mark.slow
async def test_progress_of_a_subscription_is_visible_to_every_process(jetstream_log: JetStreamLog) -> None:
    """Position, gap, lag, and whether a process reads it."""
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


@pytest.mark.slow
async def test_the_lag_counts_only_events_of_the_subscription(jetstream_log: JetStreamLog) -> None:
    """Not those of other partitions, or outside its filters."""
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


@pytest.mark.slow
async def test_a_parked_job_is_shown_and_continues_after_retry(jetstream_log: JetStreamLog) -> None:
    """The failed event is handled, then the job's later ones; all other jobs continued meanwhile."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    bad, _ = await create(jetstream_log, "bad", "good")
    reader.bad = lambda event: event.job_id == bad
    async with reading(jetstream_log, reader, retries=0):
        job = await job_in_retry_queue(subscriptions, ParkedState.PARKED)
        assert (job.job_id, job.sequence, job.attempts, job.error) == (bad, 1, 1, "ValueError: no good: 1")
        await run_job(jetstream_log, bad)
        await create(jetstream_log, "other")
        await reader.until(2, 4)
        info = await subscriptions.show("billing")
        assert (info.parked, info.retrying) == (1, 0)
        assert await subscriptions.retry("billing", bad) == 1
        await eventually(lambda: reader.tried.count(1) == 2, within_seconds=WITHIN_SECONDS)
        reader.bad = lambda _: False
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
        assert await subscriptions.retry("billing") == 1
        await reader.until(2, 4, 1, 3)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)


@pytest.mark.slow
async def test_skip_gives_up_an_event_and_its_job_continues(jetstream_log: JetStreamLog) -> None:
    """The job's later events are handled, in order."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    (bad,) = await create(jetstream_log, "bad")
    reader.bad = lambda event: event.sequence == 1
    async with reading(jetstream_log, reader, retries=0):
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
        await run_job(jetstream_log, bad)
        assert await subscriptions.skip("billing", bad) == 1
        await reader.until(2)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)
    with pytest.raises(InvalidInput, match="job is missing"):
        await subscriptions.skip("billing", "")


@pytest.mark.slow
async def test_a_parked_job_is_found_by_a_prefix_of_its_id(jetstream_log: JetStreamLog) -> None:
    """Among the jobs in the retry queue; another one is an error."""
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


@pytest.mark.parametrize("attended", [True, False], ids=["with a reader", "without a reader"])
@pytest.mark.slow
async def test_a_reset_starts_after_the_given_sequence(jetstream_log: JetStreamLog, attended: bool) -> None:
    """Earlier: every event after it is handled again. Later: the events up to it never are."""
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


@pytest.mark.slow
async def test_a_reset_includes_jobs_in_the_retry_queue(jetstream_log: JetStreamLog) -> None:
    """All their events after the sequence are handled, in order; earlier ones are not waited for."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    bad, good = await create(jetstream_log, "bad", "good")
    await run_job(jetstream_log, bad)
    await run_job(jetstream_log, good)
    reader.bad = lambda event: event.sequence == 3
    async with reading(jetstream_log, reader, retries=0):
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
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
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
        await subscriptions.reset("billing", after=3)
        await shown(subscriptions, lambda info: info.parked + info.retrying == 0)
        assert 3 not in reader.handled


@pytest.mark.slow
async def test_a_deleted_subscription_is_gone_and_its_reader_gets_an_error(
    jetstream_log: JetStreamLog,
) -> None:
    """Position, definition and retry queue; the name can be used again."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    await create(jetstream_log, "one", "two")
    reader.bad = lambda event: event.sequence == 1
    async with subscribe(jetstream_log, "billing", retries=0) as events:
        running = asyncio.create_task(events.run(reader.handle))
        await job_in_retry_queue(subscriptions)
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


@pytest.mark.slow
async def test_each_part_of_a_group_is_shown(jetstream_log: JetStreamLog) -> None:
    """A part without a reader is visible, and its events count."""
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


@pytest.mark.slow
async def test_a_record_that_keeps_changing_is_an_error(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the limit of attempts."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    (bad,) = await create(jetstream_log, "bad")
    reader.bad = lambda _: True
    async with reading(jetstream_log, reader, retries=0):
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
    tries = 0

    async def lose(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1

    records = await subscriptions._records()
    monkeypatch.setattr(records, "put", lose)
    with pytest.raises(LogUnavailable, match="keeps changing"):
        await subscriptions.retry("billing", bad)
    assert tries == ADMIN_WRITE_TRIES


HELD, WAITED_FOR, FORSAKEN = Part(name="a", held=True), Part(name="b", waiting=1), Part(name="c")
LATE = Part(name="d", held=True, gap=1, lag_seconds=ADMIN_LIVE_SECONDS)


@pytest.mark.parametrize(
    ("parts", "parked", "state"),
    [
        ((HELD, WAITED_FOR), 0, Attendance.LIVE),
        ((HELD, WAITED_FOR), 1, Attendance.PARKED),
        ((LATE, WAITED_FOR), 1, Attendance.CATCHING_UP),
        ((LATE, HELD, FORSAKEN), 1, Attendance.NO_CONSUMER),
        ((FORSAKEN,), 0, Attendance.NO_CONSUMER),
    ],
)
def test_the_first_state_that_applies_is_shown(
    parts: tuple[Part, ...], parked: int, state: Attendance
) -> None:
    """Unattended, catching up, parked, live; a process that waits for an event counts as attending."""
    info = SubscriptionInfo(definition=Definition(name="n"), parts=parts, parked=parked)
    assert info.state is state


async def test_a_reader_that_waits_for_a_first_event_is_live(jetstream_log: JetStreamLog) -> None:
    """The server assigns an empty subscription with its first event only."""
    subscriptions = Subscriptions(jetstream_log)
    await create(jetstream_log, "one")
    async with reading(jetstream_log, Reader(), namespace="elsewhere"):
        info = await shown(subscriptions, lambda info: info.state is Attendance.LIVE)
        assert [(part.held, part.waiting) for part in info.parts] == [(False, 1)]
    await shown(subscriptions, lambda info: info.state is Attendance.NO_CONSUMER)


async def test_a_group_with_empty_partitions_is_live(jetstream_log: JetStreamLog) -> None:
    """A member that holds one is live, the others stand by; without members it is unattended."""
    subscriptions = Subscriptions(jetstream_log)
    members = [subscribe(jetstream_log, "billing", elastic=True, partitions=4) for _ in range(3)]
    readers = [Reader() for _ in members]
    async with AsyncExitStack() as stack:
        for member, reader in zip(members, readers, strict=True):
            await stack.enter_async_context(member)
            task = asyncio.create_task(member.run(reader.handle))
            stack.push_async_callback(asyncio.wait, [task])
            stack.callback(task.cancel)
        await create(jetstream_log, "one")
        await eventually(lambda: any(reader.handled for reader in readers), within_seconds=WITHIN_SECONDS)
        states = [SubscriptionState.LIVE, SubscriptionState.STANDBY, SubscriptionState.STANDBY]
        await eventually(
            lambda: sorted(member.state for member in members) == states, within_seconds=WITHIN_SECONDS
        )
        assert [len(member.status.held) for member in members if member.state is states[0]] == [1]
        info = await shown(subscriptions, lambda info: info.state is Attendance.LIVE)
        assert sum(part.held for part in info.parts) == 1
    await shown(subscriptions, lambda info: info.state is Attendance.NO_CONSUMER)


async def test_a_parked_job_is_shown_by_the_state_and_found_by_name(jetstream_log: JetStreamLog) -> None:
    """Names are looked up in their namespace; a job that is not in the retry queue is an error."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    await Ledger(jetstream_log).create(make_spec("bad", namespace="prod"))
    reader.bad = lambda _: True
    async with reading(jetstream_log, reader, retries=0):
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
        await shown(subscriptions, lambda info: info.state is Attendance.PARKED)
        with pytest.raises(JobNotFound, match="`jobledger subscriptions parked billing`"):
            await subscriptions.retry("billing", "bad")
        assert await subscriptions.retry("billing", "bad", namespace="prod") == 1
        await eventually(lambda: len(reader.tried) == 2, within_seconds=WITHIN_SECONDS)
        await job_in_retry_queue(subscriptions, ParkedState.PARKED)
        assert await subscriptions.skip("billing", "bad", namespace="prod") == 1
        await shown(subscriptions, lambda info: info.state is Attendance.LIVE)
