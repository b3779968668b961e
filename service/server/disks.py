"""Free space of the file systems that a service writes to, observed without ever waiting for a hung one."""

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobledger.service.limits import (
    DISK_MIN_FREE_FRACTION,
    DISK_STOP_FREE_FRACTION,
    OBSERVE_TIMEOUT_SECONDS,
)


class DiskSpace(msgspec.Struct, frozen=True):
    """One file system.

    Attributes:
        path: a directory on it.
        free_bytes: that we may use.
        size_bytes: of all of it.
        holds_log: whether the embedded log is on it.
    """

    path: Path
    free_bytes: int
    size_bytes: int
    holds_log: bool = False

    def least(self, setting: int) -> int:
        """How much must be free for the service to be ready: the setting, or less on a small file system."""
        return min(setting, int(self.size_bytes * DISK_MIN_FREE_FRACTION))

    def stop(self, setting: int) -> int:
        """Below how much appends are refused: the setting, or less on a small file system."""
        return min(setting, int(self.size_bytes * DISK_STOP_FREE_FRACTION))


class Disks:
    """Looks at file systems, in a thread of its own.

    Args:
        paths: directories on them; a file system is looked at once.
        log: where the embedded log is; None without one.
    """

    def __init__(self, paths: Sequence[Path], log: Path | None = None) -> None:
        self._paths = ([log] if log is not None else []) + list(paths)
        self._log = log
        self._is_looking = False

    async def look(self) -> list[DiskSpace]:
        """The space of each.

        Raises:
            TimeoutError: if one does not answer within OBSERVE_TIMEOUT_SECONDS: a network mount hangs, say.
            OSError: if one can't be looked at.
        """
        if self._is_looking:
            raise TimeoutError  # the thread of an earlier look hangs; one is enough
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[DiskSpace]] = loop.create_future()

        def settle(spaces: list[DiskSpace] | OSError) -> None:
            self._is_looking = False
            if done.done():
                return
            if isinstance(spaces, OSError):
                done.set_exception(spaces)
            else:
                done.set_result(spaces)

        def look() -> None:
            try:
                answer: list[DiskSpace] | OSError = _spaces(self._paths, self._log)
            except OSError as error:
                answer = error
            try:
                loop.call_soon_threadsafe(settle, answer)
            except RuntimeError:  # the loop was closed meanwhile
                return

        # A daemon, not the loop's pool: at the end, that would be waited for.
        self._is_looking = True
        threading.Thread(target=look, name="jobledger-disks", daemon=True).start()
        async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
            return await done


def _spaces(paths: Sequence[Path], log: Path | None) -> list[DiskSpace]:
    spaces: dict[int, DiskSpace] = {}
    for path in paths:
        device = path.stat().st_dev
        if device not in spaces:
            found = os.statvfs(path)
            size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
            spaces[device] = DiskSpace(path, free, size, holds_log=path == log)
    return list(spaces.values())
