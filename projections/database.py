"""SQLite connections: one writer, and readers that cannot write. The only module that imports `aiosqlite`.

Transactions are explicit (`BEGIN IMMEDIATE`). Each statement is one trip to the connection's thread, so a
batch is a few trips, not one per row.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
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
    CATCH_UP_CHECKPOINT_PAGES,
    CATCH_UP_PAGE_CACHE_BYTES,
    CHECKPOINT_ROWS,
    PAGE_CACHE_BYTES,
    PARAMETERS_PER_STATEMENT,
    READER_PAGE_CACHE_BYTES,
    VIEW_DAMAGED_KEPT,
    WAL_CHECKPOINT_PAGES,
    WAL_KEPT_BYTES,
)
from jobledger.store.private_files import FOLDER_MODE, make_private, tighten

Row = tuple[Any, ...]
Work = Sequence[tuple[str, Sequence[Sequence[Any]]]]
"""Pairs of SQL, with `{values}` in place of `(?, ?), (?, ?), …`, and rows of the same width."""

# I/O errors that mean that the content of the file is damaged.
_READ_ERRORS = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA")


class Reader:
    """A connection that cannot write; created by `open`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    async def open(cls, path: Path, live: Path | None = None) -> "Reader":
        """Open a view's file for reading.

        Args:
            path: the file.
            live: for an immutable snapshot without specs: the view that has them.
        """
        if not path.exists():
            raise ViewMissing(f"no view at {path}; start a projector on this path to create it")
        connection = await _connect(path, "ro" if live is None else "ro&immutable=1")
        reader = cls(path, connection)
        await _prepare(connection, path, (*_attach(live), *reader_pragmas()))
        return reader

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, in one trip."""
        # `translated` is inlined: every read takes this path, and a generator costs two microseconds.
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))  # type: ignore[arg-type]
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error

    async def page(
        self, sql: str, parameters: Sequence[Any] = (), *, max_bytes: int
    ) -> tuple[list[Row], bool]:
        """The first rows of a query, until they exceed `max_bytes`, and whether these are all rows."""
        connection: Any = self._connection
        execute, raw = connection._execute, connection._conn  # noqa: SLF001
        try:
            # The public calls fetch all rows, or take one trip per chunk.
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
            for value in row:
                if type(value) is str or type(value) is bytes:  # half the time of `sum` and `isinstance`
                    size += len(value)
            if size > max_bytes:
                return rows, False
    return rows, True


class PointReader:
    """A connection for single-row lookups on the event loop itself; created by `open`.

    A round trip to a thread, which waits for the interpreter lock twice, costs ten times as much as such a
    lookup (`docs/decisions/0008`).
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, live: Path | None = None) -> "PointReader":
        """Open a view's file for reading, on the thread that will read; `live` is as in `Reader.open`."""
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
        """All rows of a query; None if the file is locked, because the event loop must not wait."""
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
    """The connection that writes; created by `open`. SQLite allows one writer at a time.

    A second connection moves the write-ahead log into the file, while the first one writes: a commit that
    did so itself would take 20 ms and more.
    """

    def __init__(
        self, path: Path, connection: aiosqlite.Connection, checkpoints: aiosqlite.Connection | None = None
    ) -> None:
        super().__init__(path, connection)
        self._checkpoints = checkpoints
        self._checkpoint_task: asyncio.Task[None] | None = None
        self._rows_since = 0  # written since the last checkpoint began
        self._busy = asyncio.Lock()  # a transaction, or the truncation of the write-ahead log
        self._files: dict[str, tuple[int, int]] = {}  # device and inode of each file, by suffix
        self._size = 0  # bytes of the main file, which only grows
        self._is_catching_up = False

    @classmethod
    async def open(cls, path: Path, *, durable: bool = True) -> "Writer":  # type: ignore[override]
        """Open a view's file for writing; create it if it is missing.

        Args:
            path: the file.
            durable: whether writes survive a crash and other connections may read concurrently. If not,
                writes are faster, and a file that is not finished is worthless.

        Raises:
            ViewDamaged: if the file is not a database.
            ViewUnwritable: if the file or its directory cannot be written.
            ViewBusy: if another process keeps the file locked.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        except OSError as error:
            raise ViewUnwritable(
                f"cannot create the directory {path.parent} for the view: {error.strerror}"
            ) from error
        with suppress(OSError):  # SQLite reports the error below
            if not path.is_file() and (path.exists() or path.is_symlink()):
                raise ViewDamaged(f"the view {path} was replaced by something that is not a regular file")
            make_private(path)
        for suffix in ("-wal", "-shm"):  # an older release may have created them
            tighten(Path(f"{path}{suffix}"))
        connection = await _connect(path, "rwc")
        writer = cls(path, connection)
        wal = (
            "PRAGMA journal_mode = WAL",
            # NORMAL: a power failure may lose the last transactions, but never part of one; their events are
            # folded again from the log.
            "PRAGMA synchronous = NORMAL",
            f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}",
            f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}",
        )
        # Restricted to `main`: without a schema name they also apply to files attached later.
        fast = ("PRAGMA main.journal_mode = OFF", "PRAGMA main.synchronous = OFF")
        await _prepare(connection, path, _pragmas(PAGE_CACHE_BYTES, *(wal if durable else fast)))
        if durable:
            try:
                writer._checkpoints = await _connect(path, "rw")
                await _prepare(writer._checkpoints, path, ("PRAGMA busy_timeout = 0", wal[1]))
            except BaseException:
                await connection.close()
                raise
        return writer

    def check_files(self) -> None:
        """Check that the files on disk are still the open ones, with three calls of `stat`.

        SQLite keeps working on a file that was removed or replaced as if it were in place.

        Raises:
            ViewMissing: if the view's file does not exist any more.
            ViewReplaced: if another file is in its place.
            ViewDamaged: if the file was truncated, or its `-wal` or `-shm` file was removed or replaced.
        """
        for suffix in ("", "-wal", "-shm"):
            try:
                found = os.stat(f"{self.path}{suffix}")  # noqa: PTH116 - faster than Path
            except FileNotFoundError:
                if suffix and suffix not in self._files:
                    continue
                raise (_lost(self.path, suffix) if suffix else _removed(self.path)) from None
            except OSError as error:
                raise ViewUnwritable(
                    f"cannot stat the view {self.path}: {error.strerror or error}"
                ) from error
            place = (found.st_dev, found.st_ino)
            if self._files.setdefault(suffix, place) != place:
                raise (
                    _lost(self.path, suffix)
                    if suffix
                    else ViewReplaced(f"the view {self.path} was replaced by another file")
                )
            if not suffix:
                if found.st_size < self._size:
                    raise ViewDamaged(
                        f"the view {self.path} was truncated from {self._size} bytes to {found.st_size}"
                    )
                self._size = found.st_size

    async def set_catching_up(self, is_catching_up: bool) -> None:
        """Use a larger page cache and checkpoint less often, or return to the usual limits.

        Ids are random: each new job changes another page of their index. Until the next checkpoint a page is
        copied to the file once, however often it changed.
        """
        if is_catching_up == self._is_catching_up:
            return
        self._is_catching_up = is_catching_up
        cache, pages = PAGE_CACHE_BYTES, WAL_CHECKPOINT_PAGES
        if is_catching_up:
            cache, pages = CATCH_UP_PAGE_CACHE_BYTES, CATCH_UP_CHECKPOINT_PAGES
        await self.rows(f"PRAGMA cache_size = -{cache // 1024}")
        await self.rows(f"PRAGMA wal_autocheckpoint = {pages}")
        if not is_catching_up:
            await self.rows("PRAGMA shrink_memory")
            self._start_checkpoint()  # otherwise the next commit would move a long log itself

    async def trim_log(self) -> bool:
        """Truncate the write-ahead log if it exceeds WAL_KEPT_BYTES; False if a reader needs it."""
        log = Path(f"{self.path}-wal")
        if self._busy.locked() or not log.exists() or log.stat().st_size <= WAL_KEPT_BYTES:
            return True
        async with self._busy:
            # Do not wait for readers: the projector tries again.
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

    async def write_all(self, work: Work) -> None:
        """Run statements over many rows each, inside a transaction, in one trip; see `_write_all`."""
        connection: Any = self._connection
        with translated(self.path):
            await connection._execute(_write_all, connection._conn, work)  # noqa: SLF001

    async def commit(self, guard: tuple[str, Sequence[Any]], work: Work) -> bool:
        """Run a transaction in one trip, during which the thread never waits for a busy event loop.

        If the caller is cancelled, the transaction finishes nevertheless.

        Args:
            guard: the first statement; unless it changes one row, nothing is written.
            work: as for `write_all`.

        Returns:
            Whether the guard changed one row.
        """
        connection: Any = self._connection
        async with self._busy:
            with translated(self.path):
                run, raw = connection._execute, connection._conn  # noqa: SLF001
                done: bool = await run(_transact, raw, guard, work)
        self._rows_since += sum(len(rows) for _, rows in work) + 1
        if self._rows_since >= CHECKPOINT_ROWS and not self._is_catching_up:
            self._start_checkpoint()
        return done

    def _start_checkpoint(self) -> None:
        """Move the write-ahead log into the file in the background, unless that is being done."""
        if self._checkpoints is None or self._checkpoint_task is not None:
            return
        self._rows_since = 0
        task = self._checkpoint_task = asyncio.create_task(self._checkpoint(self._checkpoints))
        task.add_done_callback(self._end_checkpoint)

    def _end_checkpoint(self, _: object) -> None:
        self._checkpoint_task = None

    async def _checkpoint(self, connection: aiosqlite.Connection) -> None:
        # SQLite reuses the log from its beginning after a checkpoint that left nothing. Each round leaves
        # what is written during it: the first little, the second less, and the last, under the lock, nothing.
        sql = "PRAGMA wal_checkpoint(PASSIVE)"
        with suppress(sqlite3.DatabaseError):  # as for SQLite's own checkpoints: the next one tries again
            await connection.execute_fetchall(sql)
            await connection.execute_fetchall(sql)
            async with self._busy:
                await connection.execute_fetchall(sql)

    async def close(self) -> None:
        """Finish the checkpoint in progress, and close both connections."""
        if self._checkpoint_task is not None:
            await asyncio.gather(self._checkpoint_task, return_exceptions=True)
        if self._checkpoints is not None:
            await self._checkpoints.close()
        await super().close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction that takes the write lock immediately, so that what it reads cannot become stale."""
        async with self._busy:
            await self.execute("BEGIN IMMEDIATE")
            try:
                yield
                await self.execute("COMMIT")
            except BaseException:
                # Shielded: a cancelled task must not leave the connection inside a transaction.
                with suppress(sqlite3.Error):  # raise the first error
                    await asyncio.shield(self._connection.rollback())
                raise


