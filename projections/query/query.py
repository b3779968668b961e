"""What a list may ask: one checked, frozen value. Pure; `plan` makes SQL of it."""

import base64
import binascii
import enum
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from jobledger.projections.errors import InvalidCursor
from jobledger.projections.limits import CURSOR_MAX_CHARACTERS, LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.projections.query.selectors import Requirement, check_requirements
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.fold import Int64
from jobledger.store.model.job import StateType
from jobledger.store.model.limits import INT_MAX, INT_MIN
from jobledger.store.spec.spec import JOB_TYPES
from jobledger.store.spec.values import is_utf8

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


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list of jobs. All conditions must hold; an empty tuple or None asks nothing.

    In the order `created`, jobs that exist when the first page is read are each seen once, whatever is
    written meanwhile. In the order `modified`, a job that changes moves to the end: ascending, it may be
    seen again but is never lost; descending, it may be missed, since it jumps to the pages that were read.
    A job that stops or begins to match meanwhile is judged as it is when its page is read.

    Attributes:
        namespace: only its jobs; None for all.
        namespaces: only jobs of any of these; None for all. Not together with `namespace`.
        states: any of these.
        types: any of these job types.
        selector: conditions on labels, as `parse_selector` returns them.
        quarantined: only jobs that are frozen, because an event of theirs can't be read (True), or only the
            others (False); None for all.
        created_from: Unix nanoseconds, inclusive.
        created_to: Unix nanoseconds, exclusive.
        modified_from: Unix nanoseconds, inclusive.
        modified_to: Unix nanoseconds, exclusive.
        order: by create or modify time; jobs of equal time stand in the order of creation.
        descending: newest first.
        limit: jobs on the page.
        cursor: `next_cursor` of the page before; None for the first page.

    Raises:
        InvalidInput: if a field is wrong; the message names it, its value and the remedy.
        InvalidSelector: if the selector breaks a limit.
        InvalidCursor: if the cursor is not ours, or of a list in another order.
    """

    namespace: str | None = None
    namespaces: tuple[str, ...] | None = None
    states: tuple[StateType, ...] = ()
    types: tuple[str, ...] = ()
    selector: tuple[Requirement, ...] = ()
    quarantined: bool | None = None
    created_from: int | None = None
    created_to: int | None = None
    modified_from: int | None = None
    modified_to: int | None = None
    order: Order = Order.CREATED
    descending: bool = False
    limit: int = LIST_DEFAULT_LIMIT
    cursor: str | None = None

    def __post_init__(self) -> None:
        if self.namespace is not None and self.namespaces is not None:
            raise InvalidInput("namespace and namespaces exclude each other; pass one of them")
        for namespace in self.asked_namespaces() or ():
            if not is_utf8(namespace):
                raise InvalidInput(f"namespace {namespace!r:.80} is not valid text; write it in UTF-8")
        _check_choice("states", self.states, tuple(StateType))
        _check_choice("types", self.types, JOB_TYPES)
        _check_choice("order", (self.order,), tuple(Order))
        check_requirements(self.selector)
        _check_range("created", self.created_from, self.created_to)
        _check_range("modified", self.modified_from, self.modified_to)
        check_limit(self.limit)
        self.after()

    def after(self) -> Position | None:
        """Where the page before ended; None for the first page."""
        return (
            None
            if self.cursor is None
            else decode_cursor(self.cursor, self.order, descending=self.descending)
        )

    def asked_namespaces(self) -> tuple[str, ...] | None:
        """The namespaces that restrict the list, each once; None for all."""
        if self.namespace is not None:
            return (self.namespace,)
        return None if self.namespaces is None else tuple(dict.fromkeys(self.namespaces))

    def asked_states(self) -> tuple[str, ...]:
        """The states that restrict the list, each once; none if all are asked for."""
        states = tuple(dict.fromkeys(str(state) for state in self.states))
        return () if len(states) == len(StateType) else states

    def bounds(self, axis: Order) -> tuple[int | None, int | None]:
        """From (inclusive) and to (exclusive) on the axis of create or of modify times."""
        if axis == Order.CREATED:
            return self.created_from, self.created_to
        return self.modified_from, self.modified_to


def check_limit(limit: int, field: str = "limit") -> None:
    """Refuse a number of things to return that is not within 1 and `LIST_MAX_LIMIT`.

    Raises:
        InvalidInput: naming the field.
    """
    if not 1 <= limit <= LIST_MAX_LIMIT:
        raise InvalidInput(f"{field} is {limit!r:.40}; use 1 to {LIST_MAX_LIMIT}, and cursors for more")


def _check_choice(field: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise InvalidInput(f"{field}: {value!r:.60} is not known; use one of {', '.join(choices)}")


def _check_range(field: str, lower: int | None, upper: int | None) -> None:
    for name, value in ((f"{field}_from", lower), (f"{field}_to", upper)):
        if value is not None and not INT_MIN <= value <= INT_MAX:
            raise InvalidInput(f"{name} is beyond 64 bits; pass Unix nanoseconds")
    if lower is not None and upper is not None and lower > upper:
        raise InvalidInput(f"{field}_from {lower} is after {field}_to {upper}; swap them, or leave one out")
