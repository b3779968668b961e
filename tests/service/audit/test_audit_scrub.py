"""A scrub reads each server's own store, and names the replica that differs from the tree."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobledger import JetStreamLog, Projector, View
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.projections.tree_reader import TreeReader
from jobledger.service.audit import scrub as scrub_module
from jobledger.service.audit.log_pass import SealedTree
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.scrub import (
    Scrub,
    ScrubState,
    findings_of,
    remedy_of,
    resumable_scrub,
    run_scrub,
    scrub_state_file,
)
from jobledger.service.errors import InvalidSettings
from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.replicas import Replica
from jobledger.store.log import PendingEvent, WrongSequence
from jobledger.store.model.errors import LogDamaged, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import job_subject
from tests.support.cluster import Cluster
from tests.support.logs import ask, eventually

ORIGIN = "jobledger/test"
SERVERS = ("n1", "n2", "n3")


def record(sequence: int, content: bytes = b"{}") -> Record:
    """An event at a sequence."""
    return Record(sequence, sequence, job_subject("default", f"j-{sequence % 3}"), content)


class Cells:
    """Replicas in memory, each with its own events."""

    def __init__(self, events: int, servers: Sequence[str] = SERVERS) -> None:
        self.stores = {server: {n: record(n) for n in range(1, events + 1)} for server in servers}
        self.offline: set[str] = set()
        self.behind: set[str] = set()
        self.deaf: set[str] = set()
        self.reads: list[tuple[str, int, int]] = []

    async def replicas(self) -> Sequence[Replica]:
        return [
            Replica(each, each == "n1", each not in self.behind, each in self.offline) for each in self.stores
        ]

    async def read_replica(self, server: str, first: int, last: int) -> Mapping[int, Record]:
        self.reads.append((server, first, last))
        if server in self.deaf:
            raise LogUnavailable("no answer")
        return {n: each for n, each in self.stores[server].items() if first <= n <= last}


class Tree:
    """The tree of what was written."""

    async def leaves(self, first: int, last: int) -> Sequence[bytes]:
        return [leaf_hash(record(n)) for n in range(first, last + 1)]


async def scrubbed(cells: Cells, tree: Tree | None, last: int = 30, **state: Any) -> ScrubState:
    """A whole scrub."""
    initial = ScrubState(origin=ORIGIN, last=last, **state)
    return await run_scrub(Scrub(cells, initial, tree), lambda *_: None)


def reported(state: ScrubState) -> list[tuple[Kind, int, int]]:
    """What was found, without words."""
    return [(each.kind, each.sequence, each.last) for each in findings_of(state)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_module, "SCRUB_RANGE_EVENTS", 8)
    monkeypatch.setattr(scrub_module, "SCRUB_RETRY_SECONDS", 0.0)


@pytest.mark.parametrize("tree", [Tree(), None])
async def test_equal_replicas_have_no_findings(tree: Tree | None) -> None:
    """With a tree and by majority; each range is read once from each server."""
    cells = Cells(30)
    state = await scrubbed(cells, tree)
    assert (state.done, findings_of(state), remedy_of(state)) == (True, [], [])
    assert state.servers == SERVERS
    assert len(cells.reads) == 4 * 3


@pytest.mark.parametrize("tree", [Tree(), None])
async def test_a_replica_that_lost_or_changed_events_is_named(tree: Tree | None) -> None:
    """Ranges across the read size are merged; the remedy is printed."""
    cells = Cells(30)
    for sequence in (7, 8, 9, 20):
        del cells.stores["n2"][sequence]
    cells.stores["n2"][25] = record(25, b"changed")
    state = await scrubbed(cells, tree)
    assert reported(state) == [(Kind.REPLICA, 7, 9), (Kind.REPLICA, 20, 20), (Kind.REPLICA, 25, 25)]
    assert all("the replica on n2" in each.message for each in findings_of(state))
    assert findings_of(state)[-1].job_id == "j-1"
    remedy = "\n".join(remedy_of(state))
    assert "stop nats-server on n2" in remedy
    assert "nats stream edit JOBS --replicas 2" in remedy
    assert "n1" not in remedy


async def test_only_the_tree_detects_a_wrong_majority() -> None:
    """Two of three changed the same event: the majority contradicts the third, the tree confirms it."""
    cells = Cells(30)
    for server in ("n1", "n3"):
        cells.stores[server][5] = record(5, b"changed")
    state = await scrubbed(cells, Tree())
    assert {server for server, ranges in state.bad.items() if ranges} == {"n1", "n3"}
    assert "restore the stream from a backup" in remedy_of(state)[0]
    state = await scrubbed(cells, None)
    assert {server for server, ranges in state.bad.items() if ranges} == {"n2"}
    leaves = [leaf_hash(record(n)) for n in range(1, 31)]
    for size in (4, 5, 8, 30):  # and a seal shows that the majority is not to be trusted
        seal = SealedTree("seal 1", size, root_of(leaves[:size]))
        kinds = {each.kind for each in findings_of(await scrubbed(cells, None, seal=seal))}
        assert (Kind.UNFIT in kinds) == (size >= 5)


async def test_undecidable_events_are_reported() -> None:
    """Without a tree, two replicas that differ are not assigned a fault."""
    cells = Cells(30, ("n1", "n2"))
    cells.stores["n1"][5] = record(5, b"changed")
    for server in cells.stores:
        del cells.stores[server][6]
    state = await scrubbed(cells, None)
    assert reported(state) == [(Kind.REPLICA, 5, 5), (Kind.HOLE, 6, 6)]
    assert remedy_of(state) == []


async def test_an_unreadable_replica_is_not_reported_as_bad() -> None:
    """Offline, catching up or without an answer: it is listed as not compared."""
    for name in ("offline", "behind", "deaf"):
        cells = Cells(30)
        getattr(cells, name).add("n3")
        state = await scrubbed(cells, Tree())
        assert (findings_of(state), [*state.unread]) == ([], ["n3"])
    cells = Cells(30)
    cells.deaf |= {*SERVERS}
    with pytest.raises(LogUnavailable):
        await scrubbed(cells, Tree())


async def test_an_event_that_arrives_late_is_not_missing() -> None:
    """A follower may lag by a moment, so missing events are read again."""
    cells = Cells(8)
    late = cells.stores["n2"].pop(8)
    read = cells.read_replica

    async def then_it_comes(server: str, first: int, last: int) -> Mapping[int, Record]:
        found = await read(server, first, last)
        cells.stores["n2"][8] = late
        return found

    cells.read_replica = then_it_comes  # type: ignore[method-assign]
    assert findings_of(await scrubbed(cells, Tree(), last=8)) == []


async def test_a_scrub_resumes_from_its_state_file(tmp_path: Path) -> None:
    """After the time limit or a lost log; a finished one starts over."""
    path = tmp_path / "scrub.json"
    file = scrub_state_file(path)
    cells = Cells(30)
    del cells.stores["n2"][3]
    scrub = Scrub(cells, ScrubState(origin=ORIGIN, last=30), Tree())
    state = await run_scrub(scrub, lambda *_: None, seconds=0.0, file=file)
    assert (state.position, state.done) == (8, False)
    cells.deaf |= {*SERVERS}
    kept = resumable_scrub(file, ORIGIN)
    assert kept == state
    with pytest.raises(LogUnavailable):
        await run_scrub(Scrub(cells, kept, Tree()), lambda *_: None, file=file)
    cells.deaf.clear()
    cells.reads.clear()
    kept = resumable_scrub(file, ORIGIN)
    assert kept is not None
    state = await run_scrub(Scrub(cells, kept, Tree()), lambda *_: None, file=file)
    assert min(first for _, first, _ in cells.reads) == 9
    assert reported(state) == [(Kind.REPLICA, 3, 3)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert resumable_scrub(file, ORIGIN) is None
    file.save(kept)
    assert resumable_scrub(file, "jobledger/other") is None
    path.write_text("{")
    with pytest.raises(InvalidSettings, match="delete it"):
        resumable_scrub(file, ORIGIN)


async def test_the_number_of_bad_ranges_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is wrong everywhere does not fill the memory; more are counted."""
    monkeypatch.setattr(scrub_module, "SCRUB_RANGES_MAX", 3)
    cells = Cells(30)
    for sequence in range(2, 31, 2):
        del cells.stores["n2"][sequence]
    state = await scrubbed(cells, Tree())
    assert (len(state.bad["n2"]), state.more["n2"]) == (3, 12)
    assert "(and 12 more events)" in findings_of(state)[0].message


