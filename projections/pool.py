"""The read connections of one view: one on the event loop, and a few threads that share the statements."""

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
    """Shared read connections; created by `open`.

    Single-row lookups run on the event loop: a trip to a thread costs ten times as much. Other short
    statements are packed onto few threads: Python runs one thread at a time, and switching between them costs
    as much as a short statement. A long statement, which SQLite executes without Python, gets the least busy
    thread, and short ones avoid that thread.

    Statements are queued on a connection without waiting for the previous one to return to the event loop, so
    a caller must not open a transaction: others would read inside it.

    Reads raise `ViewError` if the pool is closed or suspended, or the file cannot be read.

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
        self._suspended: ViewError | None = None  # the error that reads raise while suspended
        self._point = point
        self._readers: Sequence[Reader] = tuple(readers)
        # Pending statements of each reader; a long one counts as READER_PACK_STATEMENTS.
        self._waiting = [0] * len(self._readers)

    @classmethod
    async def open(cls, path: Path, readers: int, live: Path | None = None) -> Self:
        """Open `readers` connections to a view's file, and check its schema; `live` is as in `Reader.open`.

        Raises:
            ViewMissing: if no projector has created the view yet.
            ViewFromNewerRelease: if its schema is newer than this release.
            ViewError: if its schema is older, or the file cannot be used.
            InvalidInput: if `readers` is out of range.
        """
        if not 1 <= readers <= READERS_MAX:
            raise InvalidInput(f"readers must be 1..{READERS_MAX}, got {readers!r:.40}")
        return cls(path, *await _open_all(path, readers, live), live=live)

    async def suspend(self, why: ViewError) -> None:
        """Close the file; until `resume`, reads raise this error."""
        self._suspended = why
        await self.close()

    async def resume(self) -> None:
        """Open the file that is at the path now."""
        if self._suspended is None:
            return
        self._readers, self._point = await _open_all(self.path, self._count, self._live)
        self._waiting = [0] * len(self._readers)
        self._suspended = None

    async def point_rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a lookup by key, which blocks the event loop."""
        try:
            found = self._point.rows(sql, parameters) if self._point is not None else None
        except ViewDamaged as error:
            self.report_damage(error)
            raise
        return found if found is not None else await self.rows(sql, parameters)

    def point_rows_now(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row] | None:
        """All rows of a lookup by key, without waiting; None if it fails: `point_rows` then raises why."""
        try:
            return self._point.rows(sql, parameters) if self._point is not None else None
        except ViewError:
            return None

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a short statement: an index search that finds a few rows."""
        waiting = self._waiting
        if not waiting:
            raise self._closed()
        # The first reader with room: its page cache is the warmest.
        for index, pending in enumerate(waiting):  # noqa: B007 - used below
            if pending < READER_PACK_STATEMENTS:
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
        """All rows of a statement that may take long."""
        with self._least_busy() as reader:
            return await reader.rows(sql, parameters)

    async def page_rows(
        self, sql: str, parameters: Sequence[Any] = (), *, max_bytes: int
    ) -> tuple[list[Row], bool]:
        """The first rows of a statement, until they exceed `max_bytes`, and whether these are all rows."""
        with self._least_busy() as reader:
            return await reader.page(sql, parameters, max_bytes=max_bytes)

    @contextmanager
    def _least_busy(self) -> Iterator[Reader]:
        """Use the least busy reader for a long statement; report damage."""
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
        """Pass damage found in a row to `on_damage`."""
        if self.on_damage is not None and self._suspended is None:
            self.on_damage(error)

    async def close(self) -> None:
        """Finish pending reads and close. Idempotent."""
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


async def _check_schema(reader: Reader, required: frozenset[str]) -> None:
    """Reject a file that this release cannot read."""
    path = reader.path
    missing = f"{path} does not contain a view yet; start a projector on this path to create it"
    tables = {name for (name,) in await reader.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables >= required:
        raise ViewMissing(missing)
    [(number, checkpoints)] = await reader.rows(
        "SELECT max(number), (SELECT count(*) FROM checkpoint) FROM migrations"
    )
    newest = migrations()[-1][0]
    if number is None or not checkpoints:
        raise ViewMissing(missing)
    if number > newest:
        raise ViewFromNewerRelease(
            f"the view {path} was created by a newer Jobledger; upgrade this one, or use another file"
        )
    if number < newest:
        raise ViewError(
            f"the view {path} was created by an older Jobledger;"
            " start a projector of this release to migrate it"
        )


async def _close_all(readers: Sequence[Reader]) -> None:
    await asyncio.gather(*(reader.close() for reader in readers))
