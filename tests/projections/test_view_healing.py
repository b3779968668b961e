"""A view's file that is damaged, truncated, lost or replaced while in use is rebuilt from the log."""

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobledger import Ledger, MemoryLog, Projector, ProjectorState, View
from jobledger.projections import database, projector, self_check as selfcheck
from jobledger.projections.batch import Folded
from jobledger.projections.database import Writer, move_damaged
from jobledger.projections.errors import (
    ViewDamaged,
    ViewError,
    ViewFromNewerRelease,
    ViewRebuilding,
    ViewUnwritable,
)
from jobledger.projections.limits import VIEW_DAMAGED_KEPT, VIEW_REBUILDS_MAX, WAL_KEPT_BYTES
from jobledger.projections.merkle.tree import TILE_WIDTH
from jobledger.projections.self_check import SelfCheck
from jobledger.projections.tree_reader import TreeReader
from jobledger.store.model.errors import JobledgerError
from jobledger.store.model.events import Record
from jobledger.store.model.fold import fold_job_on as real
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import job_subject
from tests.conftest import make_spec
from tests.support.disks import fill, small_disk
from tests.support.histories import append_all, random_drafts, records_of
from tests.support.logs import eventually
from tests.support.oracle import fold_of, project_all, rows_of

EVENTS = 400
LATER = 20


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "VIEW_POLL_SECONDS", 0.02)
    monkeypatch.setattr(projector, "RECONNECT_WAIT_SECONDS", 0.02)


class RecordingListener:
    """A listener that records its events."""

    def __init__(self) -> None:
        self.started = 0
        self.sequences: list[int] = []
        self.reached = 0

    def on_start(self, sequence: int) -> None:
        self.started = self.reached = sequence

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        assert after == self.reached
        self.reached = up_to
        self.sequences += [each.record.sequence for each in folded or ()]

    def on_stop(self, error: JobledgerError | None) -> None:
        pass


class RunningProjector:
    """A live projector with a reader and a listener."""

    def __init__(
        self, log: MemoryLog, projector: Projector, view: View, path: Path, heard: RecordingListener
    ) -> None:
        self.log = log
        self.projector = projector
        self.view = view
        self.path = path
        self.heard = heard

    async def append_later(self) -> None:
        """Append this many more events."""
        drafts = random_drafts(random.Random(1), 30, EVENTS + LATER)
        await append_all(self.log, drafts[(await self.log.info()).last_sequence :])

    async def healed(self) -> None:
        """Wait until the projector is live with all events."""
        end = (await self.log.info()).last_sequence

        def is_whole() -> bool:
            running = self.projector
            assert running.state is not ProjectorState.STOPPED, running.error
            return running.rebuilds > 0 and running.state is ProjectorState.LIVE and running.sequence == end

        await eventually(is_whole)
        records = await records_of(self.log)
        assert rows_of(self.path) == fold_of(records)
        assert (await self.view.checkpoint()).sequence == end
        assert len((await self.view.list()).jobs) > 0
        size = (await TreeReader(self.view).state()).size
        assert size == end


