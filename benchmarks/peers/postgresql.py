"""PostgreSQL: a table of jobs and a table of their history, written in one transaction.

Two ways: two statements between BEGIN and COMMIT, and one statement (a common table expression). Both use
prepared statements over a pool of connections on a Unix socket. `fsync` and `synchronous_commit` are on, so a
commit is on disk before it returns, and commits of several connections share a sync.
"""

import asyncio
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.peers.jobs import TERMINAL, new_job, state_entry
from benchmarks.peers.peer import (
    PAGE_JOBS,
    START_TIMEOUT_SECONDS,
    NotInstalled,
    Store,
    library,
    program,
    running,
)
from benchmarks.workload import ACTOR, REASON, job_key
from jobledger.store.model.job import StateType

CONNECTIONS: Final = 32
"""More are slower on two cores, because each is a process."""

_SETTINGS: Final = {
    "listen_addresses": "",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",  # no checkpoint in the middle of a round
    "max_connections": "200",
}
_USER: Final = "bench"
_INSTALL: Final = "apt-get install postgresql"

SCHEMA: Final = """
CREATE TABLE jobs (
    id text PRIMARY KEY, namespace text NOT NULL, name text NOT NULL, state text NOT NULL,
    revision integer NOT NULL, created_at timestamptz NOT NULL, modified_at timestamptz NOT NULL,
    labels jsonb NOT NULL, spec json NOT NULL, UNIQUE (namespace, name)
);
CREATE INDEX jobs_by_namespace ON jobs (namespace, created_at, id);
CREATE TABLE history (
    job_id text NOT NULL, revision integer NOT NULL, at timestamptz NOT NULL, kind text NOT NULL,
    actor text NOT NULL, reason text NOT NULL, data json NOT NULL, PRIMARY KEY (job_id, revision)
);
"""
_INSERT_JOB: Final = (
    "INSERT INTO jobs VALUES ($1, $2, $3, 'Pending', 1, now(), now(), $4::text::jsonb, $5::text::json)"
)
_INSERT_FIRST: Final = "INSERT INTO history VALUES ($1, 1, now(), 'created', $2, $3, $4::text::json)"
CREATE_AT_ONCE: Final = (
    f"WITH job AS ({_INSERT_JOB} RETURNING id) INSERT INTO history"
    " SELECT id, 1, now(), 'created', $6, $7, $5::text::json FROM job RETURNING job_id"
)
_NOT_TERMINAL: Final = f"state NOT IN {TERMINAL}"  # a tuple of strings is written as in SQL
_UPDATE_JOB: Final = (
    "UPDATE jobs SET state = $2, revision = revision + 1, modified_at = now()"
    f" WHERE id = $1 AND {_NOT_TERMINAL} RETURNING id, revision"
)
_INSERT_STATE: Final = "INSERT INTO history VALUES ($1, $2, now(), 'state', $3, '', $4::text::json)"
STATE_AT_ONCE: Final = (
    f"WITH job AS ({_UPDATE_JOB}) INSERT INTO history"
    " SELECT id, revision, now(), 'state', $3, '', $4::text::json FROM job RETURNING revision"
)
GET: Final = "SELECT * FROM jobs WHERE id = $1"
PAGE: Final = f"SELECT * FROM jobs WHERE namespace = $1 ORDER BY created_at, id LIMIT {PAGE_JOBS}"


def _programs() -> tuple[str, str]:
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    return program("postgres", folders, _INSTALL), program("initdb", folders, _INSTALL)


def check_server() -> None:
    """Raise `NotInstalled` if the server or its client library is missing."""
    _programs()
    library("asyncpg", "asyncpg")
    _unprivileged()


