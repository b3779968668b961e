"""Batch staging in memory: the `batches` folder of a stream is a link to a directory on a tmpfs.

nats-server writes the members of an atomic batch into a file store of its own, `<stream>/batches/<hash>`,
syncs it, copies the members into the stream, syncs that, acknowledges the batch, and deletes the store
(`server/jetstream_batching.go`, `server/stream.go`, 2.15.1). On a tmpfs the first half costs no disk access.
Nothing acknowledged depends on a staged batch: docs/decisions/0020.

    open ──► reset ──► start of the server, which deletes the link ──► link, until it remains ──► close
               ▲                                                             │ every second: `check`
               └──────────────────── the server ended ◄──────────────────────┘

- `reset` discards what a server that was killed had staged, on disk too: nats-server would complete a batch
  from it that was partly in the stream, after a torn record was removed, and the start could not be proven.
- The link that `reset` leaves shows when the server has opened the stream: that deletes it.
- The directory is locked by this process and by nats-server. One without a lock was left by a crash; the next
  start of any service of this user removes it.
- A folder in which a batch is being staged on disk is replaced between two batches. `check` looks for that
  moment for LINK_SECONDS, and less often while it does not find it.
- Without a tmpfs with STAGING_MIN_FREE_BYTES, batches are staged on disk; `problem` has the reason.
"""

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from jobledger.store.backoff import Backoff
from jobledger.store.model.limits import STAGING_MIN_FREE_BYTES, STAGING_STOP_FREE_BYTES
from jobledger.store.private_files import FOLDER_MODE

BATCHES_FOLDER: Final = "batches"  # nats-server's own name
STAGING_PREFIX: Final = "jobledger-staging-"
META_FILE: Final = "meta.inf"
CREATE_ATTEMPTS: Final = 3
LINK_SECONDS: Final = 0.2  # to find a moment between two batches that are staged on disk
LINK_RETRY_SECONDS: Final = 1.0  # until it is looked for again; doubles up to the next line
LINK_RETRY_MAX_SECONDS: Final = 30.0
LINK_FAILURES_REPORTED: Final = 3  # in a row; then it is reported
_LINK_POLL_SECONDS: Final = 2e-4
_TRIAL: Final = ".trial"
_TMPFS_MAGIC: Final = 0x01021994  # statfs(2)
_STATFS_BYTES: Final = 512  # more than any platform's struct statfs

_log = logging.getLogger("jobledger.store")


class _Config(msgspec.Struct, frozen=True):
    """The part of a stream's `meta.inf` that decides whether its batches are staged in files."""

    allow_atomic: bool = False
    num_replicas: int = 1
    storage: str = "file"


