"""SQLite, through the only module that imports `aiosqlite`: one writer, and readers that cannot write.

Transactions are spelled out (`BEGIN IMMEDIATE`), and each statement is one trip to the connection's thread,
so a batch is a few trips, not one per row.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import aiosqlite

from jobledger.projections.errors import (
    ViewBusy,
    ViewDamaged,
    ViewError,
    ViewMissing,
    ViewReplaced,
    ViewUnwritable,
)
from jobledger.projections.limits import (
    BUSY_TIMEOUT_SECONDS,
    PAGE_CACHE_BYTES,
    READER_PAGE_CACHE_BYTES,
    ROWS_PER_STATEMENT,
    VIEW_DAMAGED_KEPT,
    WAL_CHECKPOINT_PAGES,
    WAL_KEPT_BYTES,
)
from jobledger.store.private_files import FOLDER_MODE, make_private, tighten

Row = tuple[Any, ...]

# I/O errors that say that the file does not have what it should.
_READ_ERRORS = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA")


class Reader:
    """A connection that cannot write; made by `open`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    async def open(cls, path: Path, live: Path | None = None) -> "Reader":
        """Open a view's file for reading.

        Args:
            path: the file.
            live: for a copy that nobody writes any more and that has no specs: the view that has them.

        Raises:
            ViewMissing: if there is no such file.
            ViewDamaged: if it is no database.
        """
        if not path.exists():
            raise ViewMissing(f"there is no view at {path}; a projector makes it: start one on this path")
        connection = await _connect(path, "ro" if live is None else "ro&immutable=1")
        reader = cls(path, connection)
        await _prepare(connection, path, (*_attach(live), *reader_pragmas()))
        return reader

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, in one trip."""
        # `translated` spelled out: every read comes through here, and a generator costs two microseconds.
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))  # type: ignore[arg-type]
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error

    async def page(
        self, sql: str, parameters: Sequence[Any] = (), *, max_bytes: int
    ) -> tuple[list[Row], bool]:
        """The first rows of a query, until they take more than `max_bytes`; and whether that is all."""
        connection: Any = self._connection
        execute, raw = connection._execute, connection._conn  # noqa: SLF001
        try:
            # The public calls fetch all rows, or take a trip for each portion of them.
            rows: tuple[list[Row], bool] = await execute(_fetch_page, raw, sql, parameters, max_bytes)
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error
        return rows

    async def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = await self.rows(sql, parameters)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def _fetch_page(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any], max_bytes: int
) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    size = 0
    with closing(connection.execute(sql, parameters)) as cursor:
        for row in cursor:
            rows.append(row)
            size += sum(len(value) for value in row if isinstance(value, (bytes, str)))
            if size > max_bytes:
                return rows, False
    return rows, True


class PointReader:
    """A connection for searches that end at one row, made on the event loop itself; made by `open`.

    A trip to a thread and back, with the wait for the interpreter's lock on either side, costs ten times what
    such a search does (`docs/decisions/0008`).
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, live: Path | None = None) -> "PointReader":
        """Open a view's file for reading, on the thread that will read.

        Args:
            path: the file.
            live: see `Reader.open`.

        Raises:
            ViewError: if it can't be used.
        """
        with translated(path):
            uri = f"{path.absolute().as_uri()}?mode=ro{'' if live is None else '&immutable=1'}"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0.0)
            try:
                for statement in (*_attach(live), *reader_pragmas()):
                    connection.execute(statement)
                connection.execute("PRAGMA busy_timeout = 0")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row] | None:
        """All rows of a query; None if the file is locked just now: the event loop must not wait for it.

        Raises:
            ViewError: if the file can't be read.
        """
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            translation = _translate(error, self.path)
            if isinstance(translation, ViewBusy):
                return None
            raise translation from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Writer(Reader):
    """The connection that writes; made by `open`. SQLite has one writer at a time, so one is enough."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        super().__init__(path, connection)
        self._busy = asyncio.Lock()  # a transaction, or a checkpoint
        self._files: dict[str, tuple[int, int]] = {}  # device and inode of what belongs to this database
        self._size = 0  # of the main file: it only grows

    @classmethod
    async def open(cls, path: Path, *, durable: bool = True) -> "Writer":  # type: ignore[override]
        """Open a view's file for writing, made if it is missing.

        Args:
            path: the file.
            durable: whether what is written outlives a crash, and others may read meanwhile; else a file that
                is not finished is worth nothing, and written faster.

        Raises:
            ViewDamaged: if it is no database.
            ViewUnwritable: if it, or its directory, can't be written.
            ViewBusy: if another process keeps it locked.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        except OSError as error:
            raise ViewUnwritable(
                f"can't make the directory {path.parent} for the view: {error.strerror}"
            ) from error
        with suppress(OSError):  # SQLite says below what is wrong
            if not path.is_file() and (path.exists() or path.is_symlink()):
                raise ViewDamaged(f"the view {path} was replaced by something that is no file")
            make_private(path)
        for suffix in ("-wal", "-shm"):  # from an older release; new ones get the mode of the main file
            tighten(Path(f"{path}{suffix}"))
        connection = await _connect(path, "rwc")
        writer = cls(path, connection)
        wal = (
            "PRAGMA journal_mode = WAL",
            # NORMAL: power loss may take the last transactions, whole; their events are folded again from the
            # log.
            "PRAGMA synchronous = NORMAL",
            f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}",
            f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}",
        )
        # Of `main` alone: without a name they hold for files that are attached later, too.
        fast = ("PRAGMA main.journal_mode = OFF", "PRAGMA main.synchronous = OFF")
        await _prepare(connection, path, _pragmas(PAGE_CACHE_BYTES, *(wal if durable else fast)))
        return writer

    def check_files(self) -> None:
        """Make sure that the files on disk are still those that are open; costs three calls of `stat`.

        SQLite goes on with a file that was removed or replaced, as if it were there.

        Raises:
            ViewMissing: if the view's file is gone.
            ViewReplaced: if it is another one.
            ViewDamaged: if it was cut short, or lost what SQLite keeps beside it.
        """
        for suffix in ("", "-wal", "-shm"):
            try:
                found = os.stat(f"{self.path}{suffix}")  # noqa: PTH116 - once a second, and quicker than a Path
            except FileNotFoundError:
                if suffix and suffix not in self._files:
                    continue
                raise (_lost(self.path, suffix) if suffix else _removed(self.path)) from None
            except OSError as error:
                raise ViewUnwritable(
                    f"the view {self.path} can't be looked at: {error.strerror or error}"
                ) from error
            place = (found.st_dev, found.st_ino)
            if self._files.setdefault(suffix, place) != place:
                raise (
                    _lost(self.path, suffix)
                    if suffix
                    else ViewReplaced(f"another file was put in the place of the view {self.path}")
                )
            if not suffix:
                if found.st_size < self._size:
                    raise ViewDamaged(
                        f"the view {self.path} was cut short: from {self._size} bytes to {found.st_size}"
                    )
                self._size = found.st_size

    async def trim_log(self) -> bool:
        """Cut the write-ahead log if it is longer than WAL_KEPT_BYTES and no reader needs it.

        Returns:
            Whether it is short now.

        Raises:
            ViewError: if SQLite can't.
        """
        log = Path(f"{self.path}-wal")
        if self._busy.locked() or not log.exists() or log.stat().st_size <= WAL_KEPT_BYTES:
            return True
        async with self._busy:
            # Without waiting for readers: it is tried again.
            await self.rows("PRAGMA busy_timeout = 0")
            try:
                [(is_busy, _, _)] = await self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                await self.rows(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
        return not is_busy

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; returns how many rows it changed."""
        with translated(self.path):
            cursor = await self._connection.execute(sql, parameters)
            return cursor.rowcount

    async def write_all(self, work: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        """Run statements over many rows each, inside a transaction.

        Many rows go in as one statement with many VALUES: SQLite then works through them without returning to
        Python for each, which would make its thread and the event loop fight for the interpreter's lock, row
        by row. And all statements are handed over at once, so that the thread need not wait for a busy event
        loop between two of them.

        Args:
            work: pairs of SQL, with `{values}` where the rows go as `(?, ?), (?, ?), …`, and rows of the same
                width.

        Raises:
            ViewError: if one fails; the others may have run, so the transaction must be rolled back.
        """
        trips: list[Awaitable[Any]] = []
        for sql, rows in work:
            done = 0
            if len(rows) >= ROWS_PER_STATEMENT:
                many = sql.format(values=_values(len(rows[0]), ROWS_PER_STATEMENT))
                for done in range(ROWS_PER_STATEMENT, len(rows) + 1, ROWS_PER_STATEMENT):
                    chunk = rows[done - ROWS_PER_STATEMENT : done]
                    trips.append(self._connection.execute(many, tuple(chain.from_iterable(chunk))))
            if done < len(rows):
                one = sql.format(values=_values(len(rows[0]), 1))
                trips.append(self._connection.executemany(one, rows[done:]))
        with translated(self.path):
            outcomes = await asyncio.gather(*trips, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing. The write lock is taken at once, so nothing read inside can be overtaken."""
        async with self._busy:
            await self.execute("BEGIN IMMEDIATE")
            try:
                yield
                await self.execute("COMMIT")
            except BaseException:
                # Shielded: a cancelled task must still leave the connection outside a transaction.
                with suppress(sqlite3.Error):  # the first error counts
                    await asyncio.shield(self._connection.rollback())
                raise


@lru_cache(maxsize=64)
def _values(columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)


@contextmanager
def translated(path: Path) -> Any:
    """SQLite's errors as ours, with what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translate(error, path) from error


def remove_view(path: Path) -> None:
    """Delete a view's file and what SQLite keeps beside it. Nobody may have it open."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def set_aside(path: Path) -> Path | None:
    """Move a damaged view's file aside, for whoever wants to find out what happened; mode 600.

    The newest VIEW_DAMAGED_KEPT are kept. If the disk has no room for the new view beside it, it is deleted.

    Returns:
        Where it is now; None if it was deleted, or was not there.

    Raises:
        ViewUnwritable: if the directory can't be written.
    """
    prefix = f"{path.name}.damaged-"
    try:
        kept = sorted(
            int(number)
            for file in path.parent.glob(f"{prefix}*")
            if (number := file.name.removeprefix(prefix)).isdecimal()
        )
        Path(f"{path}-shm").unlink(missing_ok=True)
        target = None
        is_file = path.is_file()
        is_other = not is_file and (path.exists() or path.is_symlink())  # a directory, or a link to nothing
        if is_other or (is_file and shutil.disk_usage(path.parent).free > 2 * path.stat().st_size):
            newest = kept[-1] + 1 if kept else 1
            target = path.with_name(f"{prefix}{newest}")
            if is_file:
                path.chmod(0o600)
            path.rename(target)
            with suppress(FileNotFoundError):
                Path(f"{path}-wal").rename(f"{target}-wal")
            kept.append(newest)
        remove_view(path)
        for old in kept[:-VIEW_DAMAGED_KEPT]:
            if not (aside := path.with_name(f"{prefix}{old}")).is_dir():  # what others put there is not ours
                remove_view(aside)
    except OSError as error:
        raise ViewUnwritable(
            f"the damaged view {path} can't be moved aside ({error.strerror or error}); check permissions"
        ) from error
    return target


def _removed(path: Path) -> ViewMissing:
    return ViewMissing(f"the view {path} was removed while it was in use")


def _lost(path: Path, suffix: str) -> ViewDamaged:
    return ViewDamaged(f"{path.name}{suffix}, a part of the view {path}, was removed or replaced")


async def _connect(path: Path, mode: str) -> aiosqlite.Connection:
    with translated(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = aiosqlite.connect(
            uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS, cached_statements=256
        )
        # A view that was never closed must not keep the interpreter from exiting: its transactions are whole
        # or not there, whenever the process ends.
        connection._thread.daemon = True  # noqa: SLF001 - the library has no setting for it
        return await connection


def _attach(live: Path | None) -> tuple[str, ...]:
    return (attach_statement(live),) if live is not None else ()


def attach_statement(live: Path) -> str:
    """What makes a live view's tables readable as `live.…`, and those that this file lacks by their names."""
    uri = f"{live.absolute().as_uri()}?mode=ro".replace("'", "''")
    return f"ATTACH DATABASE '{uri}' AS live"


async def _prepare(connection: aiosqlite.Connection, path: Path, pragmas: Sequence[str]) -> None:
    try:
        with translated(path):
            for pragma in pragmas:
                await connection.execute(pragma)
            await connection.execute_fetchall(
                "SELECT count(*) FROM sqlite_schema"
            )  # reads the file for the first time
    except BaseException:
        await connection.close()
        raise


def reader_pragmas() -> tuple[str, ...]:
    """How a connection that only reads is set up.

    It maps no memory (`mmap_size`): a file that is cut short, or a bad block of the disk, would end the
    process with SIGBUS instead of a failed read.
    """
    return _pragmas(READER_PAGE_CACHE_BYTES, "PRAGMA mmap_size = 0", "PRAGMA query_only = ON")


def _pragmas(cache_bytes: int, *more: str) -> tuple[str, ...]:
    return (
        f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}",
        f"PRAGMA cache_size = -{cache_bytes // 1024}",
        "PRAGMA temp_store = MEMORY",
        *more,
    )


def _translate(error: sqlite3.DatabaseError, path: Path) -> ViewError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", *_READ_ERRORS)):
        return ViewDamaged(f"the view {path} is damaged ({error}); a projector rebuilds it from the log")
    if name.startswith("SQLITE_CONSTRAINT"):
        return ViewDamaged(
            f"the rows of the view {path} contradict the log ({error}); a projector rebuilds it from the log"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ViewBusy(
            f"the view {path} was locked for over {BUSY_TIMEOUT_SECONDS:g} s; which other process has it?"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        unwritable = ViewUnwritable(
            f"the view {path} can't be opened or written ({error}); check space and permissions"
        )
        unwritable.may_be_damage = name.startswith("SQLITE_IOERR")
        return unwritable
    return ViewError(f"the view {path}: {error} ({name or type(error).__name__})")