@asynccontextmanager
async def running(path: Path, events: int = EVENTS) -> AsyncIterator[RunningProjector]:
    """A live projector of a log with this many events."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(1), 30, EVENTS + LATER)[:events])
    async with Projector(log, path) as keeps, await View.open(path) as view:
        await keeps.add_view_reader(view.pool)
        view.pool.on_damage = keeps.report_damage
        await keeps.wait_live()
        heard = RecordingListener()
        keeps.attach(heard)
        yield RunningProjector(log, keeps, view, path, heard)


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    database.remove_view(path)


def remove_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(4096)


def replace_by_nothing(path: Path) -> None:
    _replace(path, b"")


def replace_by_junk(path: Path) -> None:
    _replace(path, b"no database at all" * 1_000)


def _replace(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def replace_by_another_view(path: Path) -> None:
    other = path.with_name("other.db")

    async def make() -> None:
        log = MemoryLog()
        await append_all(log, random_drafts(random.Random(9), 5, 30))
        await project_all(log, other)

    import threading

    thread = threading.Thread(target=lambda: asyncio.run(make()))
    thread.start()
    thread.join()
    other.replace(path)


def damage_table(path: Path, table: str) -> int:
    """Overwrite the first page of a table; returns the file's size."""
    connection = sqlite3.connect(path)
    [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    return path.stat().st_size


@pytest.mark.parametrize(
    "damage",
    [
        remove,
        remove_all,
        remove_log,
        empty,
        cut,
        replace_by_nothing,
        replace_by_junk,
        replace_by_another_view,
    ],
)
async def test_a_running_projector_rebuilds_a_file_that_is_lost_or_damaged(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """It notices at the next check; rows, tree and readers are as before; a listener gets each event once."""
    async with running(tmp_path / "view.db") as it:
        connection = sqlite3.connect(it.path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        async with Projector(it.log, tmp_path / "whole.db") as undisturbed:
            await undisturbed.wait_live()
            wanted = RecordingListener()
            undisturbed.attach(wanted)
            damage(it.path)
            await eventually(lambda: it.projector.rebuilds > 0)
            await it.append_later()
            await undisturbed.wait_for(EVENTS + LATER)
        await it.healed()
        assert it.heard.started == EVENTS
        assert it.heard.reached == EVENTS + LATER
        assert it.heard.sequences == wanted.sequences


async def test_a_lost_file_is_noticed_while_nothing_happens(tmp_path: Path) -> None:
    """No event and no read is needed."""
    async with running(tmp_path / "view.db") as it:
        it.path.unlink()
        await it.healed()
        assert it.projector.rebuilds == 1


async def test_readers_get_a_reason_while_the_view_is_rebuilt(tmp_path: Path) -> None:
    """An incomplete view is never visible: until it is complete, each read raises ViewRebuilding."""
    async with running(tmp_path / "view.db") as it:
        started, go_on = asyncio.Event(), asyncio.Event()
        follow = it.log.follow

        async def held(*, after: int, epoch: str | None = None) -> object:
            started.set()
            await go_on.wait()
            return await follow(after=after, epoch=epoch)

        it.log.follow = held  # type: ignore[method-assign, assignment]
        it.path.unlink()
        await started.wait()
        assert it.projector.state is ProjectorState.REBUILDING
        assert "was removed" in it.projector.trouble
        for ask in (it.view.list(), it.view.checkpoint(), it.view.counts(), TreeReader(it.view).state()):
            with pytest.raises(ViewRebuilding, match=r"rebuilt from the log .* was removed"):
                await ask
        waiting = asyncio.create_task(it.projector.wait_for(EVENTS))
        go_on.set()
        await waiting
        await it.healed()


async def test_damaged_pages_found_by_a_reader_are_rebuilt(tmp_path: Path) -> None:
    """The read fails, the projector is notified, and the next read succeeds."""
    async with running(tmp_path / "view.db") as it:
        size = damage_table(it.path, "jobs")
        fresh = await View.open(it.path, readers=1)
        fresh.pool.on_damage = it.projector.report_damage
        with pytest.raises(ViewDamaged):
            await fresh.list()
        await fresh.close()
        await it.healed()
        kept = it.path.with_name("view.db.damaged-1")
        assert kept.stat().st_size == size
        assert kept.stat().st_mode & 0o777 == 0o600


async def test_a_replacement_of_a_newer_release_is_left_unchanged(tmp_path: Path) -> None:
    """It is not damage: the projector stops with the reason, and the file stays as it is."""
    async with running(tmp_path / "view.db") as it:
        connection = sqlite3.connect(it.path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        newer = tmp_path / "newer.db"
        shutil.copy(it.path, newer)
        connection = sqlite3.connect(newer)
        connection.execute("INSERT INTO migrations VALUES (99, '0099_from_the_future')")
        connection.commit()
        connection.close()
        content = newer.read_bytes()
        newer.replace(it.path)
        with pytest.raises(ViewFromNewerRelease):
            await it.projector.wait_stopped()
        assert it.path.read_bytes() == content
        assert not list(tmp_path.glob("*.damaged-*"))


async def test_repeated_damage_stops_the_projector(tmp_path: Path) -> None:
    """The error has the number of rebuilds."""
    async with running(tmp_path / "view.db") as it:
        for number in range(1, VIEW_REBUILDS_MAX + 1):
            it.path.unlink()
            await eventually(lambda number=number: it.projector.rebuilds == number)  # type: ignore[misc]
            await eventually(lambda: it.projector.state is ProjectorState.LIVE)
        it.path.unlink()
        with pytest.raises(ViewError, match=f"was rebuilt {VIEW_REBUILDS_MAX} times within"):
            await it.projector.wait_stopped()


@pytest.mark.parametrize("replace", [Path.mkdir, lambda path: path.symlink_to("/nowhere/at/all")])
async def test_a_directory_or_link_at_the_path_of_the_view_is_renamed(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    """The view is disposable, so no manual cleanup is needed."""
    path = tmp_path / "view.sqlite"
    replace(path)
    async with Projector(MemoryLog(), path) as projector:
        await projector.wait_live()
        assert projector.rebuilds == 1
    assert path.is_file()
    assert not (tmp_path / "view.sqlite.damaged-1").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search any directory")
async def test_a_directory_that_cannot_be_searched_is_reported(tmp_path: Path) -> None:
    """The error names the view and the remedy."""
    folder = tmp_path / "views"
    folder.mkdir()
    folder.chmod(0)
    try:
        with pytest.raises(ViewUnwritable, match="check space and permissions"):
            await Writer.open(folder / "view.sqlite")
    finally:
        folder.chmod(0o700)


async def test_a_spec_that_is_not_json_is_damage(tmp_path: Path) -> None:
    """SQLite reads it without an error; the file is rebuilt at once, not at the next check."""
    log, path = MemoryLog(), tmp_path / "view.sqlite"
    await Ledger(log).create(make_spec("one"))
    async with Projector(log, path) as projector:
        await projector.wait_live()
    with sqlite3.connect(path) as view:
        view.execute("UPDATE specs SET spec = CAST(replace(CAST(spec AS TEXT), ':', ' ') AS BLOB)")
    view.close()
    async with await View.open(path) as opened:
        found: list[ViewDamaged] = []
        opened.pool.on_damage = found.append
        with pytest.raises(ViewDamaged, match=r"^the spec of job .* is damaged"):
            await opened.get_by_name("default", "one")
        assert len(found) == 1
        assert opened.get_now("one") is None  # the other path answers


def test_renamed_damaged_files_are_bounded(tmp_path: Path) -> None:
    """The newest are kept, with their `-wal` files."""
    path = tmp_path / "view.db"
    for number in range(1, VIEW_DAMAGED_KEPT + 3):
        path.write_text(f"{number}")
        path.with_name("view.db-wal").write_text(f"log {number}")
        path.with_name("view.db-shm").write_text("")
        kept = move_damaged(path)
        assert kept == tmp_path / f"view.db.damaged-{number}"
        assert not path.exists()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "view.db.damaged-3",
        "view.db.damaged-3-wal",
        "view.db.damaged-4",
        "view.db.damaged-4-wal",
    ]
    assert move_damaged(path) is None


async def test_rows_that_contradict_the_log_are_rebuilt(tmp_path: Path) -> None:
    """A row of another program where the fold inserts one leads to a rebuild, not a permanent error."""
    async with running(tmp_path / "view.db") as it:
        connection = sqlite3.connect(it.path)
        connection.execute(
            "INSERT INTO specs (sequence, created_sequence, version, time, spec)"
            f" SELECT number, 1, 900 + number, 1, X'7B7D' FROM ({_numbers(EVENTS + 1, EVENTS + LATER)})"
        )
        connection.commit()
        connection.close()
        await it.append_later()
        await it.healed()


def _numbers(first: int, last: int) -> str:
    return " UNION ALL ".join(f"SELECT {number} AS number" for number in range(first, last + 1))


async def test_a_projector_waits_for_space_on_a_full_disk(tmp_path: Path) -> None:
    """It reports the reason, readers continue, and with space it continues."""
    with small_disk(tmp_path / "disk", megabytes=6) as disk:
        async with running(disk / "view.db", events=100) as it:
            filler = fill(disk)
            drafts = random_drafts(random.Random(1), 30, EVENTS + LATER)
            await append_all(it.log, drafts[100:])
            await eventually(lambda: it.projector.state is ProjectorState.WAITING)
            assert "full" in it.projector.trouble
            assert (await it.view.checkpoint()).sequence < EVENTS + LATER
            filler.unlink()
            await it.projector.wait_for(EVENTS + LATER, 20)
            assert it.projector.rebuilds == 0
            assert rows_of(it.path) == fold_of(await records_of(it.log))


# --- the background check ---------------------------------------------------------------------------------


async def test_the_check_finds_nothing_in_a_correct_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all histories, each job folds to the same row."""
    monkeypatch.setattr(selfcheck, "VIEW_CHECK_ROWS", EVENTS)  # all jobs, not a sample
    async with running(tmp_path / "view.db") as it:
        check = SelfCheck(it.log, it.projector, it.path, every_seconds=0)
        await check.check()
        assert (check.checks, check.problem) == (1, "")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE jobs SET message = message || '!'",
        "UPDATE specs SET spec = CAST(replace(spec, 'Name', 'Nome') AS BLOB)",
        "DELETE FROM labels",
        "UPDATE jobs SET details = 'no json'",
    ],
)
async def test_the_check_finds_rows_that_differ_from_the_fold(tmp_path: Path, change: str) -> None:
    """SQLite considers them intact. The file is rebuilt."""
    async with running(tmp_path / "view.db") as it:
        connection = sqlite3.connect(it.path)
        changed = connection.execute(change).rowcount
        connection.commit()
        connection.close()
        assert changed
        check = SelfCheck(it.log, it.projector, it.path, every_seconds=0.02)
        check.start()
        await it.healed()
        await check.close()


async def test_the_check_finds_damaged_pages(tmp_path: Path) -> None:
    """Also in a table that no reader uses."""
    async with running(tmp_path / "view.db") as it:
        damage_table(it.path, "labels")
        check = SelfCheck(it.log, it.projector, it.path, every_seconds=0)
        with pytest.raises(ViewDamaged, match="damaged"):
            await check.check()


def keep_only(log: MemoryLog, records: Sequence[Record]) -> None:
    """Keep only these records in the log, as an administrator could."""
    log._records[:] = records
    for history in log._by_subject.values():
        history[:] = []
    for record in records:
        log._by_subject.setdefault(record.subject, []).append(record)


@pytest.mark.parametrize("tile", ["a complete tile", "the tail"])
@pytest.mark.parametrize("how", ["changed", "moved", "lost"])
async def test_a_log_that_was_changed_is_not_taken_for_a_damaged_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile: str, how: str
) -> None:
    """The view is evidence then: it is unchanged, and the check reports what to run."""
    monkeypatch.setattr(selfcheck, "VIEW_CHECK_ROWS", EVENTS)  # all jobs, not a sample
    async with running(tmp_path / "view.db") as it:
        records = list(it.log._records)
        # The last event that changed a job's state, before later ones that changed nothing.
        status = next(
            job.status
            for job in (await it.view.list()).jobs
            if (job.status.sequence > TILE_WIDTH) == (tile == "the tail")
            and job.status.sequence < job.status.passed
            and b"jobledger.job.state.v1" in records[job.status.sequence - 1].payload
        )
        at = status.sequence - 1
        meant = records[at]
        if how == "changed":
            other = b"Failed" if status.state.state_type is StateType.RUNNING else b"RunningProjector"
            payload = meant.payload.replace(status.state.state_type.value.encode(), other)
            records[at] = Record(meant.sequence, meant.time, meant.subject, payload)
        elif how == "moved":
            records[at] = Record(meant.sequence, meant.time, job_subject("default", "j-other"), meant.payload)
        keep_only(it.log, records)
        if how == "lost":  # a memory log has no holes: the job's history and the log reader have one
            it.log._by_subject[meant.subject].remove(meant)
            follow = it.log.follow

            async def holed(*, after: int, epoch: str | None = None) -> object:
                feed = await follow(after=after, epoch=epoch)
                take = feed.take

                async def without(max_records: int) -> Sequence[Record]:
                    return [record for record in await take(max_records) if record is not meant]

                feed.take = without  # type: ignore[method-assign]
                return feed

            it.log.follow = holed  # type: ignore[method-assign, assignment]
        before = rows_of(it.path)
        check = SelfCheck(it.log, it.projector, it.path, every_seconds=0)
        await check.check()
        assert f"event {meant.sequence} of the log is not the one that the view folded" in check.problem
        assert "run `jobledger audit verify`" in check.problem
        assert rows_of(it.path) == before
        assert it.projector.rebuilds == 0


async def test_a_check_that_fails_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the check ends only that check."""
    async with running(tmp_path / "view.db") as it:
        broken = iter([True])

        def fold_job_on(*arguments: object) -> object:
            if next(broken, False):
                raise ValueError("a mistake")
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(selfcheck, "fold_job_on", fold_job_on)
        check = SelfCheck(it.log, it.projector, it.path, every_seconds=0.02)
        check.start()
        await eventually(lambda: check.checks > 0)
        await check.close()
        assert it.projector.rebuilds == 0


# --- the write-ahead log, and the end of the process ------------------------------------------------------


async def test_the_write_ahead_log_is_truncated_after_a_long_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long read makes it grow; an idle projector truncates it."""
    monkeypatch.setattr(database, "WAL_KEPT_BYTES", 100_000)
    assert WAL_KEPT_BYTES <= 16 * 1_048_576
    path = tmp_path / "view.db"
    log = MemoryLog()
    drafts = random_drafts(random.Random(1), 30, 3_000)
    await append_all(log, drafts[:100])
    async with Projector(log, path) as keeps:
        await keeps.wait_live()
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchall()
        await append_all(log, drafts[100:])
        await keeps.wait_for(3_000)
        wal = tmp_path / "view.db-wal"
        assert wal.stat().st_size > 100_000
        reader.execute("COMMIT")
        reader.close()
        await eventually(lambda: wal.stat().st_size <= 100_000)
        assert keeps.state is ProjectorState.LIVE


def test_an_open_view_does_not_keep_the_interpreter_from_exiting(tmp_path: Path) -> None:
    """A program that does not close its projector and its view still exits."""
    program = f"""
import asyncio
from pathlib import Path
from jobledger import Ledger, MemoryLog, Projector, View
async def main():
    await Projector(MemoryLog(), Path({str(tmp_path / "view.db")!r})).start()
    await View.open(Path({str(tmp_path / "view.db")!r}))
    print("open")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "open\n"
