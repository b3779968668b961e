"""Live feeds when the log is unavailable, replaced, or written by other programs."""

import asyncio
import json
import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import msgspec
import pytest

from jobledger import JetStreamLog, LogUnavailable, MemoryLog
from jobledger.projections.batch import Folded
from jobledger.service.errors import NotReady
from jobledger.service.feed.events import event_text, feed_event
from jobledger.service.feed.hub import Cause, FeedConnection
from jobledger.store.model.errors import JobledgerError, LogReplaced
from jobledger.store.model.events import JobCreated, Record, Recorded, read_record
from jobledger.store.model.fold import fold
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import named_job_id
from tests.support.feed_hub import (
    EVERYTHING,
    content_of,
    expected_content,
    read_between,
    read_to,
    running_hub,
    truth_of,
)
from tests.support.histories import append_all, draft, random_drafts, spec_data
from tests.support.logs import ask


async def ended(connection: FeedConnection) -> str:
    """Wait for the end of a feed; returns its reason."""
    async with asyncio.timeout(60):
        while await connection.next() is not None:
            pass
    return connection.reason


class _UnavailableLog(MemoryLog):
    """A log that cannot be read for a while."""

    failures = 0

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("no answer")
        return await super().read(subject, after=after, up_to=up_to)


async def test_a_feed_survives_an_unavailable_log(tmp_path: Path) -> None:
    """A feed that catches up retries, with heartbeats meanwhile, and then sends everything."""
    log = _UnavailableLog()
    await append_all(log, random_drafts(random.Random(1), jobs=5, events=60))
    async with running_hub(
        log, tmp_path, ring_events=8, retry_seconds=0.02, heartbeat_seconds=0.01
    ) as running:
        log.failures = 5
        async with await running.hub.open(EVERYTHING, after=0) as connection:
            assert await connection.next() == ()
            assert connection.sequence == 0
            assert content_of(await read_to(connection, 60)) == expected_content(await truth_of(log))
        assert log.failures == 0


