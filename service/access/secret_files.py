"""Secret files named by settings: read with a size limit, never quoted in a message."""

import stat
from contextlib import suppress
from pathlib import Path

from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SECRET_FILE_MAX_BYTES
from jobledger.store.private_files import read_bounded


def read_secret(path: Path, setting: str) -> bytes:
    """Read a small file that a setting names.

    Raises:
        InvalidSettings: if it can't be read, is empty or too large; the content is never in the message.
    """
    try:
        with path.open("rb") as file:
            content = read_bounded(file, SECRET_FILE_MAX_BYTES)
    except OSError as error:
        raise InvalidSettings(f"{setting} {path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidSettings(f"{setting} {path} {error}") from None
    if not content.strip():
        raise InvalidSettings(f"{setting} {path} is empty")
    return content


def exposed(path: Path, setting: str) -> str:
    """Return a warning if every user of this machine can read a secret file; empty if not, or if unknown."""
    with suppress(OSError):
        mode = path.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            return f"{setting} {path} can be read by every user of this machine: chmod 600 it"
    return ""
