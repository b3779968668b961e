"""Writes events as lines of JSON or as lines for people; `parquet` has the third format."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from jobledger.service.export.output_file import OutputFile

LineFormatter = Callable[[Mapping[str, Any]], str]


class EventFormat(Protocol):
    """Writes documents to an output. Calls come from one thread at a time, not always the same one."""

    def write(self, documents: Sequence[bytes]) -> None:
        """Write these documents."""
        ...

    def finish(self) -> None:
        """Write what is buffered; the caller closes the output."""
        ...


class JSONLines:
    """One document per line, unchanged but for control characters, which are escaped."""

    def __init__(self, output: OutputFile) -> None:
        self._output = output

    def write(self, documents: Sequence[bytes]) -> None:
        """See `EventFormat.write`."""
        if documents:
            self._output.write(b"\n".join([*map(_escape, documents), b""]))

    def finish(self) -> None:
        """See `EventFormat.finish`."""


def _escape(document: bytes) -> bytes:
    """Escape C1, bidi and other characters that are not printable; they occur within strings only."""
    if document.isascii() and b"\x7f" not in document:  # JSON has no other raw control characters
        return document
    text = document.decode()
    if text.isprintable():
        return document
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()


class TextFormat:
    """One line per event.

    Args:
        output: where to write.
        format_line: makes the line from the document.
        encoding: of the output; characters that it lacks are escaped.
    """

    def __init__(self, output: OutputFile, format_line: LineFormatter, encoding: str = "utf-8") -> None:
        self._output = output
        self._format_line = format_line
        self._encoding = encoding

    def write(self, documents: Sequence[bytes]) -> None:
        """See `EventFormat.write`."""
        text = "".join([f"{self._format_line(msgspec.json.decode(each))}\n" for each in documents])
        self._output.write(text.encode(self._encoding, "backslashreplace"))

    def finish(self) -> None:
        """See `EventFormat.finish`."""
