"""Snapshots as of a point: built once, kept within limits, deleted when they are no longer valid."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jobledger import ListQuery, MemoryLog, Projector, View
from jobledger.projections.as_of import build, snapshots
from jobledger.projections.as_of.build import build_snapshot, run_in_thread
from jobledger.projections.as_of.snapshots import SnapshotCache
from jobledger.projections.errors import AsOfBusy, ViewError, ViewUnwritable
from jobledger.projections.limits import ASOF_BUILDS_MAX, ASOF_RETRY_SECONDS
from tests.support.histories import append_all, random_drafts

EVENTS = 60
WAIT_SECONDS = 60.0
ANY_SIZE = 10**12


@pytest.fixture
async def log() -> MemoryLog:
    """A log with a random history."""
    filled = MemoryLog()
    await append_all(filled, random_drafts(random.Random(3), 9, EVENTS))
    return filled


@pytest.fixture
async def view(log: MemoryLog, tmp_path: Path) -> AsyncIterator[View]:
    """The live view of the log, with a running projector."""
    async with Projector(log, tmp_path / "view.db") as projector:
        await projector.wait_for(EVENTS, WAIT_SECONDS)
        async with await View.open(tmp_path / "view.db", readers=1) as opened:
            yield opened


@pytest.fixture
async def open_snapshots(log: MemoryLog, view: View, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Opens caches in one directory, one after the other; the last one is closed at the end."""
    opened: list[SnapshotCache] = []

    async def open_them(max_copies: int = 99, max_bytes: int = ANY_SIZE) -> SnapshotCache:
        for each in opened:
            await each.close()
        opened.append(
            await SnapshotCache.open(log, view, tmp_path / "asof", max_copies=max_copies, max_bytes=max_bytes)
        )
        return opened[-1]

    yield open_them
    for each in opened:
        await each.close()


async def use(made: SnapshotCache, sequence: int, client: str = "") -> int:
    """Open the view as of a sequence; returns its number of jobs."""
    async with made.at(sequence, client) as view:
        return len((await view.list(ListQuery(limit=100))).jobs)


def files(made: SnapshotCache) -> set[str]:
    """The files in the directory."""
    return {path.name for path in made._directory.iterdir()}


class BuildGate:
    """Builds that wait for permission; they run in threads, and its parts belong to the test's loop."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self._home = asyncio.get_running_loop()
        self.started = asyncio.Semaphore(0)
        self.open = asyncio.Event()

    async def build(self, *arguments: Any) -> None:
        """Replaces `build_snapshot`."""
        self.threads.add(threading.get_ident())
        self._home.call_soon_threadsafe(self.started.release)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.open.wait(), self._home))
        await build_snapshot(*arguments)


async def test_a_point_is_built_once_for_all_requests(open_snapshots: Callable[..., Any]) -> None:
    """Concurrent requests wait for the same snapshot; later ones find it."""
    made = await open_snapshots()
    counts = await asyncio.gather(*(use(made, 30) for _ in range(20)))
    assert len(set(counts)) == 1
    await use(made, 30)
    assert (made.built, made.sequences) == (1, (30,))


async def test_more_points_than_may_wait_are_refused(open_snapshots: Callable[..., Any]) -> None:
    """One is built, others wait up to a limit, and one more is refused with a retry delay."""
    made, gate = await open_snapshots(), BuildGate()
    with patch.object(snapshots, "build_snapshot", gate.build):
        async with asyncio.TaskGroup() as group:
            for number in range(ASOF_BUILDS_MAX):
                group.create_task(use(made, 10 + number))
            await gate.started.acquire()
            with pytest.raises(AsOfBusy, match="4 other points") as busy:
                await use(made, 50)
            assert busy.value.retry_after_seconds == ASOF_RETRY_SECONDS
            assert gate.started.locked()  # one at a time
            gate.open.set()
    assert await use(made, 50) > 0


async def test_one_clients_builds_delay_no_other_client(open_snapshots: Callable[..., Any]) -> None:
    """A client has one running build and may queue a few; another client's build runs concurrently."""
    made, gate = await open_snapshots(), BuildGate()
    with patch.object(snapshots, "build_snapshot", gate.build):
        async with asyncio.TaskGroup() as group:
            for number in range(ASOF_BUILDS_MAX):
                group.create_task(use(made, 10 + number, "greedy"))
            await gate.started.acquire()
            with pytest.raises(AsOfBusy, match="4 other points"):
                await use(made, 50, "greedy")
            group.create_task(use(made, 40, "modest"))
            async with asyncio.timeout(WAIT_SECONDS):
                await gate.started.acquire()  # the other client's, while four of the first one wait
            assert gate.started.locked()
            gate.open.set()


