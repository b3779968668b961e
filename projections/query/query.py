"""List queries and their cursors: checked, frozen values. Pure; `planner` translates them to SQL."""

import base64
import binascii
import enum
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from jobledger.projections.errors import InvalidCursor
from jobledger.projections.limits import (
    CURSOR_MAX_CHARACTERS,
    LIST_DEFAULT_LIMIT,
    LIST_MAX_LIMIT,
    NAME_PART_MAX_CHARACTERS,
)
from jobledger.projections.query.selectors import Requirement, check_requirements
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.fold import Int64
from jobledger.store.model.job import StateType
from jobledger.store.model.limits import INT_MAX, INT_MIN
from jobledger.store.spec.spec import JOB_TYPES
from jobledger.store.spec.values import is_utf8

_REMEDY: Final = "pass the cursor of the previous page unchanged, or omit it for the first page"


class Order(enum.StrEnum):
    """The sort key of a list. Both orders are total: `created_sequence` orders jobs with equal times."""

    CREATED = "created"  # by create time, which never changes
    MODIFIED = "modified"  # by modify time; a job that changes moves to the end


class Position(msgspec.Struct, frozen=True):
    """The position of the last job of a page.

    Attributes:
        time: its create or modify time, Unix nanoseconds.
        created_sequence: its key.
    """

    time: int
    created_sequence: int


class _Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a cursor; `v` is its version.

    It has the sort key of the last job rather than an offset, so changes elsewhere in the list do not shift
    pages. It has no filters: the caller repeats them, as with Bacalhau's list token.
    """

    v: Literal[1]
    order: Order
    descending: bool
    last: Int64
    created_sequence: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Cursor)


def encode_cursor(order: Order, position: Position, *, descending: bool) -> str:
    """Encode a position in a list of this order as opaque text."""
    inside = _Cursor(1, order, descending, position.time, position.created_sequence)
    return base64.urlsafe_b64encode(_encoder.encode(inside)).rstrip(b"=").decode()


def decode_cursor(text: str, order: Order, *, descending: bool) -> Position:
    """Decode the cursor of a list of this order."""
    inside = _open(text)
    if inside.order != order or inside.descending != descending:
        raise InvalidCursor(
            f"the cursor belongs to a list in order {_name(inside.order, inside.descending)}, not"
            f" {_name(order, descending)}: keep the order, or omit the cursor"
        )
    return Position(inside.last, inside.created_sequence)


def order_of_cursor(text: str) -> tuple[Order, bool]:
    """The order of a cursor's list, and whether it is descending."""
    inside = _open(text)
    return inside.order, inside.descending


def _open(text: str) -> _Cursor:
    if len(text) > CURSOR_MAX_CHARACTERS:
        raise InvalidCursor(
            f"the cursor must have at most {CURSOR_MAX_CHARACTERS} characters, got {len(text)}: {_REMEDY}"
        )
    try:
        padded = text + "=" * (-len(text) % 4)
        return _decoder.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError, msgspec.MsgspecError):
        raise InvalidCursor(f"invalid cursor {text!r:.60}: {_REMEDY}") from None


