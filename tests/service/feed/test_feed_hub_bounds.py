"""Live feeds are bounded in number, memory and time, and end with a reason for the reader."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from jobledger import MemoryLog
from jobledger.projections.subscriptions.filters import EventFilter
from jobledger.service.errors import CursorGone, NotReady, TooManyRequests
from jobledger.service.feed.hub import Cause, FeedConnection
from jobledger.store.log import LogInfo
from jobledger.store.model.subjects import named_job_id
from tests.support.feed_hub import EVERYTHING, content_of, expected_content, read_to, running_hub, truth_of
from tests.support.histories import append_all, random_drafts

ELSEWHERE = EventFilter(namespaces=frozenset({"elsewhere"}))


async def ended(connection: FeedConnection) -> str:
    """Wait for the end of a feed; returns its reason."""
    async with asyncio.timeout(10):
        while await connection.next() is not None:
            pass
    return connection.reason


async def test_a_slow_reader_takes_no_memory_and_delays_no_other(tmp_path: Path) -> None:
    """While one reads nothing, others get everything, limits hold, and the slow one loses nothing."""
    log = MemoryLog()
    async with running_hub(log, tmp_path, ring_events=32) as running:
        hub = running.hub
        async with await hub.open(EVERYTHING) as slow, await hub.open(EVERYTHING) as fast:
            drafts = random_drafts(random.Random(1), jobs=10, events=400)
            got: list[object] = []
            for start in range(0, 400, 20):
                await append_all(log, drafts[start : start + 20])
                got += content_of(await read_to(fast, start + 20))
                assert len(hub.ring) <= 32
            truth = expected_content(await truth_of(log))
            assert got == truth
            assert slow.sequence == 0
            assert content_of(await read_to(slow, 400)) == truth


async def test_the_ring_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Large events evict older ones sooner; what one feed sends at once is bounded as well."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(2), jobs=5, events=50))
    limits = {"ring_bytes": 30_000, "send_bytes": 4_000}
    async with running_hub(log, tmp_path, **limits) as running:
        hub = running.hub
        async with await hub.open(EVERYTHING, after=0) as connection:
            drafts = random_drafts(random.Random(4), jobs=5, events=250)[50:]
            for number in range(0, len(drafts), 10):
                await append_all(log, drafts[number : number + 10])
                await running.projector.wait_for(60 + number)
                kept = list(hub.ring.since(0))
                assert sum(event.size_bytes for event in kept) <= 30_000
            connection.sequence = hub.ring.after
            events = await connection.next()
            assert events
            assert sum(event.size_bytes for event in events[:-1]) < 4_000


async def test_a_reader_that_exceeds_the_send_timeout_is_closed(tmp_path: Path) -> None:
    """A reader that continues in time is not."""
    log = MemoryLog()
    async with (
        running_hub(
            log, tmp_path, send_timeout_seconds=0.2, tick_seconds=0.02, heartbeat_seconds=0.05
        ) as running,
        await running.hub.open(EVERYTHING) as stuck,
        await running.hub.open(EVERYTHING) as other,
    ):
        called_off = asyncio.Event()
        stuck.on_stuck = called_off.set

        async def read() -> None:
            while await other.next() is not None:
                pass

        reading = asyncio.create_task(read())
        async with asyncio.timeout(10):
            await called_off.wait()
        assert stuck.cause is Cause.SLOW
        assert other.cause is None
        other.end(Cause.GONE, "enough")
        await reading


async def test_five_hundred_feeds_get_every_event(tmp_path: Path) -> None:
    """500 feeds at once, of everything and of one job, get all their events."""
    log = MemoryLog()
    job = named_job_id("default", "job-3")
    async with running_hub(log, tmp_path) as running, AsyncExitStack() as stack:
        feeds = [
            await stack.enter_async_context(
                await running.hub.open(EVERYTHING if number % 2 else EventFilter(job=("default", job)))
            )
            for number in range(500)
        ]
        await append_all(log, random_drafts(random.Random(5), jobs=6, events=100))
        truth = await truth_of(log)
        of_job = [each for each in truth if each.status.id == job]

        async def read(number: int) -> None:
            expected = truth if number % 2 else of_job
            events = await read_to(feeds[number], expected[-1].sequence)
            assert content_of(events) == expected_content(expected)

        await asyncio.gather(*map(read, range(500)))


async def test_a_feed_without_matches_advances_with_its_heartbeats(tmp_path: Path) -> None:
    """Each heartbeat has a position after all events that did not match."""
    log = MemoryLog()
    async with (
        running_hub(log, tmp_path, heartbeat_seconds=0.05, tick_seconds=0.01, ring_events=8) as running,
        await running.hub.open(ELSEWHERE) as connection,
    ):
        places = []
        for start in range(0, 60, 20):
            drafts = random_drafts(random.Random(6), jobs=3, events=60)
            await append_all(log, drafts[start : start + 20])
            await running.projector.wait_for(start + 20)
            assert not await connection.next()
            places.append(connection.sequence)
        assert places == [20, 40, 60]


async def test_feeds_are_bounded_per_client_and_in_total(tmp_path: Path) -> None:
    """One more than the limit is refused; a feed that ends no longer counts."""
    async with running_hub(MemoryLog(), tmp_path, feeds=3, feeds_per_client=2) as running:
        hub = running.hub
        async with await hub.open(EVERYTHING, client="a"):
            async with await hub.open(EVERYTHING, client="a"):
                with pytest.raises(TooManyRequests, match="this client has 2 open feeds"):
                    await hub.open(EVERYTHING, client="a")
                async with await hub.open(EVERYTHING, client="b"):
                    with pytest.raises(TooManyRequests, match="this process has 3 open feeds"):
                        await hub.open(EVERYTHING, client="c")
                    assert len(hub) == 3
            with pytest.raises(CursorGone):
                await hub.open(EVERYTHING, client="a", after=99)
            async with await hub.open(EVERYTHING, client="a"), await hub.open(EVERYTHING):
                assert len(hub) == 2  # what has no client is not counted
        assert len(hub) == 0


async def test_a_drain_closes_every_feed_at_its_position(tmp_path: Path) -> None:
    """Waiting readers are woken at once, positions are kept, and no feed can be opened."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(7), jobs=3, events=20))
    async with running_hub(log, tmp_path) as running:
        hub = running.hub
        async with await hub.open(EVERYTHING) as waiting, await hub.open(EVERYTHING, after=0) as reading:
            wait = asyncio.create_task(ended(waiting))
            await asyncio.sleep(0)
            events = await reading.next()
            close = asyncio.create_task(hub.close("enough"))
            assert await wait == "enough"
            assert waiting.sequence == 20
            assert await ended(reading) == "enough"
            assert events is not None
            # The position is also after later records that changed no job.
            assert events[-1].sequence <= reading.sequence <= 20
            assert reading.cause is Cause.DRAINED
            with pytest.raises(NotReady, match="enough"):
                await hub.open(EVERYTHING)
        async with asyncio.timeout(1):
            await close  # as soon as the last reader has gone, not at its bound


