"""`audit verify` on a damaged log: it terminates, names each unreadable range, and continues after it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobledger import EmbeddedServer, JetStreamLog, MemoryLog
from jobledger.service.audit import log_pass as walk_module
from jobledger.service.audit.log_check import LogReport, check_log
from jobledger.service.audit.log_pass import SealedTree
from jobledger.service.audit.model import event_chain as links_module
from jobledger.service.audit.model.event_chain import LinkChecker
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.seals import SealList
from jobledger.service.audit.verification import verify
from jobledger.store.log import LogInfo, PendingEvent
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import job_subject
from tests.support.audited_log import KEYS, Installation, kinds, seal_log
from tests.support.histories import records_of
from tests.support.logs import ask

EVENTS = 3_000
PER_JOB = 3
PAD = "x" * 4_000  # so that the stream has two blocks
JOBS = EVENTS // PER_JOB


def job_of(sequence: int) -> int:
    """Events of 1,000 jobs: first the first of each, then the second of each, then the third."""
    return (sequence - 1) % JOBS


def payload(sequence: int) -> bytes:
    """An event that names the one before it, if it has one."""
    previous = f'"previous":"{sequence - JOBS}",' if sequence > JOBS else ""
    return f'{{{previous}"pad":"{PAD}"}}'.encode()


async def fill_blocks(log: JetStreamLog) -> None:
    """Two blocks of events."""
    for start in range(1, EVENTS + 1, 100):
        at = range(start, start + 100)
        drafts = [
            PendingEvent(job_subject("default", f"j-{job_of(n):04}"), f"event-{n}", payload(n)) for n in at
        ]
        before = [max(0, n - JOBS) for n in at]
        await asyncio.gather(*(log.append(d, expect=e) for d, e in zip(drafts, before, strict=True)))


@pytest.fixture
async def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation whose log has two blocks, sealed after 500 events and after all."""
    monkeypatch.setattr(walk_module, "AUDIT_STALL_SECONDS", 3.0)
    # As a nats-server of the operator's own: nothing keeps it from starting on damaged files.
    monkeypatch.setattr(EmbeddedServer, "_find_damage", lambda *_: ())
    installation = Installation(tmp_path)
    async with installation.log() as log:
        await fill_blocks(log)
        for size in (500, EVENTS):
            await seal_log(log, size)
    return installation


def flip(block: Path, at: float = 0.5) -> None:
    """Flip one bit of a block, at a part of its length."""
    content = bytearray(block.read_bytes())
    content[int(len(content) * at)] ^= 0x40
    block.write_bytes(content)


