"""Many live feeds share their events: joined once, and sent to a few readers at a time."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

from jobledger import MemoryLog, parse_selector
from jobledger.projections.subscriptions.filters import EventFilter
from jobledger.service.feed.events import Chunk
from jobledger.service.limits import FEED_SHARED_CHUNKS
from jobledger.store.model.events import JobCreated
from jobledger.store.model.subjects import named_job_id
from tests.support.feed_hub import EVERYTHING, Hub, content_of, expected_content, running_hub, truth_of
from tests.support.histories import append_all, draft, random_drafts, spec_data


async def fill(running: Hub, events: int) -> None:
    """Append this many events, and wait until the hub has them."""
    await append_all(running.log, random_drafts(random.Random(1), jobs=3, events=events))
    await running.projector.wait_for(events)


async def create(running: Hub, number: int) -> None:
    """Append the creation of the job of this number, and wait until the hub has it."""
    name = f"job-{number}"
    await append_all(running.log, [draft(JobCreated, named_job_id("default", name), spec_data(name), number)])
    await running.projector.wait_for(number)


async def chunk(running: Hub, feed_filter: EventFilter, after: int) -> Chunk:
    """Return what a new feed sends first."""
    async with await running.hub.open(feed_filter, after=after) as connection:
        found = await connection.next()
        assert found is not None
        assert connection.sequence == found.reached
        return found


async def test_readers_with_the_same_filter_and_position_share_one_text(tmp_path: Path) -> None:
    """Also with a selector; another filter or position, and later events, have their own."""
    selected = EventFilter(selector=parse_selector("env in (a,b)"))
    async with running_hub(MemoryLog(), tmp_path) as running:
        await fill(running, 60)
        first, same, later, labels, same_labels = [
            await chunk(running, *which)
            for which in ((EVERYTHING, 0), (EVERYTHING, 0), (EVERYTHING, 9), (selected, 0), (selected, 0))
        ]
        tag, source = running.hub.stream_tag, running.hub.source
        assert first.text(tag, source) is same.text(tag, source)
        assert labels.text(tag, source) is same_labels.text(tag, source)
        assert first.text(tag, source).endswith(later.text(tag, source))
        truth = await truth_of(running.log)
        assert content_of(first) == expected_content(truth)
        assert content_of(later) == expected_content([each for each in truth if each.sequence > 9])
        assert len(labels) < len(first)
        drafts = random_drafts(random.Random(1), jobs=3, events=70)
        await append_all(running.log, drafts[60:])
        await running.projector.wait_for(70)
        assert content_of(await chunk(running, EVERYTHING, 0)) == expected_content(
            await truth_of(running.log)
        )


async def test_what_feeds_share_is_bounded(tmp_path: Path) -> None:
    """Readers at many positions: no more chunks are kept than the limit, and each reader gets its events."""
    async with running_hub(MemoryLog(), tmp_path) as running:
        await fill(running, 60)
        truth = await truth_of(running.log)
        most = 0
        for after in range(2 * FEED_SHARED_CHUNKS + 1):
            found = await chunk(running, EVERYTHING, after)
            assert content_of(found) == expected_content([each for each in truth if each.sequence > after])
            most = max(most, len(running.hub.chunks))
        assert most == FEED_SHARED_CHUNKS


async def test_many_feeds_are_woken_a_few_at_a_time(tmp_path: Path) -> None:
    """After each few there is a pause; up to that many are woken at once. None is forgotten."""
    async with (
        running_hub(MemoryLog(), tmp_path, wakes_at_once=3, wakes_seconds=60.0) as running,
        AsyncExitStack() as stack,
    ):
        hub = running.hub
        feeds = [await stack.enter_async_context(await hub.open(EVERYTHING)) for _ in range(7)]
        reading = [asyncio.create_task(feed.next()) for feed in feeds]
        await asyncio.sleep(0)
        await create(running, 1)
        for woken in (3, 6, 7):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sum(task.done() for task in reading) == woken
            if woken < 7:
                assert hub._waking is not None
                hub._waking.cancel()  # the pause is over
                hub._wake_some()
        assert hub._waking is None
        truth = expected_content(await truth_of(running.log))
        for found in await asyncio.gather(*reading):
            assert content_of(found or ()) == truth


async def test_a_feed_that_waits_for_its_turn_gets_what_arrived_meanwhile(tmp_path: Path) -> None:
    """In one chunk, in order, and only once."""
    async with (
        running_hub(MemoryLog(), tmp_path, wakes_at_once=1, wakes_seconds=60.0) as running,
        await running.hub.open(EVERYTHING) as first,
        await running.hub.open(EVERYTHING) as second,
    ):
        hub = running.hub
        reading = [asyncio.create_task(feed.next()) for feed in (first, second)]
        await asyncio.sleep(0)
        for number in (1, 2, 3):
            await create(running, number)
        assert hub._waking is not None
        hub._waking.cancel()
        hub._wake_some()
        truth = expected_content(await truth_of(running.log))
        chunks = sorted([content_of(found or ()) for found in await asyncio.gather(*reading)], key=len)
        assert chunks == [truth[:1], truth]
