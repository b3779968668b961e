"""Files that hold secrets or rights: read with a bound, trusted by owner, replaced as a whole."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SECRET_FILE_MAX_BYTES, TOKENS_FILE_MAX_BYTES

FileMark = tuple[int, int, int, int, int]
"""What changes when a file does: device, inode, size, times of content and of anything; the last in ns."""


def file_mark(path: Path) -> FileMark | None:
    """The mark of a file; None if it is not there.

    Raises:
        OSError: if that can't be told.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  # on the path of every request: quicker than `Path.stat`
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_trusted(path: Path, *, secret: bool = False) -> bytes:
    """The content of a file that nobody else may have put there or may change.

    Its owner must be us, root, or whoever owns the folder (and so could replace it anyway); a link's too.

    Args:
        path: of the file.
        secret: whether nobody else may read it either.

    Raises:
        ValueError: what is wrong, to be read after the path.
        OSError: if it can't be read.
    """
    owners = {0, os.geteuid(), path.parent.stat().st_uid}
    # A pipe without a writer would hold us up for ever if it were not for O_NONBLOCK.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        target = os.fstat(handle)
        if not stat.S_ISREG(target.st_mode):
            raise ValueError("is no regular file")
        for found in (path.lstat(), target):
            if found.st_uid not in owners:
                raise ValueError(f"belongs to user {found.st_uid}, who is not trusted with it: chown it")
        if target.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(
                f"may be written by others (mode {stat.S_IMODE(target.st_mode):o}): chmod 600 it"
            )
        if secret and target.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"may be read by others (mode {stat.S_IMODE(target.st_mode):o}): chmod 600 it")
        return _bounded(file, TOKENS_FILE_MAX_BYTES)


def _bounded(file: IO[bytes], max_bytes: int) -> bytes:
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"has more than {max_bytes} bytes")
    return content


def read_secret(path: Path, setting: str) -> bytes:
    """The content of a small file that a setting names.

    Args:
        path: of the file.
        setting: what names it, for the message.

    Raises:
        InvalidSettings: if it can't be read, is empty or too large; the content is never in the message.
    """
    try:
        with path.open("rb") as file:
            content = _bounded(file, SECRET_FILE_MAX_BYTES)
    except OSError as error:
        raise InvalidSettings(f"{setting} {path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidSettings(f"{setting} {path} {error}") from None
    if not content.strip():
        raise InvalidSettings(f"{setting} {path} is empty")
    return content


def exposed(path: Path, setting: str) -> str:
    """A warning if any user of this machine may read a secret file; empty if not, or if it can't be told."""
    with suppress(OSError):
        mode = path.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            return f"{setting} {path} can be read by every user of this machine: chmod 600 it"
    return ""


def replace_file(path: Path, write: Callable[[], bytes]) -> None:
    """Change a file as a whole: others see the old content or the new, also after a power loss.

    Args:
        path: of the file, or of one to make; its folder is made if missing.
        write: makes the new content, while nobody else changes the file.

    Raises:
        OSError: if it can't be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path):
        content = write()
        if len(content) > TOKENS_FILE_MAX_BYTES:
            raise OSError(errno.EFBIG, f"it would have more than {TOKENS_FILE_MAX_BYTES} bytes")
        if path.is_symlink():  # the link would be replaced, and the file behind it left as it is
            raise OSError(errno.ELOOP, "it is a symbolic link; name the file itself")
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                _keep_owner(path, file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _keep_owner(path: Path, handle: int) -> None:
    """As root: the service, which runs as another user, shall be able to read what root changes for it."""
    if os.geteuid() != 0:
        return
    try:
        kept = path.stat()
    except FileNotFoundError:
        kept = path.parent.stat()
    os.fchown(handle, kept.st_uid, kept.st_gid)


class _locked:  # noqa: N801  # reads as a word
    """The lock of a file, beside it: the file itself is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.lock")
        self._handle = -1

    def __enter__(self) -> None:
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
