"""The view's file: migrated in steps, rebuilt when its meaning changes, refused when it is unusable."""

import random
import sqlite3
from pathlib import Path

import pytest

from jobledger import MemoryLog, Projector, View
from jobledger.projections import writer as viewwriter
from jobledger.projections.database import Reader, Writer
from jobledger.projections.errors import (
    ViewBusy,
    ViewDamaged,
    ViewError,
    ViewFromNewerRelease,
    ViewMissing,
    ViewUnwritable,
)
from jobledger.projections.migrations import migrate, migrations, split_statements
from tests.support.histories import append_all, random_drafts, records_of
from tests.support.oracle import fold_of, project_all, rows_of


async def a_view(path: Path) -> MemoryLog:
    """A view of a small log."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(1), 5, 40))
    await project_all(log, path)
    return log


def test_migrations_are_numbered_without_a_gap() -> None:
    """In order, from 1."""
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))


async def test_a_migration_and_its_record_are_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that fails midway leaves neither its tables nor its record."""
    from jobledger.projections import migrations as module

    sql = "CREATE TABLE half (a TEXT) STRICT;\nCREATE TABLE x (a TEXT) STRICT;\nnonsense;"
    broken = (*migrations(), (2, "0002_broken", sql))
    monkeypatch.setattr(module, "migrations", lambda: broken)
    path = tmp_path / "view.db"
    with pytest.raises(ViewError):
        await Projector(MemoryLog(), path).start()
    monkeypatch.undo()
    connection = sqlite3.connect(path)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    connection.close()
    assert not tables & {"half", "x", "jobs"}
    await a_view(path)  # the file is usable


async def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    """An up-to-date file is unchanged."""
    writer = await Writer.open(tmp_path / "view.db")
    await migrate(writer)
    before = await writer.rows("SELECT sql FROM sqlite_schema")
    await migrate(writer)
    assert await writer.rows("SELECT sql FROM sqlite_schema") == before
    await writer.close()


def test_statements_are_split_where_sql_ends_them() -> None:
    """A semicolon in a comment or a string ends no statement."""
    script = "-- first; not the end\nCREATE TABLE a (b TEXT DEFAULT ';');\nCREATE INDEX i\n  ON a (b);\n"
    assert len(split_statements(script)) == 2


async def test_a_file_of_a_newer_release_is_refused_and_unchanged(tmp_path: Path) -> None:
    """The error names its migration."""
    path = tmp_path / "view.db"
    await a_view(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO migrations VALUES (99, '0099_from_the_future')")
    connection.commit()
    connection.close()
    before = rows_of(path)
    with pytest.raises(ViewFromNewerRelease, match=r"0099_from_the_future.*upgrade"):
        await Projector(MemoryLog(), path).start()
    assert rows_of(path) == before


async def test_a_file_of_an_older_projection_version_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is emptied and folded again from the first event."""
    path = tmp_path / "view.db"
    log = await a_view(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE jobs SET message = 'from an older meaning'")
    connection.commit()
    connection.close()
    monkeypatch.setattr(viewwriter, "PROJECTION_VERSION", viewwriter.PROJECTION_VERSION + 1)
    await project_all(log, path)
    assert rows_of(path) == fold_of(await records_of(log))


@pytest.mark.parametrize(
    "junk", [b"this is a text, not a database" * 40, b"SQLite format 3\0" + b"\xff" * 8192]
)
async def test_a_file_that_is_not_a_database_is_renamed(tmp_path: Path, junk: bytes) -> None:
    """A reader calls it damaged; a projector renames it and folds the log into a new one."""
    path = tmp_path / "view.db"
    path.write_bytes(junk)
    with pytest.raises(ViewDamaged, match="a projector rebuilds it"):
        await Reader.open(path)
    log = await a_view(path)
    assert rows_of(path) == fold_of(await records_of(log))
    kept = tmp_path / "view.db.damaged-1"
    assert kept.read_bytes() == junk
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_a_view_damaged_in_the_middle_is_rebuilt_at_the_start(tmp_path: Path) -> None:
    """Pages overwritten with noise are detected when they are read."""
    path = tmp_path / "view.db"
    log = await a_view(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(size - 4096))
    await project_all(log, path)
    assert rows_of(path) == fold_of(await records_of(log))


async def test_a_reader_without_a_view_gets_the_remedy(tmp_path: Path) -> None:
    """A reader does not create a missing file."""
    with pytest.raises(ViewMissing, match="start a projector on this path"):
        await View.open(tmp_path / "view.db")
    assert not (tmp_path / "view.db").exists()


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """The read connection refuses every change."""
    path = tmp_path / "view.db"
    await a_view(path)
    reader = await Reader.open(path)
    with pytest.raises(ViewUnwritable):
        await reader.rows("DELETE FROM jobs")
    await reader.close()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error has the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ViewUnwritable, match="cannot create the directory"):
        await Projector(MemoryLog(), tmp_path / "file" / "view.db").start()


async def test_a_lock_that_is_held_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long transaction of another process is reported after the timeout."""
    from jobledger.projections import database

    path = tmp_path / "view.db"
    await a_view(path)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ViewBusy, match=r"was locked for more than 0\.05 s by another process"):
        await Projector(MemoryLog(), path).start()
    holder.rollback()
    holder.close()


