"""Live feeds: every event once per cursor, in order, for every reader and every start position."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from jobledger import MemoryLog, parse_selector
from jobledger.projections.subscriptions.filters import EventFilter, parse_types
from jobledger.service.feed import catchup
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType
from tests.support.feed_hub import (
    EVERYTHING,
    ExpectedEvent,
    content_of,
    events_between,
    expected_content,
    read_between,
    read_to,
    running_hub,
    truth_of,
)
from tests.support.histories import append_all, random_drafts


async def test_a_live_feed_has_every_event_once_in_order(log: EventLog, tmp_path: Path) -> None:
    """Events appended while a feed is open reach it once, in order, with the status after them."""
    drafts = random_drafts(random.Random(1), jobs=8, events=120)
    await append_all(log, drafts[:40])
    async with running_hub(log, tmp_path) as running:
        async with await running.hub.open(EVERYTHING) as connection:
            started = connection.sequence
            await append_all(log, drafts[40:])
            events = await read_to(connection, (await truth_of(log))[-1].sequence)
        assert started == 40
        assert content_of(events) == expected_content(
            [each for each in await truth_of(log) if each.sequence > 40]
        )


async def test_a_feed_resumes_at_every_cursor_without_gap_or_repeat(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each position, the events from the log and then from the ring are all events after it."""
    monkeypatch.setattr(catchup, "FEED_CATCHUP_BYTES", 3_000)  # pages of a few events
    monkeypatch.setattr(catchup, "FEED_CATCHUP_JOBS", 3)  # most jobs are evicted and read again
    await append_all(log, random_drafts(random.Random(2), jobs=12, events=150))
    truth = await truth_of(log)
    async with running_hub(log, tmp_path, ring_events=16) as running:
        for cursor in range(0, 151, 1 if isinstance(log, MemoryLog) else 5):
            rest = [each for each in truth if each.sequence > cursor]
            assert await read_between(running.hub, EVERYTHING, cursor, 150) == expected_content(rest), cursor


async def test_the_ring_continues_the_log_at_every_position(tmp_path: Path) -> None:
    """Wherever the ring starts, a feed that comes from the log misses and repeats nothing."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(4), jobs=6, events=60)
    await append_all(log, drafts[:20])
    async with running_hub(log, tmp_path, ring_events=16) as running:
        for number in range(20, 60):
            await append_all(log, drafts[number : number + 1])
            await running.projector.wait_for(number + 1)
            for cursor in {0, 3, max(0, running.hub.ring.after - 1), running.hub.ring.after}:
                rest = [each for each in await truth_of(log) if each.sequence > cursor]
                received = await read_between(running.hub, EVERYTHING, cursor, number + 1)
                assert received == expected_content(rest)
        assert running.hub.ring.after > 20


@pytest.mark.parametrize("ring_events", [16, 1_000])
async def test_each_filter_selects_its_events(tmp_path: Path, ring_events: int) -> None:
    """Namespace, job, type, state and labels, alone and together, live, from the ring and from the log."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(5), jobs=8, events=200)
    async with running_hub(log, tmp_path, ring_events=ring_events) as running:
        await append_all(log, drafts)
        await running.projector.wait_for(200)
        truth = await truth_of(log)
        job = truth[3].status
        types = parse_types(["updated", "jobledger.job.state.v1"])
        selector = parse_selector("env in (a,b),!tier")
        states = (StateType.RUNNING, StateType.PENDING)
        filters: list[tuple[EventFilter, Callable[[ExpectedEvent], bool]]] = [
            (EventFilter(namespaces=frozenset({"default"})), lambda _: True),
            (EventFilter(namespaces=frozenset({"other", "more"})), lambda _: False),
            (EventFilter(job=(job.namespace, job.id)), lambda each: each.status.id == job.id),
            (EventFilter(types=types), lambda each: each.type in types),
            # A tag does not change the state: a reader that filters by state does not get it again.
            (
                EventFilter(states=states),
                lambda each: (
                    each.type != "jobledger.job.tagged.v1" and each.status.state.state_type in states
                ),
            ),
            (
                EventFilter(selector=selector),
                lambda each: each.matches(_of_a_or_b) is not None,
            ),
            (
                EventFilter(selector=selector, types=types, states=states),
                lambda each: (
                    each.matches(_of_a_or_b) is not None
                    and each.type in types
                    and each.status.state.state_type in states
                ),
            ),
        ]
        for feed_filter, passes in filters:
            for cursor in (0, 57, 150, 197):
                rest = [each for each in truth if each.sequence > cursor and passes(each)]
                assert await read_between(running.hub, feed_filter, cursor, 200) == expected_content(rest), (
                    feed_filter
                )


