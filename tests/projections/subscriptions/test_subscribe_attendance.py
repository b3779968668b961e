"""What a subscription is said to be doing is so, from outside and for who reads it; its jobs have names."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from jobledger import (
    JetStreamLog,
    JobNotFound,
    Ledger,
    SubscriptionInfo,
    Subscriptions,
    SubscriptionState,
    subscribe,
)
from jobledger.projections.limits import ADMIN_LIVE_SECONDS
from jobledger.projections.subscriptions.admin import Attendance, Part
from jobledger.projections.subscriptions.definition import Definition
from jobledger.projections.subscriptions.parking import ParkedState
from tests.conftest import make_spec
from tests.projections.subscriptions.test_subscribe_admin import (
    WITHIN_SECONDS,
    Reader,
    create,
    reading,
    set_aside,
    shown,
)
from tests.support.logs import eventually

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
def test_the_first_state_that_is_so_is_told(parts: tuple[Part, ...], parked: int, state: Attendance) -> None:
    """Unattended, catching up, parked, live; who waits for an event is there, too."""
    info = SubscriptionInfo(definition=Definition(name="n"), parts=parts, parked=parked)
    assert info.state is state


async def test_who_waits_for_a_first_event_is_there(jetstream_log: JetStreamLog) -> None:
    """The server gives it to nobody before there is an event for it: it is live all the same."""
    subscriptions = Subscriptions(jetstream_log)
    await create(jetstream_log, "one")
    async with reading(jetstream_log, Reader(), namespace="elsewhere"):
        info = await shown(subscriptions, lambda info: info.state is Attendance.LIVE)
        assert [(part.held, part.waiting) for part in info.parts] == [(False, 1)]
    await shown(subscriptions, lambda info: info.state is Attendance.NO_CONSUMER)


async def test_a_group_with_partitions_without_events_is_there(jetstream_log: JetStreamLog) -> None:
    """Whoever has a partition is live, the others stand by; without them all, it is unattended."""
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


async def test_a_parked_job_is_told_by_the_state_and_named(jetstream_log: JetStreamLog) -> None:
    """Names are looked up in their namespace; one that is not set aside is told, and where to look."""
    subscriptions, reader = Subscriptions(jetstream_log), Reader()
    await Ledger(jetstream_log).create(make_spec("bad", namespace="prod"))
    reader.bad = lambda _: True
    async with reading(jetstream_log, reader, retries=0):
        await set_aside(subscriptions, ParkedState.PARKED)
        await shown(subscriptions, lambda info: info.state is Attendance.PARKED)
        with pytest.raises(JobNotFound, match="`jobledger subscriptions parked billing`"):
            await subscriptions.retry("billing", "bad")
        assert await subscriptions.retry("billing", "bad", namespace="prod") == 1
        await eventually(lambda: len(reader.tried) == 2, within_seconds=WITHIN_SECONDS)
        await set_aside(subscriptions, ParkedState.PARKED)
        assert await subscriptions.skip("billing", "bad", namespace="prod") == 1
        await shown(subscriptions, lambda info: info.state is Attendance.LIVE)
