"""The file of seals: a copy in the service's own hands, which whoever has the log's server can't change.

Notes, one after the other, each followed by an empty line: to be read, copied and mailed as it is.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from jobledger.projections.errors import ProofError
from jobledger.service.audit.checkpoint import Seal, read_seal
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SEALS_FILE_TAIL_BYTES
from jobledger.store.private_files import FILE_MODE, tighten

_SIGNATURE: Final = "\N{EM DASH} "
_NOTE_END: Final = re.compile(
    rb"^\xe2\x80\x94 [^\n]*\n\n", re.MULTILINE
)  # the last signature, and its empty line


def split_notes(text: str) -> Iterator[str]:
    """The notes of a text with several, one after the other; what is none is passed over.

    A note is lines that are not empty, an empty one, and lines of signatures. The text is gone through once,
    line by line: who can write to the file must not hold up the service with it.
    """
    above: list[str] = []  # lines since the last empty one
    body: list[str] = []  # such lines, with an empty one behind them
    signatures: list[str] = []
    for line in io.StringIO(text, newline="\n"):
        if body and line.startswith(_SIGNATURE) and line.endswith("\n"):
            signatures.append(line)
            continue
        if signatures:
            yield "".join((*body, "\n", *signatures))
            above, signatures = [], []
        if line == "\n":
            body, above = above, []
        else:
            body = []
            above.append(line)
    if signatures:
        yield "".join((*body, "\n", *signatures))


class SealFile:
    """A file that seals are added to; it is made when the first one comes.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def last(self, origin: str) -> Seal | None:
        """The last whole seal of this origin; None if there is none.

        Raises:
            InvalidSettings: if the file can't be read.
        """
        return self.newest().get(origin)

    def newest(self) -> dict[str, Seal]:
        """The last whole seal of each origin in the newest SEALS_FILE_TAIL_BYTES of the file.

        Raises:
            InvalidSettings: if the file can't be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - SEALS_FILE_TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._failed("can't be read", error) from error
        found: dict[str, Seal] = {}
        for note in split_notes(text):
            try:
                seal = read_seal(note)
            except ProofError:  # a line that was written by half, or by somebody else
                continue
            found[seal.origin] = seal
        return found

    def add(self, seal: Seal) -> None:
        """Add a seal, and have it on disk.

        Raises:
            InvalidSettings: if the file can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, FILE_MODE), "r+b") as file:
                tighten(self.path)  # older releases made it readable for all
                file.write(_mend_end(file, seal.origin) + seal.note.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _failed(self, what: str, error: OSError) -> InvalidSettings:
        return InvalidSettings(
            f"the file of seals {self.path} {what}: {error.strerror or type(error).__name__}"
        )


def _mend_end(file: BinaryIO, origin: str) -> bytes:
    """Make an end behind which a note can be written: what to write before it.

    A crash may have left half a note there. It is cut off: the stream of seals has all of it. What somebody
    else put there stays, apart from what comes.
    """
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - SEALS_FILE_TAIL_BYTES))
    tail = file.read()
    end = max((found.end() for found in _NOTE_END.finditer(tail)), default=0)
    rest = tail[end:].rstrip(b"\0")  # after a loss of power, zeros may stand for what was not written
    ours = f"{origin}\n".encode()
    if (end or not start) and (rest.startswith(ours) or ours.startswith(rest)):
        is_whole = _is_note(rest)  # its empty line alone is missing
        file.truncate(start + end + (len(rest) if is_whole else 0))
        file.seek(0, os.SEEK_END)
        return b"\n" if is_whole else b""
    # Else what comes must not be taken for the rest of it, nor half a signature for a whole one, which never
    # ends with a space.
    return b" \n\n" if tail and not tail.endswith(b"\n\n") else b""


def _is_note(text: bytes) -> bool:
    try:
        read_seal(text)
    except ProofError:
        return False
    return True