async def test_a_snapshot_is_built_in_a_separate_thread(open_snapshots: Callable[..., Any]) -> None:
    """Folding a long log would otherwise block the loop that serves requests."""
    made, gate = await open_snapshots(), BuildGate()
    gate.open.set()
    with patch.object(snapshots, "build_snapshot", gate.build):
        await use(made, 30)
    assert gate.threads
    assert threading.get_ident() not in gate.threads


async def test_snapshots_of_the_client_with_the_most_are_evicted_first(
    open_snapshots: Callable[..., Any],
) -> None:
    """A client that requests many points evicts its own snapshots, not those of others."""
    made = await open_snapshots(max_copies=3)
    await use(made, 5, "modest")
    for point in (10, 20, 30, 40):
        await use(made, point, "greedy")
    assert made.sequences == (5, 30, 40)


async def test_a_request_that_waits_too_long_is_refused_and_the_build_continues(
    open_snapshots: Callable[..., Any],
) -> None:
    """The next request finds the result."""
    made, gate = await open_snapshots(), BuildGate()
    with (
        patch.object(snapshots, "build_snapshot", gate.build),
        patch.object(snapshots, "ASOF_WAIT_SECONDS", 0.01),
    ):
        with pytest.raises(AsOfBusy, match="as of 30 is being built"):
            await use(made, 30)
        gate.open.set()
    await use(made, 30)
    assert made.built == 1


async def test_the_least_recently_used_snapshot_is_evicted_beyond_the_number(
    open_snapshots: Callable[..., Any],
) -> None:
    """At the limit all are kept; one more replaces the least recently used one."""
    made = await open_snapshots(max_copies=3)
    for point in (10, 20, 30):
        await use(made, point)
    assert made.sequences == (10, 20, 30)
    await use(made, 10)
    await use(made, 40)
    assert made.sequences == (30, 10, 40)
    assert len(files(made)) == 3


async def test_the_least_recently_used_snapshot_is_evicted_beyond_the_bytes(
    open_snapshots: Callable[..., Any],
) -> None:
    """At exactly the limit all are kept, one byte less evicts one; the last used one is always kept."""
    made = await open_snapshots()
    for point in (20, 20 + 1):
        await use(made, point)
    size = made.size_bytes
    assert (await open_snapshots(max_bytes=size)).sequences == (20, 21)
    smaller = await open_snapshots(max_bytes=size - 1)
    assert smaller.sequences == (21,)
    smallest = await open_snapshots(max_bytes=0)
    await use(smallest, 40)
    assert smallest.sequences == (40,)
    assert len(files(smallest)) == 1


async def test_a_snapshot_in_use_is_not_evicted(open_snapshots: Callable[..., Any]) -> None:
    """It is evicted when its reader is done, not before."""
    made = await open_snapshots(max_copies=1)
    async with made.at(20) as view:
        await use(made, 40)
        assert set(made.sequences) == {20, 40}
        assert (await view.list()).sequence == 20
    assert made.sequences == (40,)


async def test_snapshots_survive_a_restart(open_snapshots: Callable[..., Any]) -> None:
    """Unfinished files and files of something else are deleted."""
    made = await open_snapshots()
    await use(made, 20)
    directory = made._directory
    for name in ("building-30.sqlite", "building-30.sqlite-journal", "0123456789abcdef-25.sqlite"):
        (directory / name).write_bytes(b"half")
    again = await open_snapshots()
    assert (again.sequences, len(files(again))) == ((20,), 1)
    await use(again, 20)
    assert again.built == 0


async def test_another_log_needs_other_snapshots(
    open_snapshots: Callable[..., Any], tmp_path: Path, view: View
) -> None:
    """The same sequence of a stream that was recreated is another point."""
    await use(await open_snapshots(), 20)
    other = await SnapshotCache.open(MemoryLog(), view, tmp_path / "asof", max_copies=9, max_bytes=ANY_SIZE)
    assert other.sequences == ()
    assert files(other) == set()