# --- real servers ------------------------------------------------------------------------------------------


async def real_scrub(log: JetStreamLog, view: Path | None) -> list[Finding]:
    """A whole scrub of a real log."""
    last = (await log.info()).last_sequence
    initial = ScrubState(origin=ORIGIN, last=last)
    if view is None:
        return findings_of(await run_scrub(Scrub(log, initial, None), lambda *_: None))
    async with await View.open(view, readers=1) as opened:
        initial = ScrubState(origin=ORIGIN, last=(await TreeReader(opened).state()).size)
        return findings_of(await run_scrub(Scrub(log, initial, TreeReader(opened)), lambda *_: None))


async def test_the_only_server_is_compared_with_the_tree(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """Without a cluster there is one replica."""
    for number in range(1, 31):
        await jetstream_log.append(
            PendingEvent(job_subject("default", f"j-{number}"), f"{number}", b"{}"), expect=0
        )
    async with Projector(jetstream_log, tmp_path / "view.db") as projector:
        await projector.wait_for(30, 30)
    assert await real_scrub(jetstream_log, tmp_path / "view.db") == []
    assert len(await jetstream_log.replicas()) == 1


EVENTS = 3_000
PAD = "x" * 4_000  # so that the stream has two blocks


async def fill(log: JetStreamLog, first: int, last: int) -> None:
    """One event each for so many jobs."""
    for start in range(first, last + 1, 100):
        drafts = [
            PendingEvent(
                job_subject("default", f"j-{n}"), f"event-{n}", f'{{"n":{n},"pad":"{PAD}"}}'.encode()
            )
            for n in range(start, start + 100)
        ]
        await asyncio.gather(*(log.append(draft, expect=0) for draft in drafts))


def flip_a_bit(block: Path) -> None:
    """Of an event in the middle."""
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 0x40
    block.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "leads"),
    [(flip_a_bit, False), (flip_a_bit, True), (Path.unlink, True)],
    ids=["a bit of a follower", "a bit of the leader", "a block of the leader"],
)
async def test_a_damaged_replica_of_three_is_found_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], leads: bool
) -> None:
    """A bit of a block of one node, or all of it: the scrub names node and events, and how to replace it.

    Until then readers have every event, whichever replica answers; and where the damaged one leads, no event
    of a job is taken that does not follow the job's last one.
    """
    monkeypatch.setattr(scrub_module, "SCRUB_RANGE_EVENTS", 2_000)
    view = tmp_path / "view.db"
    async with Cluster(tmp_path) as cluster:
        log = await JetStreamLog.connect(cluster.operator_url, StreamSettings(replicas=3))
        try:
            await fill(log, 1, EVENTS)
            async with Projector(log, view) as projector:
                await projector.wait_for(EVENTS, 60)
            assert await real_scrub(log, view) == []
            leader = await cluster.leader()
            bad = leader % 3 + 1
            await stop(cluster, bad)
            block = next((tmp_path / f"nats-{bad}").rglob("streams/JOBS/msgs/1.blk"))
            damage(block)
            await cluster.start(bad)
            await all_current(log)
            if leads:
                preferred = {"placement": {"preferred": f"nats-{bad}"}}
                assert (await ask(log, "STREAM.LEADER.STEPDOWN.JOBS", preferred))["success"]
                assert await cluster.leader() == bad
            for path in (view, None):
                [found] = await real_scrub(log, path)
                assert found.kind is Kind.REPLICA
                assert f"the replica on nats-{bad}:" in found.message

            await check_reads(log, found, tmp_path / "new.db", leads=leads)
            await stop(cluster, bad)  # the commands that the scrub prints
            await scale(log, 2)
            await cluster.start(bad)
            await scale(log, 3)
            await fill(log, EVENTS + 1, EVENTS + 100)
            assert await real_scrub(log, view) == []
            assert await real_scrub(log, None) == []
        finally:
            await log.close()


