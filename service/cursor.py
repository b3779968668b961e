"""Cursors: positions in the stream as text, shared by feed, lists, histories and command line. Pure.

Also the `source` and the `sequence` of a delivered CloudEvent.
"""

import re
from typing import Final

from jobledger.service.errors import CursorGone
from jobledger.store.log import stream_tag
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import SOURCE
from jobledger.store.model.limits import INT_MAX

__all__ = [
    "default_source",
    "format_cursor",
    "format_sequence",
    "parse_cursor",
    "read_sequence",
    "stream_tag",
]

_CURSOR: Final = re.compile(r"(?:([0-9a-f]{12})-)?([0-9]{1,19})", re.ASCII)


# The CloudEvents extension `sequence` is a string that sorts like the position; this fits any.
_SEQUENCE_DIGITS: Final = 20


def default_source(stream_tag: str) -> str:
    """Return the CloudEvents `source` of delivered events, unless the setting `event_source` is set.

    Args:
        stream_tag: the tag of the stream, which distinguishes installations.
    """
    return f"{SOURCE}/{stream_tag}"


def format_sequence(sequence: int) -> str:
    """Return the CloudEvents extension `sequence`: zero-padded, so that strings sort like numbers."""
    return f"{sequence:0{_SEQUENCE_DIGITS}}"


def read_sequence(value: object) -> int | None:
    """Parse the `sequence` of a delivered event: a string, or a number from an older release; else None."""
    if isinstance(value, str) and len(value) <= _SEQUENCE_DIGITS and value.isascii() and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def format_cursor(stream_tag: str, sequence: int) -> str:
    """Return the cursor after an event.

    Args:
        stream_tag: the tag of the stream.
        sequence: of the event; 0 for the beginning.
    """
    return f"{stream_tag}-{sequence}"


def parse_cursor(text: str, stream_tag: str, *, field: str = "after") -> int:
    """Parse a cursor, or a bare sequence of the current stream.

    Args:
        text: to parse.
        stream_tag: the tag of the current stream.
        field: the name in errors.

    Raises:
        InvalidInput: it is neither.
        CursorGone: it belongs to another stream.
    """
    found = _CURSOR.fullmatch(text)
    if found is None or int(found[2]) > INT_MAX:
        raise InvalidInput(
            f"invalid {field} {text!r:.60}: use a cursor from a response, a sequence, or 0 for the beginning"
        )
    if found[1] is not None and found[1] != stream_tag:
        raise CursorGone(
            f"{field} {text} belongs to another stream (this one is {stream_tag}): the log was created again,"
            " or this is another installation; start over with after=0, or omit it to start from now"
        )
    return int(found[2])
