"""The output of an export: standard output, or a file that appears when it is complete.

A regular file is written under a temporary name and renamed at the end, so that no reader sees a part of it
and a failure keeps the previous file. Other files (`/dev/stdout`, a named pipe) are written directly.
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


class OutputClosed(Exception):  # not an error: `head` has read enough
    """The reader closed the output."""


class OutputFile:
    """An output for bytes; opened by `open_output`, ended by `finish` or `abandon`.

    Attributes:
        position: bytes written so far.
    """

    def __init__(self, handle: int, path: Path | None = None, temporary: Path | None = None) -> None:
        self.position = 0
        self._handle = handle
        self._path = path
        self._temporary = temporary

    def write(self, content: bytes) -> None:
        """Write all bytes.

        Raises:
            OutputClosed: the other end of a pipe is closed.
            OutputFailed: the output cannot be written.
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
        """Close the output; a file gets its final name.

        Raises:
            OutputFailed: the file cannot be written or renamed.
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
        """Remove an incomplete file; a previous file stays."""
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        if self._path is not None:
            with suppress(OSError):
                os.close(self._handle)

    def _failed(self, error: OSError) -> OutputFailed:
        return _failed(self._path or _STANDARD_OUTPUT, error, kept=self._temporary is not None)


def open_output(path: Path | None) -> OutputFile:
    """Open an output.

    Args:
        path: of the file; None: standard output.

    Raises:
        OutputFailed: the file cannot be created.
    """
    if path is None:
        sys.stdout.flush()
        return OutputFile(sys.stdout.fileno())
    try:
        real = path.resolve()  # a link stays; its target is replaced
        if real.exists() and not stat.S_ISREG(real.stat().st_mode):
            return OutputFile(os.open(real, os.O_WRONLY), path)
        handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        os.fchmod(handle, _mode(real))
    except OSError as error:
        raise _failed(path, error, kept=True) from error
    return OutputFile(handle, real, Path(name))


def _mode(path: Path) -> int:
    """The mode of the existing file, else that of a new one."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _failed(where: Path | str, error: OSError, *, kept: bool) -> OutputFailed:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space, or write to another place" if full else "choose a file that you may write"
    state = "; nothing there was changed" if kept else ""
    return OutputFailed(f"can't write to {where}: {error.strerror or error}{state}; {advice}")