@pytest.mark.parametrize("what", ["PROJECTION_VERSION", "_BOOT_ID"])
async def test_another_boot_or_projection_version_needs_other_snapshots(
    open_snapshots: Callable[..., Any], tmp_path: Path, what: str
) -> None:
    """A power failure may have corrupted unsynced files, and another release folds other rows."""
    await use(await open_snapshots(), 20)
    boot = tmp_path / "boot_id"
    boot.write_text("another boot")
    with patch.object(snapshots, what, {"PROJECTION_VERSION": 10_000, "_BOOT_ID": boot}[what]):
        assert files(await open_snapshots()) == set()


async def test_a_distant_point_also_leaves_a_snapshot_before_it(open_snapshots: Callable[..., Any]) -> None:
    """A point between the two is folded from there."""
    asked: list[tuple[int, int]] = []

    async def noted(
        path: Path, up_to: int, of: build.BuildInputs, on_progress: Callable[[int], None]
    ) -> None:
        asked.append((of.base_sequence, up_to))
        await build_snapshot(path, up_to, of, on_progress)

    made = await open_snapshots()
    with (
        patch.multiple(snapshots, ASOF_NEAR_EVENTS=10, ASOF_NEAR_MAX_EVENTS=15, build_snapshot=noted),
        patch.object(build, "ASOF_NEAR_MAX_EVENTS", 15),
    ):
        for point in (40, 35, 48, 60):
            await use(made, point)
    assert asked == [(0, 30), (30, 40), (30, 35), (40, 48), (48, 60)]


async def test_a_failed_build_leaves_no_file(open_snapshots: Callable[..., Any]) -> None:
    """The request gets the error, and the next one builds again."""
    made = await open_snapshots()

    async def fail(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with (
        patch.object(snapshots, "build_snapshot", fail),
        pytest.raises(ViewUnwritable, match="No space left"),
    ):
        await use(made, 20)
    assert files(made) == set()
    assert await use(made, 20) > 0


@pytest.mark.parametrize("damage", [None, b"garbage", b""])
async def test_a_removed_or_damaged_snapshot_is_rebuilt(
    open_snapshots: Callable[..., Any], damage: bytes | None
) -> None:
    """At the latest for the second request."""
    made = await open_snapshots()
    count = await use(made, 20)
    made = await open_snapshots()
    [path] = made._directory.iterdir()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
        with pytest.raises(ViewError):
            await use(made, 20)
    assert await use(made, 20) == count


async def test_closing_cancels_builds(open_snapshots: Callable[..., Any]) -> None:
    """Closing does not wait for a long build, and leaves no file of it."""
    made, gate = await open_snapshots(), BuildGate()
    with patch.object(snapshots, "build_snapshot", gate.build):
        waiting = asyncio.create_task(use(made, 30))
        await gate.started.acquire()
        await made.close()
        with pytest.raises(ViewError, match="closed"):
            await waiting
    assert files(made) == set()


async def test_a_build_does_not_block_the_live_view(
    open_snapshots: Callable[..., Any], log: MemoryLog, view: View
) -> None:
    """A build reads the live view and never locks it: its projector writes meanwhile."""
    made = await open_snapshots()
    more = random_drafts(random.Random(4), 9, EVENTS + 20)[EVENTS:]
    async with asyncio.TaskGroup() as group:
        for point in range(5, 45, 5):
            group.create_task(use_all(made, point))
        await append_all(log, more)
        await view.wait_for(EVENTS + 20, 30.0)
    assert len(made.sequences) == 8


async def use_all(made: SnapshotCache, point: int) -> None:
    """Request until there is capacity."""
    while True:
        try:
            await use(made, point)
        except AsOfBusy:
            await asyncio.sleep(0)
        else:
            return


async def test_a_build_can_read_single_records_and_the_end_of_the_log(log: MemoryLog) -> None:
    """Both are needed for jobs that left quarantine, and to name the cause of a missing record."""
    record, info = await log.read_at(1), await log.info()
    assert await run_in_thread(lambda remote: remote.read_at(1), log, name="read") == record
    assert await run_in_thread(lambda remote: remote.info(), log, name="info") == info
