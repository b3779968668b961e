"""A position in the stream as text: the cursor that feed, lists, histories and command line share. Pure."""

import re
from typing import Final

from jobledger.service.errors import CursorGone
from jobledger.store.errors import InvalidInput
from jobledger.store.log import epoch_mark
from jobledger.store.values import INT_MAX

__all__ = ["epoch_mark", "format_cursor", "parse_cursor"]

_CURSOR: Final = re.compile(r"(?:([0-9a-f]{12})-)?([0-9]{1,19})", re.ASCII)


def format_cursor(mark: str, sequence: int) -> str:
    """The cursor behind an event of the stream.

    Args:
        mark: of the stream, from `epoch_mark`.
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
