"""The file of seals: a copy in the service's own hands, which whoever has the log's server can't change.

Notes, one after the other, each followed by an empty line: to be read, copied and mailed as it is.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jobledger.projections.errors import ProofError
from jobledger.service.audit.checkpoint import Seal, read_seal
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SEALS_FILE_TAIL_BYTES

_SIGNATURE: Final = "\N{EM DASH} "


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
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - SEALS_FILE_TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("can't be read", error) from error
        for note in reversed([*split_notes(text)]):
            try:
                seal = read_seal(note)
            except ProofError:  # a line that was written by half, or by somebody else
                continue
            if seal.origin == origin:
                return seal
        return None

    def add(self, seal: Seal) -> None:
        """Add a seal, and have it on disk.

        Raises:
            InvalidSettings: if the file can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, 0o644), "r+b") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 2))
                # A crash may have left half a note: what comes must not be taken for the rest of it, nor half
                # a signature for a whole one, which never ends with a space.
                start = b" \n\n" if end and file.read(2) != b"\n\n" else b""
                file.write(start + seal.note.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _failed(self, what: str, error: OSError) -> InvalidSettings:
        return InvalidSettings(
            f"the file of seals {self.path} {what}: {error.strerror or type(error).__name__}"
        )
