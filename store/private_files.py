"""Files and folders that only their owner can read, whatever the umask and the owner of the folder.

A umask protects only files that this process creates while it is set. SQLite gives `-wal` and `-shm` the mode
of the main file, and a file that exists keeps the mode it has, so both are set explicitly here.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Literal, overload

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077


def make_private(path: Path) -> None:
    """Create an empty file with mode 0600, or remove the rights of others from the one that exists.

    Raises:
        OSError: if it can't be created.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    tighten(path)


@overload
def open_private(path: Path, mode: Literal["ab", "wb"]) -> IO[bytes]: ...
@overload
def open_private(path: Path, mode: Literal["a+"]) -> IO[str]: ...
def open_private(path: Path, mode: Literal["a+", "ab", "wb"]) -> IO[str] | IO[bytes]:
    """Open a Jobledger file to append to it, or to replace its content, created with mode 0600.

    Raises:
        OSError: if it can't be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, FILE_MODE)

    file: IO[str] | IO[bytes] = open(path, mode, opener=opener)  # noqa: SIM115 - `Path.open` takes no opener
    tighten(path)
    return file


def tighten(path: Path) -> None:
    """Remove the rights of group and others from a Jobledger file or folder, if it is there."""
    with suppress(OSError):  # another user's file can't be changed; `exposure` reports the folder
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def tighten_all(paths: Iterable[Path]) -> None:
    """`tighten` each of these, and everything below those that are folders."""
    for path in paths:
        tighten(path)
        if path.is_dir() and not path.is_symlink():
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    tighten(Path(folder, name))


def exposure(folder: Path) -> str:
    """A warning if others can enter a folder, or own it; empty if not, or if that can't be found out."""
    try:
        found = folder.stat()
    except OSError:
        return ""
    if found.st_uid not in (os.geteuid(), 0):
        return f"the directory {folder} belongs to user {found.st_uid}, who can replace every file in it"
    if found.st_mode & _OTHERS:
        return (
            f"the directory {folder} is open to other users (mode {stat.S_IMODE(found.st_mode):o}):"
            f" `chmod 700 {folder}`"
        )
    return ""