def _of_a_or_b(labels: dict[str, str]) -> bool:
    return labels.get("env") in {"a", "b"} and "tier" not in labels


async def test_labels_are_those_before_and_after_the_event(tmp_path: Path) -> None:
    """A job matches from the event that sets its labels to the one that removes them, inclusive."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(6), jobs=1, events=60))
    truth = await truth_of(log)
    seen = {str(sorted(each.labels.items())) for each in truth}
    assert len(seen) > 2, "the history must change its labels"
    async with running_hub(log, tmp_path, ring_events=16) as running:
        for text in ("env=a", "env=b", "!env", "tier!=c,owner"):
            feed_filter = EventFilter(selector=parse_selector(text))
            found = await events_between(running.hub, feed_filter, 0, 60)
            expected: Callable[[dict[str, str]], bool] = {
                "env=a": lambda labels: labels.get("env") == "a",
                "env=b": lambda labels: labels.get("env") == "b",
                "!env": lambda labels: "env" not in labels,
                "tier!=c,owner": lambda labels: labels.get("tier") != "c" and "owner" in labels,
            }[text]
            wanted = [each for each in truth if each.matches(expected) is not None]
            assert content_of(found) == expected_content(wanted), text
            assert [event.matches for event in found] == [each.matches(expected) for each in wanted], text


async def test_a_replica_that_starts_in_the_middle_sends_the_rest(log: EventLog, tmp_path: Path) -> None:
    """A cursor of one replica is valid on another, even one that has not seen that event yet."""
    drafts = random_drafts(random.Random(7), jobs=8, events=100)
    await append_all(log, drafts[:60])
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_hub(log, tmp_path / "a") as first:
        async with await first.hub.open(EVERYTHING, after=0) as connection:
            before = await read_to(connection, 50)
            cursor = connection.sequence
        async with (
            running_hub(log, tmp_path / "b") as second,
            await second.hub.open(EVERYTHING, after=cursor) as connection,
        ):
            await append_all(log, drafts[60:])
            after = await read_to(connection, (await truth_of(log))[-1].sequence)
    assert content_of([*before, *after]) == expected_content(await truth_of(log))


async def test_a_feed_waits_for_a_position_that_this_replica_has_not_reached(tmp_path: Path) -> None:
    """A feed that starts beyond this replica's view, within the log, has only later events."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(8), jobs=4, events=40)
    async with running_hub(log, tmp_path) as running:
        await append_all(log, drafts[:20])  # the projector has not run since: nothing was awaited that waits
        assert running.hub.sequence < 20
        async with (
            await running.hub.open(EVERYTHING, after=20) as given,
            await running.hub.open(EVERYTHING) as now,
        ):
            assert given.sequence == now.sequence == 20
            await append_all(log, drafts[20:])
            truth = [each for each in await truth_of(log) if each.sequence > 20]
            for connection in (given, now):
                assert content_of(await read_to(connection, truth[-1].sequence)) == expected_content(truth)


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    """A misspelled type would be a feed that is silent forever."""
    with pytest.raises(
        InvalidInput, match=r"unknown event type 'delted': use one of created, updated, state"
    ):
        parse_types(["created", "delted"])


@pytest.mark.parametrize("ring_events", [1, 10_000])
async def test_a_feed_sends_a_heartbeat_as_soon_as_it_has_caught_up(tmp_path: Path, ring_events: int) -> None:
    """From the log or the ring: after the last event, without waiting, once."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(5), jobs=4, events=40))
    unmatched = EventFilter(namespaces=frozenset({"nobody's"}))
    async with running_hub(log, tmp_path, ring_events=ring_events) as running:
        for feed_filter in (unmatched, EVERYTHING):
            async with await running.hub.open(feed_filter, after=7) as connection, asyncio.timeout(60):
                while await connection.next():
                    pass
                assert connection.sequence == 40
                waiting = asyncio.create_task(connection.next())
                done, _ = await asyncio.wait({waiting}, timeout=0.1)
                assert not done
                waiting.cancel()
        async with await running.hub.open(EVERYTHING) as connection:  # from now: nothing to catch up with
            waiting = asyncio.create_task(connection.next())
            assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
            waiting.cancel()