async def check_reads(log: JetStreamLog, found: Finding, view: Path, *, leads: bool) -> None:
    """What is read is right, whichever replica answers; and no event is taken that does not follow."""
    damaged = (found.sequence + found.last) // 2
    subject = job_subject("default", f"j-{damaged}")
    for _ in range(12):
        page = await log.read("jobs.>", after=damaged - 5)
        assert [each.sequence for each in page[:9]] == [*range(damaged - 4, damaged + 5)]
        assert await log.read(subject, up_to=damaged)
    for after in (0, *[damaged - 5] * 5):
        feed = await log.follow(after=after)
        seen: list[int] = []
        async with asyncio.timeout(60):
            while not seen or seen[-1] < EVENTS:
                seen += [each.sequence for each in await feed.take(5_000)]
        await feed.close()
        assert seen == [*range(after + 1, EVENTS + 1)]
    async with Projector(log, view) as projector:
        await projector.wait_live(60)
        async with await View.open(view, readers=1) as opened:
            assert not await opened.damage()
    for record in (await log.read_at(damaged), await log.read_last(subject)):
        assert record is not None
        assert (record.sequence, record.subject) == (damaged, subject)
    again = PendingEvent(subject, "again", b"{}")
    assert await log.append(again, expect=0) == WrongSequence(damaged)
    if leads:
        with pytest.raises(LogDamaged, match=f"lacks event {damaged}.*nothing was written"):
            await log.append(again, expect=damaged)


async def scale(log: JetStreamLog, replicas: int) -> None:
    """Change the number of copies, and wait until each has everything."""
    config = (await ask(log, "STREAM.INFO.JOBS"))["config"]
    assert "error" not in await ask(log, "STREAM.UPDATE.JOBS", config | {"num_replicas": replicas})
    await all_current(log, replicas)


async def stop(cluster: Cluster, node: int) -> None:
    """End a node in order."""
    process = cluster._processes.pop(node)
    process.terminate()
    await process.wait()


async def all_current(log: JetStreamLog, replicas: int = 3) -> None:
    """Wait until every replica has everything."""

    async def current() -> bool:
        try:
            found = await log.replicas()
        except LogUnavailable:
            return False
        return len(found) == replicas and all(each.current and not each.offline for each in found)

    await eventually(current, within_seconds=60)
