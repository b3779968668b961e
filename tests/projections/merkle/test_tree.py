"""The view's Merkle tree is the tree of the log: for all batches, after every stop, at every size."""

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from jobledger import JetStreamLog, MemoryLog, Projector, View
from jobledger.projections import projector, writer as viewwriter
from jobledger.projections.errors import TreeUnavailable, ViewDamaged, ViewError
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.projections.merkle.proofs import verify_consistency, verify_inclusion
from jobledger.projections.tree_reader import TreeReader, TreeState
from jobledger.store.log import EventLog, PendingEvent
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from tests.support.histories import append_all, random_drafts, records_of
from tests.support.logs import ask, whole
from tests.support.oracle import project_all


def tree_of(records: Sequence[Record]) -> bytes:
    return root_of(leaf_hashes(records))


async def filled(events: int, seed: int = 1) -> MemoryLog:
    """A log with a random history of this many events."""
    log = MemoryLog()
    await append_all(log, history(events, seed))
    return log


def history(events: int, seed: int = 1) -> list[PendingEvent]:
    """Events; a longer history of the same seed starts with these."""
    return random_drafts(random.Random(seed), 12, events)


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Change the file as anyone with access could."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 700), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tree_equals_the_one_over_the_log(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int]
) -> None:
    """For all batches and runs, root and proofs at any size are those of the log."""
    path = tmp_path_factory.mktemp("view") / "view.db"
    rng = random.Random(seed)

    async def run() -> None:
        log, done = MemoryLog(), 0
        drafts = random_drafts(rng, 8, sum(cuts))
        for cut in cuts:
            await append_all(log, drafts[done : done + cut])
            done += cut
            await project_all(log, path)
        records = await records_of(log)
        leaves = leaf_hashes(records)
        total = len(leaves)
        async with await View.open(path) as view:
            reader = TreeReader(view)
            assert await reader.state() == TreeState(total, 0, total)
            for size in {0, 1, total, total // 2, *(rng.randint(1, total) for _ in range(5))}:
                root = root_of(leaves[:size])
                assert await reader.root(size) == root
                proof = await reader.consistency(size, total)
                verify_consistency(size, root, total, root_of(leaves), proof)
                indexes = [rng.randrange(size) for _ in range(3)] if size else []
                for index, path_up in zip(indexes, await reader.inclusion(indexes, size), strict=True):
                    verify_inclusion(leaves[index], index, size, path_up, root)

    asyncio.run(run())


async def test_live_events_and_large_batches_make_the_same_tree(log: EventLog, tmp_path: Path) -> None:
    """One event at a time or all at once, on each adapter: the same root, unchanged by later events."""
    live, late = tmp_path / "live.db", tmp_path / "late.db"
    drafts = random_drafts(random.Random(3), 6, 300)
    async with Projector(log, live) as running, await View.open(live) as view:
        reader = TreeReader(view)
        roots = []
        for number, draft in enumerate(drafts):
            await append_all(log, [draft])
            if number % 37 == 0:
                await running.wait_for((await log.info()).last_sequence, 30)
                size = (await reader.state()).size
                roots.append((size, await reader.root(size)))
        last = (await log.info()).last_sequence
        await running.wait_for(last, 30)
        records = await whole(log)
        assert [await reader.root(size) for size, _ in roots] == [root for _, root in roots]
        assert [tree_of(records[:size]) for size, _ in roots] == [root for _, root in roots]
    await project_all(log, late)
    async with await View.open(late) as view:
        assert await TreeReader(view).root(last) == tree_of(records)


async def test_two_projectors_on_one_file_keep_one_tree(tmp_path: Path) -> None:
    """The projector that wins a batch appends its leaves; the other one continues after them."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(2), 8, 900)
    path = tmp_path / "view.db"
    async with Projector(log, path) as one, Projector(log, path) as two:
        for start in range(0, 900, 30):
            await append_all(log, drafts[start : start + 30])
        await asyncio.gather(one.wait_for(900, 30), two.wait_for(900, 30))
        assert (one.error, two.error) == (None, None)
    async with await View.open(path) as view:
        assert await TreeReader(view).root(900) == tree_of(await records_of(log))


async def test_small_transactions_make_the_same_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that end anywhere within tiles give the same tiles as one batch."""
    monkeypatch.setattr(projector, "COMMIT_MAX_EVENTS", 97)
    log = await filled(1_500)
    path = tmp_path / "view.db"
    await project_all(log, path)
    async with await View.open(path) as view:
        assert await TreeReader(view).root(1_500) == tree_of(await records_of(log))
    [(tail,)] = sql(path, "SELECT sum(length(hashes)) / 32 FROM tree_tail")
    assert tail == 1_500 % 256


async def test_the_digest_does_not_cover_the_tree(tmp_path: Path) -> None:
    """Views at one sequence are equal with a tree, without one, and with one from other batches."""
    log = await filled(400)
    digests = set()
    for name, tree in (("with", True), ("without", False)):
        await project_all(log, tmp_path / name, tree=tree)
        async with await View.open(tmp_path / name) as view:
            digests.add(await view.digest())
    assert len(digests) == 1


async def test_a_view_without_a_tree_is_rebuilt_with_one(tmp_path: Path) -> None:
    """tree=False, then True: the file is emptied and folded again, and has the whole tree."""
    log = await filled(300)
    path = tmp_path / "view.db"
    await project_all(log, path, tree=False)
    async with await View.open(path) as view:
        with pytest.raises(TreeUnavailable, match="has no tree"):
            await TreeReader(view).root(300)
        digest = await view.digest()
    await project_all(log, path)
    async with await View.open(path) as view:
        assert await TreeReader(view).root(300) == tree_of(await records_of(log))
        assert await view.digest() == digest


async def test_tree_false_deletes_the_tree(tmp_path: Path) -> None:
    """The rows are kept, and no outdated tree is left."""
    log = await filled(300)
    path = tmp_path / "view.db"
    await project_all(log, path)
    await append_all(log, history(310)[300:])
    await project_all(log, path, tree=False)
    assert sql(path, "SELECT count(*) FROM tree_tiles UNION ALL SELECT count(*) FROM tree_tail") == [
        (0,),
        (0,),
    ]
    assert sql(path, "SELECT sequence, tree_size FROM checkpoint") == [((await log.info()).last_sequence, 0)]


async def test_projectors_that_disagree_about_the_tree_do_not_share_a_file(tmp_path: Path) -> None:
    """The one whose tree was deleted stops with the reason; the other one continues."""
    log = await filled(300)
    path = tmp_path / "view.db"
    async with Projector(log, path) as growing:
        await growing.wait_for(300, 30)
        async with Projector(log, path, tree=False) as bare:
            await bare.wait_for(300, 30)
            await append_all(log, history(310)[300:])
            await bare.wait_for(310, 30)
            with pytest.raises(ViewError, match="with the same `tree`"):
                await asyncio.wait_for(growing.wait_stopped(), 30)


async def test_a_view_of_an_older_projection_is_rebuilt_with_its_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and tiles are deleted, and the new tree is that of the log."""
    log = await filled(600)
    path = tmp_path / "view.db"
    await project_all(log, path)
    sql(path, "UPDATE tree_tiles SET hashes = zeroblob(8192) WHERE level = 0")
    monkeypatch.setattr(viewwriter, "PROJECTION_VERSION", viewwriter.PROJECTION_VERSION + 1)
    await project_all(log, path)
    async with await View.open(path) as view:
        assert await TreeReader(view).root(600) == tree_of(await records_of(log))


async def test_the_tree_ends_before_a_deleted_record_and_the_view_continues(
    loose: JetStreamLog, tmp_path: Path
) -> None:
    """The tree reports which sequence is missing."""
    drafts = history(50)
    await append_all(loose, drafts[:40])
    records = await whole(loose)
    path = tmp_path / "view.db"
    for sequence in (31, 32):
        assert (await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": sequence}))["success"]
    for more in (drafts[40:45], drafts[45:]):  # found first, then recorded
        await append_all(loose, more)
        last = (await loose.info()).last_sequence
        await project_all(loose, path)
        async with await View.open(path) as view:
            reader = TreeReader(view)
            assert await reader.state() == TreeState(30, 31, last)
            assert await reader.root(30) == tree_of(records[:30])
            with pytest.raises(TreeUnavailable, match="event 31 is missing from the log"):
                await reader.root(31)


async def test_a_tree_that_lacks_hashes_is_refused(tmp_path: Path) -> None:
    """A reader refuses a file with altered tail or tiles, and a projector rebuilds it."""
    log = await filled(600)
    path = tmp_path / "view.db"
    await project_all(log, path)
    async with await View.open(path) as view:
        sql(path, "DELETE FROM tree_tiles WHERE level = 0 AND position = 1")
        reported: list[ViewDamaged] = []
        view.pool.on_damage = reported.append
        with pytest.raises(ViewDamaged, match="a projector rebuilds it"):
            await TreeReader(view).inclusion([300], 600)
        assert len(reported) == 1
    sql(path, "DELETE FROM tree_tail")
    async with Projector(log, path) as projector:
        await projector.wait_live()
        assert projector.rebuilds == 1
        async with await View.open(path) as view:
            assert await TreeReader(view).inclusion([300], 600)


async def test_an_invalid_tree_size_is_refused(tmp_path: Path) -> None:
    """Beyond the checkpoint, negative, or a proof of a larger tree in a smaller one."""
    log = await filled(20)
    path = tmp_path / "view.db"
    await project_all(log, path)
    async with await View.open(path) as view:
        reader = TreeReader(view)
        for size in (21, -1):
            with pytest.raises(TreeUnavailable, match="it has 20"):
                await reader.root(size)
        with pytest.raises(TreeUnavailable):
            await reader.consistency(3, 21)
        with pytest.raises(InvalidInput):
            await reader.consistency(4, 3)
        with pytest.raises(InvalidInput):
            await reader.inclusion([20], 20)
        assert await reader.inclusion([], 20) == []


async def test_a_replaced_log_changes_the_tree(tmp_path: Path) -> None:
    """The same events at other times are another tree: the stream's time is in the leaf."""
    clock = iter(range(1_000))
    first, second = MemoryLog(clock=lambda: next(clock)), MemoryLog(clock=lambda: next(clock))
    for log, name in ((first, "one"), (second, "two")):
        await append_all(log, random_drafts(random.Random(1), 4, 30))
        await project_all(log, tmp_path / name)
    roots = []
    for name in ("one", "two"):
        async with await View.open(tmp_path / name) as view:
            roots.append(await TreeReader(view).root(30))
    assert roots[0] != roots[1]