async def test_events_folded_by_another_projector_are_read_from_the_log(tmp_path: Path) -> None:
    """If another projector on the file was faster, nothing is lost."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(2), jobs=6, events=100)
    async with (
        running_hub(log, tmp_path, heartbeat_seconds=0.02, tick_seconds=0.01) as running,
        await running.hub.open(EVERYTHING) as connection,
    ):
        take = running.hub.on_advance

        def forgetful(after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
            take(after, up_to, None if up_to % 3 == 0 else folded)

        running.hub.on_advance = forgetful  # type: ignore[method-assign]
        found = []
        for number in range(0, 100, 4):
            await append_all(log, drafts[number : number + 4])
            found += content_of(await read_to(connection, number + 4))
        assert found == expected_content(await truth_of(log))


async def test_events_that_the_hub_missed_are_read_from_the_log(tmp_path: Path) -> None:
    """A step that starts elsewhere than the last one ended leaves no gap in a feed."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(5), jobs=6, events=60)
    async with running_hub(log, tmp_path) as running, await running.hub.open(EVERYTHING) as connection:
        take, steps = running.hub.on_advance, count()

        def deaf(after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
            if next(steps) % 2:
                take(after, up_to, folded)

        running.hub.on_advance = deaf  # type: ignore[method-assign]
        for draft_ in drafts:  # each is a step of its own
            await append_all(log, [draft_])
            await running.projector.wait_for((await log.info()).last_sequence)
        assert content_of(await read_to(connection, 60)) == expected_content(await truth_of(log))


async def test_a_position_in_a_recreated_log_is_refused_at_the_start(tmp_path: Path) -> None:
    """Even before the projector notices: the sequence is another event."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(6), jobs=4, events=30))
    async with running_hub(log, tmp_path, ring_events=8) as running:
        running.hub.stream_tag = "0123456789ab"  # of the previous log
        with pytest.raises(LogReplaced, match="was deleted and recreated"):
            await running.hub.open(EVERYTHING, after=1)


async def test_a_stopped_projector_ends_the_feeds_and_a_restart_accepts_new_ones(tmp_path: Path) -> None:
    """Feeds do not stay open silently when the view no longer advances."""
    log = MemoryLog()
    async with running_hub(log, tmp_path) as running:
        async with await running.hub.open(EVERYTHING) as connection:
            await running.projector.stop()
            assert "stopping" in await ended(connection)
            assert connection.cause is Cause.DRAINED
        with pytest.raises(NotReady):
            await running.hub.open(EVERYTHING)
        await running.projector.start()
        async with await running.hub.open(EVERYTHING) as connection:
            drafts = random_drafts(random.Random(3), jobs=2, events=10)
            await append_all(log, drafts)
            assert content_of(await read_to(connection, 10)) == expected_content(await truth_of(log))


async def test_a_log_recreated_under_a_running_service_ends_the_feeds(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Live ones when the projector notices; one that reads old events at its next page."""
    log = jetstream_log
    await append_all(log, random_drafts(random.Random(4), jobs=4, events=30))
    async with (
        running_hub(log, tmp_path, ring_events=8) as running,
        await running.hub.open(EVERYTHING) as live,
        await running.hub.open(EVERYTHING, after=0) as old,
    ):
        await ask(log, "STREAM.DELETE.JOBS")
        await ask(log, "STREAM.CREATE.JOBS", {"name": "JOBS", "subjects": ["jobs.>"], "allow_direct": True})
        assert "the stream was deleted and" in await ended(old)
        assert "the stream was deleted and" in await ended(live)
        assert old.cause is live.cause is Cause.BROKEN


async def test_a_page_of_the_log_ends_where_the_view_is(tmp_path: Path) -> None:
    """Events beyond this replica's view are left for later; otherwise they would be sent twice."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(7), jobs=4, events=60))
    truth = await truth_of(log)
    async with running_hub(log, tmp_path) as running:
        events, reached = await running.hub.catch_up(EVERYTHING.subjects).page(5, 30)
        assert reached == 30
        assert content_of(events) == expected_content([each for each in truth if 5 < each.sequence <= 30])


async def test_a_page_of_another_log_is_dropped(tmp_path: Path) -> None:
    """If the log is recreated during a read, none of its events are sent with cursors of the old one."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(8), jobs=4, events=20))
    async with running_hub(log, tmp_path) as running:
        running.hub.stream_tag = "0123456789ab"  # of the previous log
        with pytest.raises(LogReplaced, match="was deleted and recreated"):
            await running.hub.catch_up(EVERYTHING.subjects).page(0, 20)


def _created(payload: bytes) -> Folded:
    """A creation written by another program."""
    job_id = named_job_id("default", "x")
    record = Record(
        1, 1_700_000_000_123_456_789, draft(JobCreated, job_id, spec_data("x"), 1).subject, payload
    )
    recorded = read_record(record)
    assert isinstance(recorded, Recorded)
    status = fold(None, recorded)
    assert isinstance(status, JobStatus)
    return Folded(record, recorded.event, status)


def test_an_event_is_one_line_of_json_however_it_was_written() -> None:
    """Other writers may format JSON and use reserved names: values of the stream take precedence."""
    plain = draft(
        JobCreated, named_job_id("default", "x"), spec_data("x", labels={"größe": "10 µm"}), 1
    ).payload
    for payload in (
        plain,
        msgspec.json.format(plain, indent=2),
        plain + b" \r\n",
        b'{"sequence":7,"revision":9,"name":"y","matches":"both",' + plain[1:],
    ):
        text = event_text(feed_event(_created(payload)), "0123456789ab", "/jobledger/x")
        first, second, third, *rest = text.decode().split("\n")
        assert (first, second, rest) == ("id: 0123456789ab-1", "event: jobledger.job.created.v1", ["", ""])
        data = json.loads(third.removeprefix("data: "))
        assert (data["sequence"], data["revision"], data["version"]) == (f"{1:020}", 1, 1)
        assert (data["source"], data["name"]) == ("/jobledger/x", "x")
        assert "matches" not in data
        keys = [key for key, _ in json.loads(third.removeprefix("data: "), object_pairs_hook=list)]
        assert len(keys) == len(set(keys))
        assert data["streamtime"] == "2023-11-14T22:13:20.123456789Z"
        assert data["data"] == json.loads(plain)["data"]
        assert "\r" not in text.decode()


async def test_anomalies_are_not_in_the_feed(log: MemoryLog | JetStreamLog, tmp_path: Path) -> None:
    """An event that changes no job is not sent, from the ring or the log; positions advance past it."""
    drafts = random_drafts(random.Random(5), jobs=3, events=80)
    await append_all(log, drafts)
    truth = await truth_of(log)
    assert len(truth) < 80
    for ring_events in (8, 1_000):
        directory = tmp_path / str(ring_events)
        directory.mkdir()
        async with running_hub(log, directory, ring_events=ring_events) as running:
            assert await read_between(running.hub, EVERYTHING, 0, 80) == expected_content(truth)


class _Listener:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, int | None]] = []
        self.started: list[int] = []
        self.ended: list[JobledgerError | None] = []

    def on_start(self, sequence: int) -> None:
        self.started.append(sequence)

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        self.heard.append((after, up_to, None if folded is None else len(folded)))

    def on_stop(self, error: JobledgerError | None) -> None:
        self.ended.append(error)


async def test_a_projector_reports_every_event_to_its_listener(tmp_path: Path) -> None:
    """From its position when the listener is attached, without a gap, until it stops."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(6), jobs=3, events=50)
    await append_all(log, drafts[:10])
    async with running_hub(log, tmp_path) as running:
        listener = _Listener()
        running.projector.attach(listener)
        for number in range(10, 50, 10):
            await append_all(log, drafts[number : number + 10])
            await running.projector.wait_for(number + 10)
        await running.projector.stop()
        assert listener.started == [10]
        assert [after for after, _, _ in listener.heard] == [
            10,
            *(up_to for _, up_to, _ in listener.heard[:-1]),
        ]
        assert sum(count or 0 for _, _, count in listener.heard) == sum(
            each.sequence > 10 for each in await truth_of(log)
        )
        assert listener.ended == [None]