def _transact(connection: sqlite3.Connection, guard: tuple[str, Sequence[Any]], work: Work) -> bool:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute(*guard).rowcount != 1:
            connection.execute("ROLLBACK")
            return False
        _write_all(connection, work)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # raise the first error
            connection.rollback()
        raise
    return True


def _write_all(connection: sqlite3.Connection, work: Work) -> None:
    """Run statements over many rows each.

    Many rows are one statement with many VALUES: SQLite then processes them without returning to Python for
    each row, where its thread would compete with the event loop for the interpreter lock. The numbers of rows
    are powers of two, because each number is another statement, which is prepared once and cached.
    """
    for sql, rows in work:
        done, left = 0, len(rows)
        while left:
            columns = len(rows[done])
            size = 1 << max(1, min(left, PARAMETERS_PER_STATEMENT // columns)).bit_length() - 1
            parameters = tuple(chain.from_iterable(rows[done : done + size]))
            connection.execute(_statement(sql, columns, size), parameters)
            done, left = done + size, left - size


@lru_cache(maxsize=256)
def _statement(sql: str, columns: int, rows: int) -> str:
    return sql.format(values=_values(columns, rows))


@lru_cache(maxsize=64)
def _values(columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)


@contextmanager
def translated(path: Path) -> Any:
    """Translate SQLite's errors to `ViewError`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translate(error, path) from error


def remove_view(path: Path) -> None:
    """Delete a view's file with its `-wal` and `-shm` files. No connection may be open."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def move_damaged(path: Path) -> Path | None:
    """Rename a damaged view's file to `….damaged-N`, with mode 600, so that the damage can be analyzed.

    The newest VIEW_DAMAGED_KEPT such files are kept. If the disk lacks room for a new view as well, the
    damaged file is deleted.

    Returns:
        The new path; None if the file was deleted or did not exist.

    Raises:
        ViewUnwritable: if the directory cannot be written.
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
            if not (damaged := path.with_name(f"{prefix}{old}")).is_dir():  # not created by a projector
                remove_view(damaged)
    except OSError as error:
        raise ViewUnwritable(
            f"cannot rename the damaged view {path} ({error.strerror or error}); check permissions"
        ) from error
    return target


def _removed(path: Path) -> ViewMissing:
    return ViewMissing(f"the view {path} was removed while it was in use")


def _lost(path: Path, suffix: str) -> ViewDamaged:
    return ViewDamaged(f"{path.name}{suffix}, which belongs to the view {path}, was removed or replaced")


async def _connect(path: Path, mode: str) -> aiosqlite.Connection:
    with translated(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = aiosqlite.connect(
            uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS, cached_statements=256
        )
        # A view that was never closed must not keep the interpreter from exiting: transactions are atomic
        # whenever the process ends.
        connection._thread.daemon = True  # noqa: SLF001 - the library has no option for it
        return await connection


def _attach(live: Path | None) -> tuple[str, ...]:
    return (attach_statement(live),) if live is not None else ()


def attach_statement(live: Path) -> str:
    """The statement that attaches a live view as `live`; tables missing here resolve to it by bare name."""
    uri = f"{live.absolute().as_uri()}?mode=ro".replace("'", "''")
    return f"ATTACH DATABASE '{uri}' AS live"


async def _prepare(connection: aiosqlite.Connection, path: Path, pragmas: Sequence[str]) -> None:
    try:
        with translated(path):
            for pragma in pragmas:
                await connection.execute(pragma)
            await connection.execute_fetchall("SELECT count(*) FROM sqlite_schema")  # first read of the file
    except BaseException:
        await connection.close()
        raise


def reader_pragmas() -> tuple[str, ...]:
    """The pragmas of a connection that only reads.

    Memory mapping is off (`mmap_size`): with it, a truncated file or a bad disk block ends the process with
    SIGBUS instead of failing one read.
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
            f"rows of the view {path} contradict the log ({error}); a projector rebuilds it from the log"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ViewBusy(
            f"the view {path} was locked for more than {BUSY_TIMEOUT_SECONDS:g} s by another process"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        unwritable = ViewUnwritable(
            f"cannot open or write the view {path} ({error}); check disk space and permissions"
        )
        unwritable.may_be_damage = name.startswith("SQLITE_IOERR")
        return unwritable
    return ViewError(f"the view {path}: {error} ({name or type(error).__name__})")
