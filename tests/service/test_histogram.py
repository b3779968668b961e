"""The histogram: exact counts of events over time, for which no event is read."""

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given, strategies as st

from jobledger.service.access.principal import Role
from jobledger.service.histogram import EventTimes
from jobledger.service.limits import HISTOGRAM_BUCKETS, HISTOGRAM_MAX_BUCKETS, HISTOGRAM_REMEMBERED
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from jobledger.store.memory_log import MemoryLog
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND
from tests.support.api import job_body, ok
from tests.support.logs import draft
from tests.support.web_pages import running_ui

SECOND = NANOSECONDS_PER_SECOND


async def log_of(times: list[int]) -> MemoryLog:
    """A log with an event at each of these times."""
    clock = iter(times)
    log = MemoryLog(clock=lambda: next(clock))
    for index in range(len(times)):
        await log.append(draft(f"job-{index}"), expect=0)
    return log


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=30).map(sorted),
    st.integers(1, 12),
    st.data(),
)
async def test_every_event_is_in_the_bucket_of_its_time(
    seconds: list[int], most: int, data: st.DataObject
) -> None:
    """At most as many buckets as asked for, of one round width, without a gap; also of a part of a log."""
    times = [second * SECOND + 1 for second in seconds]
    log = await log_of(times)
    first = data.draw(st.integers(1, len(times)))
    last = data.draw(st.integers(first, len(times)))
    found = await EventTimes(log).histogram(first, last, most)
    assert 1 <= len(found.items) <= max(most, 1)
    assert found.items[0].after == first - 1
    assert found.items[-1].sequence == last
    width = found.width_seconds * SECOND
    for bucket in found.items:
        assert bucket.time % width == 0
        inside = [at for at, time in enumerate(times, 1) if bucket.time <= time < bucket.time + width]
        assert bucket.sequence - bucket.after == len([at for at in inside if first <= at <= last])
    for earlier, later in pairwise(found.items):
        assert (later.time, later.after) == (earlier.time + width, earlier.sequence)


async def test_a_clock_that_was_set_back_loses_no_event() -> None:
    """The counts still add up to all events, and none is negative."""
    log = await log_of([each * SECOND for each in (10, 20, 5, 30, 7, 40)])
    found = await EventTimes(log).histogram(1, 6, 60)
    counts = [each.sequence - each.after for each in found.items]
    assert min(counts) >= 0
    assert sum(counts) == 6


