"""The read connections of one view: one on the event loop, and a few threads that share what is asked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from jobledger.projections.database import PointReader, Reader, Row
from jobledger.projections.errors import ViewError, ViewFromNewerRelease, ViewMissing
from jobledger.projections.limits import READER_PACK_STATEMENTS, READERS_MAX
from jobledger.projections.migrations import migrations
from jobledger.store.errors import InvalidInput

_TABLES: Final = frozenset({"checkpoint", "jobs", "specs", "labels", "anomalies", "migrations"})


class ReaderPool:
    """Read connections, shared rather than lent; made by `open`.

    What ends at one row is read at once, on the event loop: going to a thread costs ten times as much. Other
    short statements are packed onto few threads: Python runs one thread at a time, and handing over between
    them costs as much as a short statement does. A long one, which SQLite spends without Python, gets a
    thread that is idle, so that the short ones behind it go elsewhere.

    A thread with statements waiting goes on to the next without asking the event loop, which lending would
    not allow. So no transaction may be opened here: others would read inside it.
    """

    def __init__(self, path: Path, readers: Sequence[Reader], point: PointReader | None = None) -> None:
        self.path = path
        self._point = point
        self._readers = tuple(readers)
        # Given to each and not answered; a long one counts as a full pack.
        self._waiting = [0] * len(self._readers)

    @classmethod
    async def open(cls, path: Path, readers: int, live: Path | None = None) -> Self:
        """Open a view's file this many times, and check that this release can read it.

        Args:
            path: the file.
            readers: how many times.
            live: see `Reader.open`.

        Raises:
            ViewMissing: if no projector has made it yet.
            ViewFromNewerRelease: if its schema is newer than this release.
            ViewError: if its schema is older, or the file can't be used.
            InvalidInput: for more readers than `READERS_MAX`, or none.
        """
        if not 1 <= readers <= READERS_MAX:
            raise InvalidInput(f"readers is {readers!r:.40}; use 1 to {READERS_MAX}")
        opened: list[Reader] = []
        try:
            for _ in range(readers):
                opened.append(await Reader.open(path, live))  # noqa: PERF401 - if one fails, the others must be closed
            await _check_schema(opened[0], _TABLES if live is None else _TABLES - {"specs"})
            point = PointReader.open(path, live)
        except BaseException:
            await _close_all(opened)
            raise
        return cls(path, opened, point)

    async def point_rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a statement that finds one row by its key, or a few: nothing else runs meanwhile.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        found = self._point.rows(sql, parameters) if self._point is not None else None
        return found if found is not None else await self.rows(sql, parameters)

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of one short statement: a search that ends at a few rows.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        waiting = self._waiting
        if not waiting:
            raise self._closed()
        # The first with room, before the one with the most: its page cache is the warmest.
        for index, given in enumerate(waiting):  # noqa: B007 - used below
            if given < READER_PACK_STATEMENTS:
                break
        else:
            index = waiting.index(min(waiting))
        waiting[index] += 1
        try:
            return await self._readers[index].rows(sql, parameters)
        finally:
            waiting[index] -= 1

    async def long_rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of one statement that may take long.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        waiting = self._waiting
        if not waiting:
            raise self._closed()
        index = waiting.index(min(waiting))
        waiting[index] += READER_PACK_STATEMENTS
        try:
            return await self._readers[index].rows(sql, parameters)
        finally:
            waiting[index] -= READER_PACK_STATEMENTS

    async def page_rows(
        self, sql: str, parameters: Sequence[Any] = (), *, max_bytes: int
    ) -> tuple[list[Row], bool]:
        """As many rows of a statement as `max_bytes` hold (and one more), and whether that is all of them.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        waiting = self._waiting
        if not waiting:
            raise self._closed()
        index = waiting.index(min(waiting))
        waiting[index] += READER_PACK_STATEMENTS
        try:
            return await self._readers[index].page(sql, parameters, max_bytes=max_bytes)
        finally:
            waiting[index] -= READER_PACK_STATEMENTS

    def _closed(self) -> ViewError:
        return ViewError(f"the view {self.path} is closed; open it again")

    async def close(self) -> None:
        """Answer what was asked, and close. Closing twice is harmless."""
        readers, self._readers, self._waiting = self._readers, (), []
        if self._point is not None:
            self._point.close()
            self._point = None
        await _close_all(readers)


async def _check_schema(reader: Reader, wanted: frozenset[str]) -> None:
    """Refuse a file that this release can't read, before the first question finds out."""
    path = reader.path
    missing = f"{path} holds no view yet; a projector makes it: start one on this path"
    tables = {name for (name,) in await reader.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables >= wanted:
        raise ViewMissing(missing)
    [(number, checkpoints)] = await reader.rows(
        "SELECT max(number), (SELECT count(*) FROM checkpoint) FROM migrations"
    )
    newest = migrations()[-1][0]
    if number is None or not checkpoints:
        raise ViewMissing(missing)
    if number > newest:
        raise ViewFromNewerRelease(
            f"a newer Jobledger made the view {path}; upgrade this one, or use another file"
        )
    if number < newest:
        raise ViewError(
            f"an older Jobledger made the view {path}; a projector of this release brings it up to date"
        )


async def _close_all(readers: Sequence[Reader]) -> None:
    await asyncio.gather(*(reader.close() for reader in readers))
