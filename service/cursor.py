"""A position in the stream as text: the cursor that feed, lists, histories and command line share. Pure.

Here, too: how a delivered CloudEvent names the installation (`source`) and its place (`sequence`).
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


# The CloudEvents extension `sequence` is a string that sorts like the position: so many digits hold any.
_SEQUENCE_DIGITS: Final = 20


def default_source(mark: str) -> str:
    """The CloudEvents `source` of delivered events, unless the setting `event_source` names one.

    Args:
        mark: of the stream, so that events of two installations can be told apart.
    """
    return f"{SOURCE}/{mark}"


def format_sequence(sequence: int) -> str:
    """The CloudEvents extension `sequence`: decimal, padded with zeros, so that strings sort like numbers."""
    return f"{sequence:0{_SEQUENCE_DIGITS}}"


def read_sequence(value: object) -> int | None:
    """The position in a delivered event, as this release writes it (text) or earlier ones did (a number).

    None if it is neither.
    """
    if isinstance(value, str) and len(value) <= _SEQUENCE_DIGITS and value.isascii() and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def format_cursor(mark: str, sequence: int) -> str:
    """The cursor behind an event of the stream.

    Args:
        mark: of the stream, from `stream_tag`.
        sequence: the last event that was seen; 0 for the beginning.
    """
    return f"{mark}-{sequence}"


def parse_cursor(text: str, mark: str, *, field: str = "after") -> int:
    """The sequence that a cursor names; a bare sequence is taken as one of the present stream.

    Args:
        text: a cursor, or a number from 0.
        mark: of the present stream.
        field: what to call it in the error.

    Raises:
        InvalidInput: if it is neither.
        CursorGone: if it belongs to another stream.
    """
    found = _CURSOR.fullmatch(text)
    if found is None or int(found[2]) > INT_MAX:
        raise InvalidInput(
            f"{field} {text!r:.60} is no position; pass a cursor as it was given, a sequence, or 0 for the"
            " beginning"
        )
    if found[1] is not None and found[1] != mark:
        raise CursorGone(
            f"{field} {text} belongs to another stream (this one is {mark}): the log was made again, or this"
            " is another installation; begin anew with after=0, or from now without it"
        )
    return int(found[2])