def _name(order: Order, descending: bool) -> str:
    return f"{order} {'descending' if descending else 'ascending'}"


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list of jobs. All conditions must hold; an empty tuple or None is no condition.

    In the order `created`, each job that exists when the first page is read is returned once, regardless of
    concurrent writes. In the order `modified`, a job that changes moves to the end: ascending, it may be
    returned again but is never missed; descending, it may be missed, because it moves to pages that were
    already read. A job that starts or stops matching is judged by its state when its page is read.

    Attributes:
        namespace: a single namespace; None for all.
        namespaces: any of these namespaces; None for all. Excludes `namespace`.
        states: any of these states.
        types: any of these job types.
        name: a part of the job's name, without regard to the case of ASCII letters.
        selector: conditions on labels, from `parse_selector`.
        quarantined: only jobs in quarantine (True) or not in quarantine (False); None for both.
        created_from: Unix nanoseconds, inclusive.
        created_to: Unix nanoseconds, exclusive.
        modified_from: Unix nanoseconds, inclusive.
        modified_to: Unix nanoseconds, exclusive.
        order: sort key; jobs with equal times are in the order of creation.
        descending: newest first.
        limit: maximum number of jobs on the page.
        cursor: `next_cursor` of the previous page; None for the first page.
        is_bounded: whether a page ends early, before it is full, when it has tested LIST_SCAN_MAX_ROWS jobs.
            A search for a part of the name always does; with other filters, a page of all jobs can be needed.

    Raises:
        InvalidInput: if a field is invalid; the message names the field, the value and the remedy.
        InvalidSelector: if the selector exceeds a limit.
        InvalidCursor: if the cursor is invalid, or belongs to another order.
    """

    namespace: str | None = None
    namespaces: tuple[str, ...] | None = None
    states: tuple[StateType, ...] = ()
    types: tuple[str, ...] = ()
    name: str = ""
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
    is_bounded: bool = False

    def __post_init__(self) -> None:
        if self.namespace is not None and self.namespaces is not None:
            raise InvalidInput("namespace and namespaces are mutually exclusive; pass one of them")
        for namespace in self.asked_namespaces() or ():
            if not is_utf8(namespace):
                raise InvalidInput(f"namespace {namespace!r:.80} is not valid Unicode text; use UTF-8")
        if "\0" in self.name or not is_utf8(self.name) or len(self.name) > NAME_PART_MAX_CHARACTERS:
            raise InvalidInput(
                f"name must be at most {NAME_PART_MAX_CHARACTERS} characters of Unicode text without NUL,"
                f" got {self.name!r:.60}"
            )
        _check_choice("states", self.states, tuple(StateType))
        _check_choice("types", self.types, JOB_TYPES)
        _check_choice("order", (self.order,), tuple(Order))
        check_requirements(self.selector)
        _check_range("created", self.created_from, self.created_to)
        _check_range("modified", self.modified_from, self.modified_to)
        check_limit(self.limit)
        self.after()

    def after(self) -> Position | None:
        """The position where the previous page ended; None for the first page."""
        return (
            None
            if self.cursor is None
            else decode_cursor(self.cursor, self.order, descending=self.descending)
        )

    def may_end_early(self) -> bool:
        """Whether a page is bounded by the jobs that it tests, and not only by its limit."""
        other = Order.CREATED if self.order == Order.MODIFIED else Order.MODIFIED
        is_tested = (
            bool(self.types or self.selector)
            or self.quarantined is not None
            or self.bounds(other) != (None, None)
            or self.asked_namespaces() is not None
            or (self.order == Order.MODIFIED and bool(self.asked_states()))
        )
        return bool(self.name) or (self.is_bounded and is_tested)

    def asked_namespaces(self) -> tuple[str, ...] | None:
        """The namespaces that restrict the list, without duplicates; None for all."""
        if self.namespace is not None:
            return (self.namespace,)
        return None if self.namespaces is None else tuple(dict.fromkeys(self.namespaces))

    def asked_states(self) -> tuple[str, ...]:
        """The states that restrict the list, without duplicates; empty if all states match."""
        states = tuple(dict.fromkeys(str(state) for state in self.states))
        return () if len(states) == len(StateType) else states

    def bounds(self, axis: Order) -> tuple[int | None, int | None]:
        """The bounds of create or modify times: from (inclusive), to (exclusive)."""
        if axis == Order.CREATED:
            return self.created_from, self.created_to
        return self.modified_from, self.modified_to

    def until(self, time: int) -> "ListQuery":
        """The query without the jobs that the order has after this time."""
        own = "created" if self.order == Order.CREATED else "modified"
        bound = {f"{own}_from": time} if self.descending else {f"{own}_to": time + 1}
        return msgspec.structs.replace(self, **bound)


def check_limit(limit: int, field: str = "limit") -> None:
    """Check a page limit."""
    if not 1 <= limit <= LIST_MAX_LIMIT:
        raise InvalidInput(f"{field} must be 1..{LIST_MAX_LIMIT}, got {limit!r:.40}; use cursors for more")


def _check_choice(field: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise InvalidInput(f"{field}: unknown value {value!r:.60}; use one of {', '.join(choices)}")


def _check_range(field: str, lower: int | None, upper: int | None) -> None:
    for name, value in ((f"{field}_from", lower), (f"{field}_to", upper)):
        if value is not None and not INT_MIN <= value <= INT_MAX:
            raise InvalidInput(f"{name} must fit in 64 bits, got {value!r:.40}; pass Unix nanoseconds")
    if lower is not None and upper is not None and lower > upper:
        raise InvalidInput(f"{field}_from {lower} is after {field}_to {upper}; swap them, or omit one")