def zero(block: Path) -> None:
    """Zeros over a few records, as a lost sector leaves them."""
    content = bytearray(block.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    block.write_bytes(content)


def truncate(block: Path) -> None:
    """The second half of a block is gone."""
    content = block.read_bytes()
    block.write_bytes(content[: len(content) // 2])


def flip_two(block: Path) -> None:
    """Two records, far apart."""
    flip(block, 0.25)
    flip(block, 0.75)


@pytest.mark.slow
@pytest.mark.parametrize("how", [flip, flip_two, zero, truncate, Path.unlink])
async def test_a_damaged_block_is_named_and_later_events_are_checked(damaged: Installation, how: Any) -> None:
    """Every unreadable sequence is in exactly one finding; all others are read."""
    how(damaged.directory / "nats" / "jetstream" / "$G" / "streams" / "JOBS" / "msgs" / "1.blk")
    async with damaged.log() as log:
        unreadable = [n for n in range(1, EVENTS + 1) if await log.read_at(n) is None]
        assert unreadable
        async with asyncio.timeout(60):
            found = await verify(log, KEYS, lambda *_: None)
    holes = [each for each in found.findings if each.kind is Kind.HOLE]
    named = [n for each in holes for n in range(each.sequence, each.last + 1)]
    assert named == unreadable
    assert found.log.read == EVENTS - len(unreadable)
    assert found.log.size == unreadable[0] - 1
    assert found.log.unjudged == (1 if unreadable[0] > 500 else 2)
    assert found.log.seals == (1 if unreadable[0] > 500 else 0)
    assert set(kinds(found)) <= {Kind.HOLE}
    jobs = {f"j-{job_of(number):04}" for number in range(holes[0].sequence, holes[0].last + 1)}
    assert any(job in holes[0].message for job in jobs)  # a later event of it names the missing one


async def test_a_deleted_range_is_named_with_its_jobs(loose: JetStreamLog) -> None:
    """The stream reports these events as deleted; the rest is read."""
    for number in range(1, 31):
        previous = f'{{"previous":"{number - 3}"}}' if number > 3 else "{}"
        draft = PendingEvent(job_subject("default", f"j-{number % 3}"), f"event-{number}", previous.encode())
        await loose.append(draft, expect=max(0, number - 3))
    for sequence in (8, 9, 20, 30):
        assert (await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": sequence}))["success"]
    report = await check_log(loose, SealList([]), lambda *_: None)
    assert [(each.kind, each.sequence, each.last) for each in report.findings] == [
        (Kind.HOLE, 8, 9),
        (Kind.HOLE, 20, 20),
        (Kind.HOLE, 30, 30),
    ]
    assert "j-2, j-0" in report.findings[0].message
    assert report.findings[1].job_id == "j-2"
    assert (report.size, report.read) == (7, 26)


class Silent(MemoryLog):
    """A log whose feed stops at a sequence for good, as a consumer on a damaged block does."""

    def __init__(self, stops_at: int, unreadable: Sequence[int] = (), *, deaf: Sequence[int] = ()) -> None:
        super().__init__()
        self.stops_at, self.unreadable, self.deaf = stops_at, {*unreadable}, {*deaf}

    async def follow(self, *, after: int, epoch: str | None = None) -> Any:
        feed = await super().follow(after=after, epoch=epoch)
        take, at = feed.take, after

        async def taking(most: int) -> Sequence[Record]:
            nonlocal at
            stop = min((n for n in (self.stops_at, *self.unreadable) if n > at), default=at + most + 1)
            most = min(most, stop - at - 1)
            if not most:
                await asyncio.Event().wait()
            records = await take(most)
            at = records[-1].sequence
            return records

        feed.take = taking  # type: ignore[method-assign,assignment]
        return feed

    async def read_at(self, sequence: int) -> Record | None:
        if sequence in self.deaf:
            raise LogUnavailable("no answer")
        return None if sequence in self.unreadable else await super().read_at(sequence)

    async def read_next(self, subject: str, *, after: int) -> Record | None:
        if self.deaf:
            raise LogUnavailable("no answer")
        record = await super().read_next(subject, after=after)
        while record is not None and record.sequence in self.unreadable:
            record = await super().read_next(subject, after=record.sequence)
        return record


async def checked(log: MemoryLog, events: int = 40, seals: Sequence[SealedTree] = ()) -> LogReport:
    """What a check of a log with so many events finds."""
    for number in range(1, events + 1):
        await log.append(
            PendingEvent(job_subject("default", f"j-{number}"), f"event-{number}", b"{}"), expect=0
        )
    async with asyncio.timeout(20):
        return await check_log(log, SealList(seals), lambda *_: None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can wait for."""
    monkeypatch.setattr(walk_module, "AUDIT_STALL_SECONDS", 0.05)
    monkeypatch.setattr(walk_module, "AUDIT_READ_WAIT_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("leader_events", [1, 3, 1_000])
async def test_a_silent_reader_does_not_block_the_audit(
    monkeypatch: pytest.MonkeyPatch, leader_events: int
) -> None:
    """Events are then read from the leader; those it can't read are a hole."""
    monkeypatch.setattr(walk_module, "AUDIT_LEADER_EVENTS", leader_events)
    report = await checked(Silent(20))
    assert (report.size, report.findings) == (40, [])
    report = await checked(Silent(20, range(20, 26)))
    assert [(each.kind, each.sequence, each.last) for each in report.findings] == [(Kind.HOLE, 20, 25)]
    assert (report.size, report.read) == (19, 34)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("first", "last"), [(20, 20), (20, 27), (5, 39), (35, 40)])
async def test_an_event_that_the_leader_does_not_answer_for_is_a_hole(first: int, last: int) -> None:
    """The log answers other requests, so it is damage; its end is found by searching."""
    deaf = range(first, last + 1)
    log = Silent(first, deaf=deaf)
    if last == 40:  # looking for the last record already meets them
        with pytest.raises(LogUnavailable):
            await checked(log)
        return
    report = await checked(log)
    assert [(each.sequence, each.last) for each in report.findings] == [(first, last)]
    assert report.read == 40 - len(deaf)


@pytest.mark.usefixtures("quick")
async def test_an_unreachable_log_is_an_error_and_not_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be concluded: exit code 6, not 9."""
    log = Silent(20, deaf=[20])

    async def info() -> LogInfo:
        asked.append(1)
        if len(asked) > 2:
            raise LogUnavailable("no answer")
        return await MemoryLog.info(log)

    asked: list[int] = []
    monkeypatch.setattr(log, "info", info)
    with pytest.raises(LogUnavailable, match="does not answer requests for event 20"):
        await checked(log)


@pytest.mark.usefixtures("quick")
async def test_the_number_of_holes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is damaged everywhere can't block the audit."""
    monkeypatch.setattr(walk_module, "AUDIT_HOLES_MAX", 3)
    report = await checked(Silent(2, range(2, 40, 2)))
    assert [(each.sequence, each.last) for each in report.findings] == [(2, 2), (4, 4), (6, 6), (7, 40)]


def record(sequence: int, job: int, previous: object = None) -> Record:
    """An event of a job."""
    named = "{}" if previous is None else f'{{"previous":{previous}}}'
    return Record(sequence, sequence, job_subject("default", f"j-{job}"), named.encode())


def test_an_event_that_names_a_wrong_predecessor_is_found() -> None:
    """Omitted, changed, or of another job; events without `previous` and other records are not findings."""
    links = LinkChecker()
    assert links.read([record(1, 1), record(2, 2), record(3, 1, '"1"'), record(4, 2, '"2"')]) == []
    for wrong, had in (('"1"', 3), ('"2"', 5), ('"99"', 6)):
        [link] = links.read([record(had + 2 if had == 3 else had + 1, 1, wrong)])
        assert (link.named, link.had, link.job_id) == (int(wrong.strip('"')), had, "j-1")
    [first] = links.read([record(9, 3, '"7"')])
    assert (first.named, first.had) == (7, 0)
    for harmless in (None, '""', '"x"', '"01"', "5", "null", f'"{10**20}"'):
        assert links.read([record(10, 4, harmless)]) == []
    assert links.read([Record(11, 0, "other", b"\xff"), Record(12, 0, "other", b"[]")]) == []


def test_the_number_of_tracked_jobs_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs without events for the longest time are forgotten and counted later: no false alarm."""
    monkeypatch.setattr(links_module, "AUDIT_LINKS_MAX", 2)
    links = LinkChecker()
    assert links.read([record(1, 1), record(2, 2), record(3, 3), record(4, 1, '"1"')]) == []
    assert links.unchecked == 1
    [link] = links.read([record(5, 1, '"3"')])
    assert link.had == 4


async def test_a_broken_link_is_a_finding_with_both_events(jetstream_log: JetStreamLog) -> None:
    """The stream has an event whose `previous` is not the job's last event."""
    subject = job_subject("default", "j-1")
    await jetstream_log.append(PendingEvent(subject, "a", b"{}"), expect=0)
    await jetstream_log.append(PendingEvent(job_subject("default", "j-2"), "b", b"{}"), expect=0)
    await jetstream_log.append(PendingEvent(subject, "c", b'{"previous":"2"}'), expect=1)
    report = await check_log(jetstream_log, SealList([]), lambda *_: None)
    [found] = report.findings
    assert isinstance(found, Finding)
    assert (found.kind, found.sequence, found.last, found.job_id) == (Kind.LINK, 2, 3, "j-1")
    assert report.size == 3 == len(await records_of(jetstream_log))
