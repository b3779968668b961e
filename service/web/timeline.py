"""The events of a job as the timeline shows them, and the time spent in each state. Pure."""

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import field

from jobledger.store.model.job import State
from jobledger.store.timestamps import parse_rfc3339

_KINDS: Final = {
    "created": "created",
    "updated": "updated",
    "state": "state",
    "tagged": "tag",
    "accepted": "accepted",
}


class Item(msgspec.Struct, rename="pascal"):
    """A history item, as the API returns it."""

    sequence: int
    time: str
    event_id: str = field(name="EventID")
    event_type: str
    job_version: int
    revision: int
    event: dict[str, Any]
    state: State | None = None
    actor: str = ""
    reason: str = ""
    tag: str = ""
    tag_version: int = 0
    quarantine: str = ""
    accepted_sequence: int = 0

    @property
    def time_ns(self) -> int:
        """When the stream accepted the event."""
        return parse_rfc3339(self.time) or 0

    @property
    def kind(self) -> str:
        """A word for what happened."""
        return _KINDS.get(self.event_type.removeprefix("jobledger.job.").rpartition(".")[0], "event")


class Items(msgspec.Struct, rename="pascal"):
    """A page of a history."""

    items: list[Item]
    next_token: str


class Entry(NamedTuple):
    """One event in the timeline.

    Attributes:
        before: the state before it; empty if that is not known on this page.
        after: the state after it.
        spent: how long the job then was in that state, in nanoseconds; None if it did not enter one.
        is_current: whether it still is.
    """

    item: Item
    before: str
    after: str
    spent: int | None
    is_current: bool


class Span(NamedTuple):
    """A part of the bar of states: where it begins and how wide it is, of 1,000."""

    state: str
    start: float
    width: float
    nanoseconds: int


def entries_of(items: list[Item], end: int, *, is_newest: bool, is_complete: bool = True) -> list[Entry]:
    """Events, newest first, with the time that the job spent in the state that each entered.

    Args:
        items: newest first.
        end: until when the newest state lasts, Unix nanoseconds.
        is_newest: whether the first item is the last event of the job.
        is_complete: whether no event between them was left out: otherwise, what came before one, and how long
            a state lasted, is not known.
    """
    if not is_complete:
        return [
            Entry(each, "", str(each.state.state_type) if each.state else "", None, False) for each in items
        ]
    found: list[Entry] = []
    left: int | None = end if is_newest else None  # when the job left the state of the item
    is_current = is_newest
    for index, item in enumerate(items):
        older = next((each.state for each in items[index + 1 :] if each.state is not None), None)
        after = item.state.state_type if item.state is not None else ""
        before = older.state_type if older is not None else ""
        entered = item.kind in {"created", "updated", "state"} and after
        spent = max(0, left - item.time_ns) if entered and left is not None else None
        found.append(Entry(item, str(before), str(after), spent, bool(entered and is_current)))
        if entered:
            left, is_current = item.time_ns, False
    return found


def totals_of(spans: list[Span]) -> dict[str, int]:
    """How long the job was in each state in all, nanoseconds; the longest first."""
    found: dict[str, int] = {}
    for each in spans:
        found[each.state] = found.get(each.state, 0) + each.nanoseconds
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def spans_of(entries: list[Entry]) -> list[Span]:
    """The bar of states, oldest first; equal neighbors are one."""
    merged: list[tuple[str, int]] = []
    for entry in reversed(entries):
        if entry.spent is None:
            continue
        if merged and merged[-1][0] == entry.after:
            merged[-1] = (entry.after, merged[-1][1] + entry.spent)
        else:
            merged.append((entry.after, entry.spent))
    total = sum(spent for _, spent in merged) or 1
    found, start = [], 0.0
    for state, spent in merged:
        width = 1_000 * spent / total
        found.append(Span(state, round(start, 2), round(width, 2), spent))
        start += width
    return found