async def test_the_past_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers about times before the last event are remembered, up to a limit."""
    times = [each * SECOND for each in range(100)]
    log = await log_of(times)
    asked = 0
    sequence_at = log.sequence_at

    async def counted(time: int) -> int:
        nonlocal asked
        asked += 1
        return await sequence_at(time)

    monkeypatch.setattr(log, "sequence_at", counted)
    event_times = EventTimes(log)
    before = await event_times.histogram(1, 90, 100)
    assert asked > 50
    asked = 0
    assert await event_times.histogram(1, 90, 100) == before
    assert asked == 0
    assert len(event_times._known) <= HISTOGRAM_REMEMBERED


async def test_what_is_forgotten_meanwhile_is_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A histogram needs more than is remembered, and others forget its part."""
    log = await log_of([second * 10**9 for second in range(1, 40)])
    whole = await EventTimes(log).histogram(1, 39, 20)
    for most in (1, 2, 5):
        monkeypatch.setattr("jobledger.service.histogram.HISTOGRAM_REMEMBERED", most)
        event_times = EventTimes(log)
        assert await event_times.histogram(1, 39, 20) == whole
        assert await event_times.histogram(1, 39, 20) == whole


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def test_the_api_counts_all_events(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Of an empty log, none; a part of the log on request."""
    _, client = ui
    empty = ok(await client.get(paths.HISTOGRAM))
    assert (empty["Items"], empty["Seconds"], empty["To"]["Sequence"]) == ([], 0, 0)
    for number in range(5):
        ok(await client.put(paths.JOBS, json=job_body(f"job-{number}")))
    found = ok(await client.get(paths.HISTOGRAM))
    assert sum(each["Events"] for each in found["Items"]) == found["To"]["Sequence"] == 5
    part = ok(await client.get(paths.HISTOGRAM, params={"from": "2", "to": "4", "buckets": "1"}))
    assert [(each["After"], each["Sequence"]) for each in part["Items"]] == [(1, 4)]
    for wrong in ({"from": "4", "to": "2"}, {"buckets": "0"}, {"buckets": str(HISTOGRAM_MAX_BUCKETS + 1)}):
        assert (await client.get(paths.HISTOGRAM, params=wrong)).status_code == 400


async def test_a_token_of_one_namespace_gets_no_histogram(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """It has the events of all namespaces."""
    service, client = ui
    _, token = service.tokens.create("alice", Role.WRITER, ["team-a"])
    answer = await client.get(paths.HISTOGRAM, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


async def test_created_jobs_are_counted_in_the_namespaces_of_the_caller(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """Of all that the token may read, or of one of them; nothing of others, and the time of the point."""
    service, client = ui
    assert ok(await client.get(paths.CREATED_COUNTS))["Items"] == []
    for number in range(5):
        namespace = ("team-a", "team-b")[number % 2]
        ok(await client.put(paths.JOBS, json=job_body(f"job-{number}", Namespace=namespace)))
    _, token = service.tokens.create("alice", Role.READER, ["team-a"])
    _, admin = service.tokens.create("root", Role.ADMIN)
    for secret, query, count in (
        (admin, {}, 5),
        (admin, {"namespace": "team-b"}, 2),
        (admin, {"namespace": "none"}, 0),
        (token, {}, 3),
        (token, {"namespace": "team-a", "buckets": "1"}, 3),
    ):
        headers = {"Authorization": f"Bearer {secret}"}
        found = ok(await client.get(paths.CREATED_COUNTS, params=query, headers=headers))
        assert sum(each["Jobs"] for each in found["Items"]) == count
        assert all(each["IsExact"] for each in found["Items"])
        assert len(found["Items"]) <= int(query.get("buckets", HISTOGRAM_MAX_BUCKETS))
    headers = {"Authorization": f"Bearer {token}"}
    past = ok(await client.get(paths.CREATED_COUNTS, params={"at": "3"}, headers=headers))["At"]
    assert (past["Sequence"], bool(past["Time"])) == (3, True)
    foreign = await client.get(paths.CREATED_COUNTS, params={"namespace": "team-b"}, headers=headers)
    assert foreign.status_code == 403


async def test_a_history_is_read_newest_first(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Its pages have every event once, in the reverse order; the last has no token."""
    _, client = ui
    for priority in range(5):
        job_id = ok(await client.put(paths.JOBS, json=job_body("etl", Priority=priority)))["JobID"]
    path = paths.expand(paths.JOB_HISTORY, id=job_id)
    query = {"all_job_versions": "true", "reverse": "true", "limit": "2"}
    seen, token = [], ""
    while True:
        page = ok(await client.get(path, params={**query, "next_token": token}))
        assert len(page["Items"]) <= 2
        seen += [each["Revision"] for each in page["Items"]]
        token = page["NextToken"]
        if not token:
            break
    assert seen == [5, 4, 3, 2, 1]
    past = ok(await client.get(path, params={**query, "at": "r3"}))
    assert [each["Revision"] for each in past["Items"]] == [3, 2]


async def test_a_prepared_histogram_asks_the_log_for_nothing_of_the_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first reader after a start waits only for the end of the log; an empty log needs nothing."""
    await EventTimes(MemoryLog()).prepare()
    log = await log_of([second * SECOND for second in range(30)])
    event_times = EventTimes(log)
    await event_times.prepare()
    asked: list[int] = []
    sequence_at = log.sequence_at

    async def noted(time: int) -> int:
        asked.append(time)
        return await sequence_at(time)

    monkeypatch.setattr(log, "sequence_at", noted)
    found = await event_times.histogram(1, 30, HISTOGRAM_BUCKETS)
    assert len(found.items) == 30
    assert asked == []
