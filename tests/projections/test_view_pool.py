"""The connection on which a read runs: short reads share threads, and long reads do not delay them."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobledger.projections.database import PointReader, Reader, Row
from jobledger.projections.errors import ViewError
from jobledger.projections.limits import READER_PACK_STATEMENTS
from jobledger.projections.pool import ReaderPool


class HeldReader(Reader):
    """Records its statements, and answers when released."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.released = asyncio.Event()

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self.statements.append(sql)
        await self.released.wait()
        return [tuple(parameters)]

    async def close(self) -> None:
        self.released.set()


@pytest.fixture
def readers() -> list[HeldReader]:
    """Three connections."""
    return [HeldReader(), HeldReader(), HeldReader()]


async def start(*statements: Any) -> list[asyncio.Task[Any]]:
    """Start reads, up to the point where they wait for their connection."""
    tasks = [asyncio.ensure_future(one) for one in statements]
    await asyncio.wait(tasks, timeout=0)
    return tasks


async def test_short_reads_are_packed_up_to_the_limit(readers: list[HeldReader]) -> None:
    """The limit of reads waits on one connection; one more goes to the next; all are answered."""
    pool = ReaderPool(Path("view.db"), readers)
    tasks = await start(*(pool.rows("short", (number,)) for number in range(READER_PACK_STATEMENTS)))
    assert [len(reader.statements) for reader in readers] == [READER_PACK_STATEMENTS, 0, 0]
    tasks += await start(pool.rows("short", (READER_PACK_STATEMENTS,)))
    assert [len(reader.statements) for reader in readers] == [READER_PACK_STATEMENTS, 1, 0]
    await pool.close()
    assert [row for [row] in await asyncio.gather(*tasks)] == [
        (n,) for n in range(READER_PACK_STATEMENTS + 1)
    ]


async def test_a_long_read_gets_an_idle_connection_to_itself(readers: list[HeldReader]) -> None:
    """Later short reads use others, or, if all are busy, the one with the fewest waiting."""
    pool = ReaderPool(Path("view.db"), readers)
    tasks = await start(
        pool.long_rows("long"), pool.rows("short"), pool.long_rows("long"), pool.long_rows("long")
    )
    assert [reader.statements for reader in readers] == [["long"], ["short", "long"], ["long"]]
    tasks += await start(pool.rows("short"))
    assert readers[0].statements == ["long", "short"]
    await pool.close()
    await asyncio.gather(*tasks)


async def test_a_cancelled_read_is_no_longer_counted(readers: list[HeldReader]) -> None:
    """A caller that is gone does not keep a connection busy."""
    pool = ReaderPool(Path("view.db"), readers)
    [task] = await start(pool.long_rows("long"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    tasks = await start(pool.rows("short"))
    assert readers[0].statements == ["long", "short"]
    await pool.close()
    await asyncio.gather(*tasks)


async def test_a_locked_file_does_not_stop_the_event_loop(tmp_path: Path, readers: list[HeldReader]) -> None:
    """A read that would block runs on a thread, with the same result."""
    path = tmp_path / "view.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE jobs (id TEXT)")
    other.execute("INSERT INTO jobs VALUES ('j-1')")
    pool = ReaderPool(path, readers, PointReader.open(path))
    assert await pool.point_rows("SELECT id FROM jobs WHERE id = ?", ("j-1",)) == [("j-1",)]
    other.execute("BEGIN EXCLUSIVE")
    [task] = await start(pool.point_rows("SELECT id FROM jobs WHERE id = ?", ("j-1",)))
    assert not task.done()
    assert readers[0].statements
    readers[0].released.set()
    assert await task == [("j-1",)]
    other.close()
    await pool.close()


async def test_a_point_read_needs_no_thread(tmp_path: Path, readers: list[HeldReader]) -> None:
    """It completes before anything else runs, and cannot write."""
    path = tmp_path / "view.db"
    sqlite3.connect(path).execute("CREATE TABLE jobs (id TEXT)").connection.close()
    pool = ReaderPool(path, readers, PointReader.open(path))
    [task] = await start(pool.point_rows("SELECT count(*) FROM jobs"))
    assert task.done()
    assert not readers[0].statements
    with pytest.raises(ViewError, match="readonly"):
        await pool.point_rows("INSERT INTO jobs VALUES (1)")
    await pool.close()
    with pytest.raises(ViewError, match="closed"):
        await pool.point_rows("SELECT 1")
