"""The space on the disk of a path, and the messages for a full disk."""

import errno
import os
from pathlib import Path
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def free_bytes(path: Path) -> int:
    """Return the free space on the disk of a path, or of its nearest existing parent."""
    return _space(path)[0]


def is_full(error: OSError) -> bool:
    """Return whether an operation failed because the disk or our quota is full."""
    return error.errno in _FULL


def cause_of(error: OSError, path: Path) -> str:
    """Return why a file or directory can't be used, and what to do."""
    if is_full(error):
        return full_disk(path)
    return f"{error.strerror or error}; use a directory with write permission"


def full_disk(path: Path, needed_bytes: int = 0) -> str:
    """Return a message that the disk of a path is full, with its size and what to do."""
    free, size = _space(path)
    needed = f", and {_megabytes(needed_bytes)} are needed" if needed_bytes else ""
    return (
        f"the disk of {path} is full: {_megabytes(free)} of {_megabytes(size)} are free{needed}; free some"
        " space, or use a directory on another disk"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _space(path: Path) -> tuple[int, int]:
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
