"""Which connection a read runs on: short ones share a thread, long ones don't hold them up."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobledger.projections.database import Reader, Row
from jobledger.projections.limits import READER_PACK_STATEMENTS
from jobledger.projections.pool import ReaderPool


class HeldReader(Reader):
    """Notes what it is asked, and answers when it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = asyncio.Event()

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self.asked.append(sql)
        await self.released.wait()
        return [tuple(parameters)]

    async def close(self) -> None:
        self.released.set()


@pytest.fixture
def readers() -> list[HeldReader]:
    """Three connections."""
    return [HeldReader(), HeldReader(), HeldReader()]


async def start(*asked: Any) -> list[asyncio.Task[Any]]:
    """Begin reads, up to the point where they wait for their connection."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    await asyncio.wait(tasks, timeout=0)
    return tasks


async def test_short_reads_are_packed_up_to_the_limit(readers: list[HeldReader]) -> None:
    """As many as the limit wait on one connection; one more goes to the next; at the end all are answered."""
    pool = ReaderPool(Path("view.db"), readers)
    tasks = await start(*(pool.rows("short", (number,)) for number in range(READER_PACK_STATEMENTS)))
    assert [len(reader.asked) for reader in readers] == [READER_PACK_STATEMENTS, 0, 0]
    tasks += await start(pool.rows("short", (READER_PACK_STATEMENTS,)))
    assert [len(reader.asked) for reader in readers] == [READER_PACK_STATEMENTS, 1, 0]
    await pool.close()
    assert [row for [row] in await asyncio.gather(*tasks)] == [
        (n,) for n in range(READER_PACK_STATEMENTS + 1)
    ]


async def test_a_long_read_gets_an_idle_connection_to_itself(readers: list[HeldReader]) -> None:
    """Short reads behind it go elsewhere, and when all are busy, to where the fewest wait."""
    pool = ReaderPool(Path("view.db"), readers)
    tasks = await start(
        pool.long_rows("long"), pool.rows("short"), pool.long_rows("long"), pool.long_rows("long")
    )
    assert [reader.asked for reader in readers] == [["long"], ["short", "long"], ["long"]]
    tasks += await start(pool.rows("short"))
    assert readers[0].asked == ["long", "short"]
    await pool.close()
    await asyncio.gather(*tasks)


async def test_a_cancelled_read_gives_its_place_back(readers: list[HeldReader]) -> None:
    """A caller that goes away does not make a connection look busy for ever."""
    pool = ReaderPool(Path("view.db"), readers)
    [task] = await start(pool.long_rows("long"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    tasks = await start(pool.rows("short"))
    assert readers[0].asked == ["long", "short"]
    await pool.close()
    await asyncio.gather(*tasks)
