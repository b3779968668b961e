"""What a list may ask: one checked, frozen value. Pure; `plan` makes SQL of it."""

from collections.abc import Sequence

import msgspec

from jobledger.projections.limits import LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.projections.query.cursor import Order, Position, decode_cursor
from jobledger.projections.query.selectors import Requirement, check_requirements
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType
from jobledger.store.spec.spec import JOB_TYPES
from jobledger.store.spec.values import INT_MAX, INT_MIN, is_utf8


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