@pytest.mark.parametrize(
    "change",
    [
        "version = 0",
        "revision = version - 1",
        "modify_time = create_time - 1",
        "state = 'Undefined'",
        "type = 'cron'",
        "count = -1",
        "sequence = created_sequence - 1",
        "name = NULL",
        "priority = 'high'",
    ],
)
async def test_the_schema_refuses_rows_that_the_fold_could_not_make(tmp_path: Path, change: str) -> None:
    """The schema repeats the invariants of the fold."""
    path = tmp_path / "view.db"
    await a_view(path)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"UPDATE jobs SET {change}")
    connection.close()


async def test_a_failed_transaction_leaves_the_checkpoint_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one statement of a batch fails, nothing of the batch is in the file."""
    path = tmp_path / "view.db"
    log = await a_view(path)
    before = rows_of(path)
    monkeypatch.setattr(viewwriter, "_INSERT_SPEC", "INSERT INTO no_such_table VALUES {values}")
    await append_all(log, random_drafts(random.Random(2), 9, 60)[40:])
    async with Projector(log, path) as running:
        with pytest.raises(ViewError, match="no such table"):
            await running.wait_for((await log.info()).last_sequence)
    assert rows_of(path) == before
    monkeypatch.undo()
    await project_all(log, path)
    assert rows_of(path) == fold_of(await records_of(log))


async def test_a_file_of_a_newer_projection_version_is_refused_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two releases in a rolling upgrade do not empty each other's view."""
    path = tmp_path / "view.db"
    log = await a_view(path)
    before = rows_of(path)
    monkeypatch.setattr(viewwriter, "PROJECTION_VERSION", viewwriter.PROJECTION_VERSION - 1)
    with pytest.raises(ViewFromNewerRelease, match="upgrade this Jobledger"):
        await Projector(log, path).start()
    assert rows_of(path) == before


async def test_a_projector_whose_file_another_release_took_over_stops(tmp_path: Path) -> None:
    """Its rows would have another meaning than those in the file; it writes none."""
    path = tmp_path / "view.db"
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(1), 5, 20))
    async with Projector(log, path) as running:
        await running.wait_for(20)
        connection = sqlite3.connect(path)
        connection.execute("UPDATE checkpoint SET projection = projection + 1")
        connection.commit()
        connection.close()
        before = rows_of(path)
        await append_all(log, random_drafts(random.Random(2), 5, 40)[20:])
        with pytest.raises(ViewFromNewerRelease, match="another release"):
            await running.wait_stopped()
        assert rows_of(path) == before
