"""The read connections of one view: one on the event loop, and a few threads that share what is asked."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from jobledger.projections.database import PointReader, Reader, Row
from jobledger.projections.errors import ViewDamaged, ViewError, ViewFromNewerRelease, ViewMissing
from jobledger.projections.limits import READER_PACK_STATEMENTS, READERS_MAX
from jobledger.projections.migrations import migrations
from jobledger.store.model.errors import InvalidInput

_TABLES: Final = frozenset({"checkpoint", "jobs", "specs", "labels", "anomalies", "migrations"})


class ReaderPool:
    """Read connections, shared rather than lent; made by `open`.

    What ends at one row is read at once, on the event loop: going to a thread costs ten times as much. Other
    short statements are packed onto few threads: Python runs one thread at a time, and handing over between
    them costs as much as a short statement does. A long one, which SQLite spends without Python, gets a
    thread that is idle, so that the short ones behind it go elsewhere.

    A thread with statements waiting goes on to the next without asking the event loop, which lending would
    not allow. So no transaction may be opened here: others would read inside it.

    Attributes:
        on_damage: called when a read finds damage.
    """

    on_damage: Callable[[ViewDamaged], None] | None = None

    def __init__(
        self,
        path: Path,
        readers: Sequence[Reader],
        point: PointReader | None = None,
        *,
        live: Path | None = None,
    ) -> None:
        self.path = path
        self._live = live
        self._count = len(readers)
        self._suspended: ViewError | None = None  # why nothing can be read just now
        self._point = point
        self._readers: Sequence[Reader] = tuple(readers)
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
        return cls(path, *await _open_all(path, readers, live), live=live)

    async def suspend(self, why: ViewError) -> None:
        """Let the file go, and answer whatever is asked with an error, until `resume`.

        Args:
            why: the error.
        """
        self._suspended = why
        await self._let_go()

    async def resume(self) -> None:
        """Open the file that is at the path now.

        Raises:
            ViewError: if it can't be used; the pool stays suspended.
        """
        if self._suspended is None:
            return
        self._readers, self._point = await _open_all(self.path, self._count, self._live)
        self._waiting = [0] * len(self._readers)
        self._suspended = None

    async def point_rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a statement that finds one row by its key, or a few: nothing else runs meanwhile.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        try:
            found = self._point.rows(sql, parameters) if self._point is not None else None
        except ViewDamaged as error:
            self.report_damage(error)
            raise
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
        except ViewDamaged as error:
            self.report_damage(error)
            raise
        finally:
            waiting[index] -= 1

    async def long_rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of one statement that may take long.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        with self._least_busy() as reader:
            return await reader.rows(sql, parameters)

    async def page_rows(
        self, sql: str, parameters: Sequence[Any] = (), *, max_bytes: int
    ) -> tuple[list[Row], bool]:
        """As many rows of a statement as `max_bytes` hold (and one more), and whether that is all of them.

        Raises:
            ViewError: if the pool is closed, or the file can't be read.
        """
        with self._least_busy() as reader:
            return await reader.page(sql, parameters, max_bytes=max_bytes)

    @contextmanager
    def _least_busy(self) -> Iterator[Reader]:
        """The reader with the least to do, counted as busy meanwhile; damage that it meets is reported."""
        waiting = self._waiting
        if not waiting:
            raise self._closed()
        index = waiting.index(min(waiting))
        waiting[index] += READER_PACK_STATEMENTS
        try:
            yield self._readers[index]
        except ViewDamaged as error:
            self.report_damage(error)
            raise
        finally:
            waiting[index] -= READER_PACK_STATEMENTS

    def _closed(self) -> ViewError:
        if self._suspended is not None:
            return type(self._suspended)(str(self._suspended))
        return ViewError(f"the view {self.path} is closed; open it again")

    def report_damage(self, error: ViewDamaged) -> None:
        """Pass on damage that was found in what was read."""
        if self.on_damage is not None and self._suspended is None:
            self.on_damage(error)

    async def close(self) -> None:
        """Answer what was asked, and close. Closing twice is harmless."""
        await self._let_go()

    async def _let_go(self) -> None:
        readers, self._readers, self._waiting = self._readers, (), []
        if self._point is not None:
            self._point.close()
            self._point = None
        await _close_all(readers)


async def _open_all(path: Path, readers: int, live: Path | None) -> tuple[Sequence[Reader], PointReader]:
    opened: list[Reader] = []
    try:
        for _ in range(readers):
            opened.append(await Reader.open(path, live))  # noqa: PERF401 - if one fails, the others must be closed
        await _check_schema(opened[0], _TABLES if live is None else _TABLES - {"specs"})
        point = PointReader.open(path, live)
    except BaseException:
        await _close_all(opened)
        raise
    return tuple(opened), point


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