def _unprivileged() -> str | None:
    """The user that runs the server, which refuses to run as root; None: the current one."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NotInstalled("PostgreSQL does not run as root, and there is no user postgres or nobody")


def version() -> str:
    """Return the server's version, such as `15.18`."""
    text = subprocess.run([_programs()[0], "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)?", text)
    return found.group() if found else text.strip()


class Server:
    """A running server."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.process = process

    @property
    def dsn(self) -> str:
        """The address of its main database."""
        return f"postgresql://{_USER}@/postgres?host={self.folder}"


@asynccontextmanager
async def served_postgresql() -> AsyncIterator[Server]:
    """Run a server with the schema in a temporary directory."""
    postgres, initdb = _programs()
    user = _unprivileged()
    with TemporaryDirectory(prefix="jobledger-bench-pg-") as path:
        folder = Path(path)
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        initialized = await asyncio.create_subprocess_exec(
            initdb,
            *("-D", str(data), "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale", "C", "--no-sync"),
            stdout=asyncio.subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )
        if await initialized.wait() != 0:
            raise RuntimeError("initdb failed; see its message above")
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        settings.append(f"--unix_socket_directories={folder}")
        with (folder / "log").open("wb") as log:
            async with running(
                postgres, "-D", str(data), *settings, stop=signal.SIGINT, user=user, cwd=folder, stderr=log
            ) as process:
                server = Server(folder, process)
                connection = await _first_connection(server)
                try:
                    await connection.execute(SCHEMA)
                finally:
                    await connection.close()
                yield server


async def _first_connection(server: Server) -> Any:
    asyncpg = library("asyncpg", "asyncpg")
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while True:
            if server.process.returncode is not None:
                raise RuntimeError((server.folder / "log").read_text())
            try:
                return await asyncpg.connect(server.dsn)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.02)


def connections(dsn: str) -> Any:
    """Return a pool that does not reset a connection after each use, which would cost a round trip."""

    async def keep(connection: Any) -> None:
        pass  # nothing here changes a setting of the session

    asyncpg = library("asyncpg", "asyncpg")
    return asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=keep)


class PostgreSQL:
    """The peer.

    Args:
        statements: 2, or 1.
    """

    missing_operations = frozenset[str]()

    def __init__(self, statements: int) -> None:
        self._statements = statements
        self.name = f"PostgreSQL, {'one statement' if statements == 1 else 'two statements'}"

    def check(self) -> None:
        """Look for the server and its client library."""
        check_server()
        self.name = f"PostgreSQL {version()}, {self.name.partition(', ')[2]}"

    @asynccontextmanager
    async def open(self, directory: Path) -> AsyncIterator[Store]:
        """Start it; the files are in a directory of its own, because the server has its own user."""
        assert directory.is_dir()
        async with (
            served_postgresql() as server,
            connections(server.dsn) as pool,
        ):
            kind = _AtOnce if self._statements == 1 else _InTransaction
            yield kind(self.name, server, pool)


class _Tables:
    """Both ways read alike."""

    def __init__(self, name: str, server: Server, pool: Any) -> None:
        self.name = name
        self._server = server
        self._pool = pool

    async def get(self, number: int) -> None:
        assert await self._pool.fetchrow(GET, job_key(number).job_id) is not None

    async def page(self, namespace: str) -> int:
        return len(await self._pool.fetch(PAGE, namespace))

    def forget(self) -> None:
        pass  # a command reads nothing before it writes

    async def settle(self) -> None:
        pass

    async def used_bytes(self) -> int:
        await self._pool.execute("CHECKPOINT")
        found: int = await self._pool.fetchval(
            "SELECT pg_total_relation_size('jobs') + pg_total_relation_size('history')"
        )
        return found

    def pids(self) -> list[int]:
        return [self._server.process.pid]


class _InTransaction(_Tables):
    async def create(self, number: int) -> None:
        job = new_job(number)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_INSERT_JOB, *job)
            await connection.execute(_INSERT_FIRST, job.job_id, ACTOR, REASON, job.spec)

    async def set_state(self, number: int, state: StateType) -> None:
        job_id = job_key(number).job_id
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(_UPDATE_JOB, job_id, str(state))
            await connection.execute(_INSERT_STATE, job_id, row["revision"], ACTOR, state_entry(state))


class _AtOnce(_Tables):
    async def create(self, number: int) -> None:
        assert await self._pool.fetchval(CREATE_AT_ONCE, *new_job(number), ACTOR, REASON)

    async def set_state(self, number: int, state: StateType) -> None:
        job_id = job_key(number).job_id
        assert await self._pool.fetchval(STATE_AT_ONCE, job_id, str(state), ACTOR, state_entry(state))