async def test_a_drain_does_not_wait_for_a_reader_that_is_stuck(tmp_path: Path) -> None:
    """A reader that accepts nothing is interrupted at the drain's limit."""
    async with (
        running_hub(MemoryLog(), tmp_path, close_seconds=0.05) as running,
        await running.hub.open(EVERYTHING) as stuck,
    ):
        called_off = asyncio.Event()
        stuck.on_stuck = called_off.set
        await running.hub.close()
        assert called_off.is_set()


async def test_a_revoked_token_ends_the_feed(tmp_path: Path) -> None:
    """Within a tick, even without events; no event follows."""
    log = MemoryLog()
    valid = {"yes"}
    async with running_hub(log, tmp_path, tick_seconds=0.01) as running:
        async with await running.hub.open(EVERYTHING, is_valid=lambda: bool(valid)) as silent:
            waiting = asyncio.create_task(ended(silent))
            await asyncio.sleep(0)
            valid.clear()
            assert await waiting == "the token is no longer valid"
        async with await running.hub.open(EVERYTHING, is_valid=lambda: bool(valid)) as late:
            await append_all(log, random_drafts(random.Random(8), jobs=2, events=5))
            assert await late.next() is None
            assert late.cause is Cause.REVOKED


class _Trimmed(MemoryLog):
    """A log that has lost its start."""

    async def info(self) -> LogInfo:
        info = await super().info()
        return LogInfo(info.epoch, 10, info.last_sequence)


async def test_a_position_outside_the_log_is_refused(tmp_path: Path) -> None:
    """Beyond the end or before the first event: refused before any event, with the remedy."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(9), jobs=3, events=30))
    async with running_hub(log, tmp_path, ring_events=8) as running:
        with pytest.raises(
            CursorGone,
            match=r"-31 is beyond the end of the stream \(last sequence: 30\).* start without a cursor",
        ):
            await running.hub.open(EVERYTHING, after=31)
        trimmed = _Trimmed()
        trimmed.__dict__.update(log.__dict__)
        running.hub._log = trimmed
        with pytest.raises(
            CursorGone, match=r"-8 were deleted: the stream starts at 10; start without a cursor"
        ):
            await running.hub.open(EVERYTHING, after=8)
        async with await running.hub.open(EVERYTHING, after=9) as connection:
            assert connection.sequence == 9
