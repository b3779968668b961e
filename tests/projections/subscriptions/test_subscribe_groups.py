"""A group shares a subscription: each job's events go to one member, in order, as members come and go."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Subscription, Subscriptions, subscribe
from jobledger.projections.subscriptions import subscription
from jobledger.store.jetstream.consumer import holder as consumer
from jobledger.store.model.subjects import SHARD_COUNT, shard_of
from tests.support.log_writer import Writer
from tests.support.logs import eventually
from tests.support.subscriber_group import OutputLine, group, out_of_order
from tests.support.subscriber_process import Plan

REPLACED_WITHIN_SECONDS = 10.0  # the guarantee for a member that dies
EVERY_SHARD_JOBS = 200
PARTITIONS = 8


class Together:
    """The output of the members in this process, in the form of that of subscriber processes."""

    def __init__(self) -> None:
        self.lines: list[OutputLine] = []
        self.handled: set[int] = set()
        self._news = asyncio.Event()

    async def handle_all(self, number: int, events: Subscription) -> None:
        """Handle the events of one member."""
        async for event in events:
            for word in ("begin", "end"):
                now = time.monotonic_ns()
                self.lines.append(OutputLine(number, word, event.sequence, event.job_id, event.revision, now))
            self.handled.add(event.sequence)
            self._news.set()

    async def until_handled(self, sequences: Collection[int]) -> None:
        """Wait until all of these events were handled."""
        async with asyncio.timeout(30):
            while not self.handled.issuperset(sequences):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def member(
    server: EmbeddedServer, together: Together, number: int, **how: Any
) -> AsyncIterator[Subscription]:
    """A member on a connection of its own, which handles events until the block ends."""
    log = await JetStreamLog.connect(server.url)
    try:
        async with subscribe(log, "shared", **how) as events:
            task = asyncio.create_task(together.handle_all(number, events))
            try:
                yield events
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    finally:
        await log.close()


async def test_members_share_the_jobs_by_shard(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """Four members get a quarter of the shards each: every event once, each job's with one member."""
    writer, together = Writer(jetstream_log, EVERY_SHARD_JOBS), Together()
    for _ in range(3):
        await writer.round()
    async with AsyncExitStack() as stack:
        for number in range(1, 5):
            await stack.enter_async_context(member(server, together, number, members=4, member=number))
        await together.until_handled(writer.revisions)
    ended = [line for line in together.lines if line.word == "end"]
    assert sorted(line.sequence for line in ended) == sorted(writer.revisions)
    shards = [{shard_of(line.job_id) for line in ended if line.pid == number} for number in range(1, 5)]
    assert [len(each) for each in shards] == [SHARD_COUNT // 4] * 4
    assert len(set().union(*shards)) == SHARD_COUNT
    assert out_of_order(together.lines) == []
    assert {line.sequence: line.revision for line in ended} == writer.revisions


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members rebalance more often than once a second."""
    monkeypatch.setattr(consumer, "HOLD_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(consumer, "RELEASE_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(subscription, "HOLD_CHECK_SECONDS", 0.1)


async def until_shared(members: list[Subscription], together: Together, writer: Writer) -> None:
    """Wait until all have an even share; a partition is assigned with its next event."""
    share = [PARTITIONS // len(members)] * len(members)
    async with asyncio.timeout(60):
        while [len(each.status.held) for each in members] != share:
            await writer.round()
            await together.until_handled(writer.revisions)


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
async def test_members_that_come_and_go_share_evenly(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """New members get their share, leaving ones are replaced at once; nothing is lost or out of order."""
    writer, together = Writer(jetstream_log, EVERY_SHARD_JOBS), Together()
    how = {"elastic": True, "partitions": PARTITIONS}
    async with member(server, together, 1, **how) as first:
        await until_shared([first], together, writer)
        async with AsyncExitStack() as stack:
            others = [
                await stack.enter_async_context(member(server, together, number, **how))
                for number in range(2, 5)
            ]
            await until_shared([first, *others], together, writer)
            assert len({line.pid for line in together.lines}) == 4
        await until_shared([first], together, writer)
    assert together.handled == set(writer.revisions)
    assert out_of_order(together.lines) == []


@pytest.mark.slow
async def test_a_member_that_dies_is_replaced_within_ten_seconds(
    server: EmbeddedServer, jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Killed in its handler: the others handle its events, in order per job, none lost."""
    writer = Writer(jetstream_log, EVERY_SHARD_JOBS)
    await writer.round()
    plan = Plan(name="elastic", how={"elastic": True, "start": "beginning"}, marks=str(tmp_path))
    async with group() as members:
        for _ in range(3):
            await members.start(server.url, plan)
        await members.until_handled(writer.revisions)
        for _ in range(2):
            writing = asyncio.create_task(writer.round())
            await members.kill(members.in_handler())
            killed = time.monotonic()
            await writing
            await members.until_handled(writer.revisions)
            assert time.monotonic() - killed < REPLACED_WITHIN_SECONDS
            await members.start(server.url, plan)
        assert out_of_order(members.lines) == []
        assert {line.sequence: line.revision for line in members.lines} == writer.revisions


@pytest.mark.slow
async def test_a_standby_takes_the_place_of_a_member_that_dies(
    server: EmbeddedServer, jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Two processes of one member number: one works, one waits, and takes over in order after a kill."""
    writer = Writer(jetstream_log, EVERY_SHARD_JOBS)
    await writer.round()
    how = {"members": 2, "start": "beginning"}
    async with group() as members:
        for number in (1, 1, 2):
            plan = Plan(name="fixed", how={**how, "member": number}, marks=str(tmp_path))
            await members.start(server.url, plan)
        await members.until_handled(writer.revisions)
        at_work = {line.pid for line in members.lines}
        assert len(at_work) == 2
        first = next(pid for pid in members.running if pid in at_work)
        await members.kill(first)
        killed = time.monotonic()
        await writer.round()
        await members.until_handled(writer.revisions)
        assert time.monotonic() - killed < REPLACED_WITHIN_SECONDS
        assert len({line.pid for line in members.lines}) == 3
        assert out_of_order(members.lines) == []


@pytest.mark.slow
async def test_a_member_that_was_asleep_handles_nothing_that_it_lost(
    server: EmbeddedServer, jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Stopped in its handler for longer than its lease, with events ready: it handles none of them."""
    writer = Writer(jetstream_log, EVERY_SHARD_JOBS)
    for _ in range(5):
        await writer.round()
    last = max(writer.revisions)
    plan = Plan(name="asleep", pauses_at=EVERY_SHARD_JOBS, marks=str(tmp_path))

    async def is_acknowledged() -> bool:
        return (await Subscriptions(jetstream_log).show(plan.name)).gap == 0

    async with group() as members:
        asleep = await members.start(server.url, plan)
        await members.until(lambda: bool(members.lines) and members.lines[-1].sequence == plan.pauses_at)
        other = await members.start(server.url, plan)
        os.kill(asleep, signal.SIGSTOP)
        await members.until_handled(writer.revisions)
        line = len(members.lines)
        (tmp_path / "awake").touch()
        os.kill(asleep, signal.SIGCONT)
        await members.until(lambda: members.lines[-1].pid == asleep)
        # What the other one has handled but not acknowledged would be delivered again.
        await eventually(is_acknowledged, within_seconds=30)
        await members.kill(other)
        await writer.round()
        await members.until_handled(writer.revisions)  # it recovers, and takes over again
        old = [each for each in members.lines[line:] if each.pid == asleep and each.sequence <= last]
        assert [(each.word, each.sequence) for each in old] == [("end", plan.pauses_at)]
        assert out_of_order(members.lines) == []


def line(*lines: tuple[int, str, int]) -> list[OutputLine]:
    """The output of processes about one job."""
    return [
        OutputLine(pid, word, sequence, "job", sequence, at) for at, (pid, word, sequence) in enumerate(lines)
    ]


def test_the_order_is_judged_by_first_handlings() -> None:
    """Repeats and failed or killed attempts are in order; a later event that starts too early is not."""
    killed = line((1, "begin", 1), (2, "begin", 1), (2, "end", 1), (2, "begin", 2), (2, "end", 2))
    repeated = line((1, "begin", 1), (1, "end", 1), (1, "begin", 2), (1, "end", 2), (2, "begin", 1))
    failed = line((1, "begin", 1), (1, "fail", 1), (1, "begin", 1), (1, "end", 1), (1, "begin", 2))
    assert [out_of_order(each) for each in (killed, repeated, failed)] == [[], [], []]
    too_soon = line((1, "begin", 1), (2, "begin", 2), (1, "end", 1), (2, "end", 2))
    passed_over = line((1, "begin", 1), (1, "fail", 1), (1, "begin", 2), (1, "end", 2))
    swapped = line((1, "begin", 2), (1, "end", 2), (1, "begin", 1), (1, "end", 1))
    assert [len(out_of_order(each)) for each in (too_soon, passed_over, swapped)] == [1, 1, 1]
