"""A list's cursor: the place of the last job of a page, as opaque text. Pure.

It holds the sort key of that job, not an offset, so jobs that come, go or move elsewhere in the list shift
nothing. It holds no filter: the caller repeats those, as with Bacalhau's list token.
"""

import base64
import binascii
import enum
from typing import Annotated, Final, Literal

import msgspec

from jobledger.projections.errors import InvalidCursor
from jobledger.projections.limits import CURSOR_MAX_CHARACTERS
from jobledger.store.model.fold import Int64

_REMEDY: Final = "pass the one that the page before gave, as it is, or leave it out for the first page"


class Order(enum.StrEnum):
    """By what a list is sorted. Either order is total: `created_sequence` decides between equal times."""

    CREATED = "created"  # when the job was created; that never changes
    MODIFIED = "modified"  # when the job changed last; a job that changes moves to the end


class Position(msgspec.Struct, frozen=True):
    """Where a page ended.

    Attributes:
        time: Unix nanoseconds, the create or modify time of its last job.
        created_sequence: that job's key.
    """

    time: int
    created_sequence: int


class _Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is inside. `v` is there so that a later form can be told from this one."""

    v: Literal[1]
    order: Order
    descending: bool
    last: Int64
    created_sequence: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Cursor)


def encode_cursor(order: Order, position: Position, *, descending: bool) -> str:
    """The text for a place in a list of this order."""
    inside = _Cursor(1, order, descending, position.time, position.created_sequence)
    return base64.urlsafe_b64encode(_encoder.encode(inside)).rstrip(b"=").decode()


def decode_cursor(text: str, order: Order, *, descending: bool) -> Position:
    """The place that a cursor of a list of this order names.

    Raises:
        InvalidCursor: if `encode_cursor` did not write it, or wrote it for another order.
    """
    inside = _open(text)
    if inside.order != order or inside.descending != descending:
        raise InvalidCursor(
            f"the cursor belongs to a list in order {_name(inside.order, inside.descending)}, not"
            f" {_name(order, descending)}: keep the order, or leave the cursor out"
        )
    return Position(inside.last, inside.created_sequence)


def order_of_cursor(text: str) -> tuple[Order, bool]:
    """The order of the list that a cursor belongs to, and whether it is descending.

    Raises:
        InvalidCursor: if `encode_cursor` did not write it.
    """
    inside = _open(text)
    return inside.order, inside.descending


def _open(text: str) -> _Cursor:
    if len(text) > CURSOR_MAX_CHARACTERS:
        raise InvalidCursor(
            f"the cursor is {len(text)} characters; the limit is {CURSOR_MAX_CHARACTERS}: {_REMEDY}"
        )
    try:
        padded = text + "=" * (-len(text) % 4)
        return _decoder.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError, msgspec.MsgspecError):
        raise InvalidCursor(f"the cursor {text!r:.60} is not one of ours: {_REMEDY}") from None


def _name(order: Order, descending: bool) -> str:
    return f"{order} {'descending' if descending else 'ascending'}"