def default_roots() -> tuple[Path, ...]:
    """Returns where a staging directory may be created, in order of preference."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return (*((Path(runtime),) if runtime.startswith("/") else ()), Path("/dev/shm"))  # noqa: S108


class Staging:
    """The staging directory of one embedded server; the caller holds the lock on the server's directory.

    Args:
        store: nats-server's `store_dir`.
        in_memory: False stages on disk, as nats-server does by itself.

    Attributes:
        problem: why batches are staged on disk although memory was asked for; empty if they are not.
    """

    def __init__(self, store: Path, *, in_memory: bool = True) -> None:
        self._store = store
        self._in_memory = in_memory
        self._folder: Path | None = None
        self._lock = -1  # of the folder
        self._changing = threading.Lock()  # a restart and the supervision may overlap
        self._unlinked = Backoff(LINK_RETRY_SECONDS, LINK_RETRY_MAX_SECONDS)
        self._search_at = float("-inf")  # when to look for a moment to link again
        self.problem = ""

    @property
    def folder(self) -> Path | None:
        """The directory on the tmpfs; None while batches are staged on disk."""
        return self._folder

    @property
    def handles(self) -> tuple[int, ...]:
        """The handle that locks the directory, for nats-server to inherit."""
        return (self._lock,) if self._lock >= 0 else ()

    def reset(self) -> None:
        """Discards everything staged, before a start of the server; creates the directory if it can.

        Raises:
            OSError: a staged batch cannot be removed.
        """
        with self._changing:
            for stream in self._streams():
                batches = stream / BATCHES_FOLDER
                if batches.is_symlink():
                    batches.unlink()
                elif batches.is_dir():
                    shutil.rmtree(batches)
            self._discard()
            self._create()
            self._link()

    def link(self) -> None:
        """Links every stream that has no link: a new one, and one that the server has just opened."""
        with self._changing:
            self._link()

    def check(self) -> None:
        """Moves the staging to disk if the tmpfs cannot be used any more, and back when it can.

        Raises:
            OSError: the streams cannot be listed.
        """
        with self._changing:
            if self._folder is not None:
                reason = self._unusable(self._folder)
                if reason:
                    # A batch that is being staged is refused, and its events are then sent one by one.
                    self._unlink()
                    self._discard()
                    self._report(reason)
            if self._folder is None:
                self._create()
            self._search()

    def close(self) -> None:
        """Removes the links and the directory; the server has ended."""
        with self._changing:
            self._unlink()
            self._discard()

    def _search(self) -> None:
        """Links every stream; looks for a moment between two batches, unless that failed a moment ago."""
        began = time.monotonic()
        until = began + LINK_SECONDS if began >= self._search_at else began
        while (left := self._link()) and time.monotonic() < until:
            time.sleep(_LINK_POLL_SECONDS)
        if left is None:
            self._search_at = float("-inf")
            if self._unlinked.attempts >= LINK_FAILURES_REPORTED:
                self._report_in_memory()
            self._unlinked.reset()
            return
        if until > began:
            self._search_at = time.monotonic() + self._unlinked.next_seconds()
        if self._unlinked.attempts >= LINK_FAILURES_REPORTED:
            self._report(f"a batch keeps {left}")

    def _link(self) -> Path | None:
        """Returns a folder that could not be replaced by a link; None if there is none."""
        left: Path | None = None
        if self._folder is None:
            return left
        for stream in self._streams():
            batches = stream / BATCHES_FOLDER
            if batches.is_symlink() or not _is_staged_in_files(stream):
                continue
            try:
                if batches.exists():
                    batches.rmdir()  # fails while a batch is staged there
                target = self._folder / stream.name
                target.mkdir(exist_ok=True, mode=FOLDER_MODE)
                batches.symlink_to(target)
            except OSError:
                left = batches
        return left

    def _create(self) -> None:
        if not self._in_memory:
            return
        reasons: list[str] = []
        for root in default_roots():
            try:
                reason = _unfit(root)
                if reason:
                    reasons.append(f"{root} {reason}")
                    continue
                _remove_abandoned(root)
                self._folder, self._lock = _create_locked(root)
            except OSError as error:
                reasons.append(f"{root} cannot be used: {error.strerror or error}")
                continue
            self._report_in_memory()
            return
        self._report("; ".join(reasons))

    def _report_in_memory(self) -> None:
        if self.problem:
            _log.warning("batches are staged in memory again, in %s", self._folder)
        self.problem = ""

    def _report(self, reason: str) -> None:
        problem = f"batches are staged on disk, which is slower: {reason}"
        if problem != self.problem:
            _log.warning("%s", problem)
        self.problem = problem

    def _unusable(self, folder: Path) -> str:
        """Why the directory cannot be used any more; empty if it can."""
        try:
            if not os.path.samestat(folder.lstat(), os.fstat(self._lock)):
                return f"{folder} was replaced"
            free = _free_bytes(folder)
            if free < STAGING_STOP_FREE_BYTES:
                return f"{folder} has {free} bytes free, less than {STAGING_STOP_FREE_BYTES}"
            for target in (folder / stream.name for stream in self._streams() if _is_linked(stream)):
                target.mkdir(exist_ok=True, mode=FOLDER_MODE)
            (folder / _TRIAL).mkdir()
            (folder / _TRIAL).rmdir()
        except OSError as error:
            return f"{folder} cannot be used: {error.strerror or error}"
        return ""

    def _unlink(self) -> None:
        for stream in self._streams():
            with suppress(OSError):
                if _is_linked(stream):
                    (stream / BATCHES_FOLDER).unlink()

    def _discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _streams(self) -> Sequence[Path]:
        return [
            path
            for account in _content(self._store)
            for path in _content(account / "streams")
            if path.is_dir()
        ]


def _content(folder: Path) -> Sequence[Path]:
    """The sorted content of a directory; empty if nats-server has removed it, as it does while it starts."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()


def is_tmpfs(path: Path) -> bool:
    """Whether a path is on a tmpfs. Linux only."""
    if sys.platform != "linux":
        return False
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None).statfs(os.fsencode(path), found) != 0:
        return False
    return ctypes.c_long.from_buffer(found).value == _TMPFS_MAGIC  # `f_type` is the first field


def _unfit(root: Path) -> str:
    """Why no staging directory is created below a directory; empty if one can be."""
    if not root.is_dir():
        return "does not exist"
    if not is_tmpfs(root):
        return "is not a tmpfs"
    found = root.stat()
    is_shared = found.st_uid == 0 and (found.st_mode & stat.S_ISVTX or not found.st_mode & 0o022)
    if found.st_uid != os.geteuid() and not is_shared:
        return f"belongs to user {found.st_uid}"
    free = _free_bytes(root)
    if free < STAGING_MIN_FREE_BYTES:
        return f"has {free} bytes free, less than {STAGING_MIN_FREE_BYTES}"
    return ""


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize if found.f_blocks else sys.maxsize  # 0: mounted without a limit


def _create_locked(root: Path) -> tuple[Path, int]:
    """Creates a private directory and locks it."""
    for _ in range(CREATE_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=root))  # mode 0700
        handle = _try_lock(folder)
        if handle >= 0:
            return folder, handle
    raise OSError(errno.EBUSY, "other starts remove each new directory")


def _try_lock(folder: Path) -> int:
    """Locks a directory; returns the handle, or -1 if another process has the lock, or it is gone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(folder.lstat(), os.fstat(handle)):
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    return -1


def _remove_abandoned(root: Path) -> None:
    """Removes the directories of this user's servers that have ended."""
    for folder in root.glob(f"{STAGING_PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            handle = _try_lock(folder)
            if handle >= 0:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _is_linked(stream: Path) -> bool:
    return (stream / BATCHES_FOLDER).is_symlink()


def _is_staged_in_files(stream: Path) -> bool:
    """Whether the server stages the batches of a stream in files: with several replicas it does in memory."""
    with suppress(OSError, msgspec.DecodeError):
        config = msgspec.json.decode((stream / META_FILE).read_bytes(), type=_Config)
        return config.allow_atomic and config.num_replicas == 1 and config.storage == "file"
    return False
