"""Where a telling is written: standard output, or a file that others see when it is whole.

A regular file is written beside its name and takes the name at the end, so that nobody reads half of it and a
failure leaves the old one. What is no regular file (`/dev/stdout`, a named pipe) is written as it is.
"""

import errno
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from jobledger.service.errors import OutputFailed

_STANDARD_OUTPUT: Final = "standard output"


class OutputClosed(Exception):  # no error: `head` has read enough
    """Nobody reads what is written any more."""


class Target:
    """Bytes out; opened by `open_target`, ended by `finish` or `abandon`.

    Attributes:
        position: bytes written so far.
    """

    def __init__(self, handle: int, path: Path | None = None, temporary: Path | None = None) -> None:
        self.position = 0
        self._handle = handle
        self._path = path
        self._temporary = temporary

    def write(self, content: bytes) -> None:
        """Write all of it.

        Raises:
            ReaderGone: the other end of a pipe is closed.
            OutputFailed: it can't be written; what is at fault is named.
        """
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as error:
            raise self._failed(error) from error
        self.position += len(content)

    def finish(self) -> None:
        """All is written: a file takes its name.

        Raises:
            OutputFailed: it can't.
        """
        if self._path is None:
            return
        try:
            if self._temporary is not None:
                os.fsync(self._handle)
                self._temporary.replace(self._path)
            os.close(self._handle)
        except OSError as error:
            self.abandon()
            raise self._failed(error) from error

    def abandon(self) -> None:
        """It failed: a file that was begun is removed, and one that was there before stays."""
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        if self._path is not None:
            with suppress(OSError):
                os.close(self._handle)

    def _failed(self, error: OSError) -> OutputFailed:
        return _failed(self._path or _STANDARD_OUTPUT, error, kept=self._temporary is not None)


def open_target(path: Path | None) -> Target:
    """Begin to write.

    Args:
        path: of the file; None: standard output.

    Raises:
        OutputFailed: there can be no such file.
    """
    if path is None:
        sys.stdout.flush()
        return Target(sys.stdout.fileno())
    try:
        real = path.resolve()  # a link stays, and what it leads to is replaced
        if real.exists() and not stat.S_ISREG(real.stat().st_mode):
            return Target(os.open(real, os.O_WRONLY), path)
        handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        os.fchmod(handle, _mode(real))
    except OSError as error:
        raise _failed(path, error, kept=True) from error
    return Target(handle, real, Path(name))


def _mode(path: Path) -> int:
    """The mode of the file that is there, else that of a new one."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _failed(where: Path | str, error: OSError, *, kept: bool) -> OutputFailed:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space, or write somewhere else" if full else "name a file that you may write"
    state = "; nothing there was changed" if kept else ""
    return OutputFailed(f"can't write to {where}: {error.strerror or error}{state}; {advice}")
