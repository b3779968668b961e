"""What is measured of a peer, and the means that all of them share: programs, libraries, CPU time."""

import asyncio
import importlib
import importlib.metadata
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol

from jobledger.store.model.job import StateType

PAGE_JOBS: Final = 50
PEERS_FILE: Final = "benchmarks/peers.txt"
START_TIMEOUT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02


class NotInstalled(Exception):
    """A program or library of a peer is missing; the message says how to install it."""


class Store(Protocol):
    """A store of jobs that is being measured. A write returns when it is on disk."""

    name: str

    async def create(self, number: int) -> None:
        """Store a new job and the first entry of its history; raises if the job exists."""

    async def set_state(self, number: int, state: StateType) -> None:
        """Change a job that is not terminal, and add an entry to its history."""

    async def get(self, number: int) -> None:
        """Read the current job, with its spec."""

    async def page(self, namespace: str) -> int:
        """Read the first `PAGE_JOBS` jobs of a namespace, with their specs; returns how many."""

    def forget(self) -> None:
        """Empty the cache of the client, as after a restart."""

    async def settle(self) -> None:
        """Wait until what was written can be read."""

    async def used_bytes(self) -> int:
        """Return the bytes on disk that hold the jobs and their history."""

    def pids(self) -> Sequence[int]:
        """Return the server processes; their descendants count as well."""


class Peer(Protocol):
    """One way to store jobs with other software.

    Attributes:
        name: printed.
        missing_operations: what the software does not offer.
    """

    name: str
    missing_operations: frozenset[str]

    def check(self) -> None:
        """Raise `NotInstalled` if something is missing."""

    def open(self, directory: Path) -> AbstractAsyncContextManager[Store]:
        """Start it on an empty directory."""


def library(module: str, package: str) -> Any:
    """Import an optional library.

    Raises:
        NotInstalled: if it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalled(
            f"the Python package {package} is not installed: make peers, or pip install -r {PEERS_FILE}"
        ) from error


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    return importlib.metadata.version(package)


def program(name: str, folders: Iterable[Path], install: str) -> str:
    """Return the path of a program: on the PATH, or in the last of the folders that has it.

    Raises:
        NotInstalled: if it is missing.
    """
    found = shutil.which(name) or next(
        (str(folder / name) for folder in sorted(folders, reverse=True) if (folder / name).is_file()), None
    )
    if found is None:
        raise NotInstalled(f"the program {name} is not installed: {install}")
    return found


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(
    *command: str,
    stop: int,
    user: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stderr: IO[bytes] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server; at the end it gets the signal `stop`, and is killed if it does not exit."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        user=user,
        env=env,
        cwd=cwd,
        stderr=stderr,
        start_new_session=True,  # Ctrl-C is for the benchmark, which stops its servers itself
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(stop)
            try:
                await asyncio.wait_for(process.wait(), START_TIMEOUT_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def until_listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until a server accepts connections."""
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"a server exited with {process.returncode}; see its message above")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                writer.close()
                return


def cpu_seconds(pids: Iterable[int], *, own: bool = True) -> float:
    """Return the CPU time so far of these processes and all their running descendants.

    Args:
        pids: of servers.
        own: whether the time of this process, the client, counts as well.
    """
    children = dict[int, list[int]]()
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue  # it has just ended
            children.setdefault(parent, []).append(int(each.name))
    waiting = [*pids]
    total = _own_seconds(os.getpid()) if own else 0.0
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        total += _own_seconds(pid)
    return total


def _own_seconds(pid: int) -> float:
    """The time of all threads, with the resolution of the scheduler instead of 10 ms."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            nanoseconds += int(thread.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue  # the thread has just ended
    return nanoseconds / 1e9


def bytes_in(directory: Path) -> int:
    """Return the bytes of all files below a directory, each counted once however many links it has."""
    seen = dict[int, int]()
    for path in directory.rglob("*"):
        try:
            found = path.lstat()
        except OSError:
            continue  # removed in the meantime
        if path.is_file() and not path.is_symlink():
            seen[found.st_ino] = found.st_size
    return sum(seen.values())
