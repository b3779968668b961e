"""The forms in which events are told: lines of JSON, and lines for people; `parquet` is the third."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from jobledger.service.export.output_file import Target

Line = Callable[[Mapping[str, Any]], str]


class Form(Protocol):
    """Writes documents to a target. Calls come from one thread at a time, which need not be the main one."""

    def write(self, documents: Sequence[bytes]) -> None:
        """Tell these."""
        ...

    def finish(self) -> None:
        """Write what is still to be written; the target is finished by whoever opened it."""
        ...


class Lines:
    """A document on each line, as it came; what would speak to a terminal is escaped, as JSON can."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def write(self, documents: Sequence[bytes]) -> None:
        """See `Form.write`."""
        if documents:
            self._target.write(b"\n".join([*map(_escaped, documents), b""]))

    def finish(self) -> None:
        """See `Form.finish`."""


def _escaped(document: bytes) -> bytes:
    """The same JSON without C1, bidi and other characters that are not printable: within texts only."""
    if document.isascii() and b"\x7f" not in document:  # JSON has no other raw control characters
        return document
    text = document.decode()
    if text.isprintable():
        return document
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()


class TextFormat:
    """A line for each event, made of its document.

    Args:
        target: where to.
        line: makes it.
        encoding: of the target; what it does not have is written as an escape.
    """

    def __init__(self, target: Target, line: Line, encoding: str = "utf-8") -> None:
        self._target = target
        self._line = line
        self._encoding = encoding

    def write(self, documents: Sequence[bytes]) -> None:
        """See `Form.write`."""
        text = "".join([f"{self._line(msgspec.json.decode(each))}\n" for each in documents])
        self._target.write(text.encode(self._encoding, "backslashreplace"))

    def finish(self) -> None:
        """See `Form.finish`."""
