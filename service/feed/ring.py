"""The last events, kept once for all feeds: a feed holds its place in here, not a queue of its own. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

from jobledger.service.feed.events import FeedEvent

_SLACK: Final = 8  # the oldest are let go in portions of an eighth: removing them one by one is slow

_sequence: Final = attrgetter("sequence")


class Ring:
    """Events in order, bounded in number and in bytes; it always has all after `after`.

    Args:
        max_events: kept at most.
        max_bytes: of memory, about.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[FeedEvent] = []
        self._bytes = 0
        self.after = 0  # the last sequence that is not in here

    def restart(self, after: int) -> None:
        """Begin anew behind a sequence."""
        self._events, self._bytes, self.after = [], 0, after

    def extend(self, events: Iterable[FeedEvent]) -> None:
        """Take in the next events, and let go of the oldest if there are too many."""
        for event in events:
            self._events.append(event)
            self._bytes += event.size_bytes
        if len(self._events) <= self._max_events and self._bytes <= self._max_bytes:
            return
        count = max(0, len(self._events) - self._max_events + self._max_events // _SLACK)
        surplus = self._bytes - self._max_bytes
        freed = 0
        for index, event in enumerate(self._events):
            if index >= count and freed >= surplus:
                count = index
                break
            freed += event.size_bytes
        else:
            count = len(self._events)
        self.after = self._events[count - 1].sequence
        del self._events[:count]
        self._bytes -= freed

    def since(self, sequence: int) -> Iterator[FeedEvent]:
        """The events behind a sequence, oldest first; to be taken before anything else is awaited."""
        events = self._events
        for index in range(bisect_right(events, sequence, key=_sequence), len(events)):
            yield events[index]

    def __len__(self) -> int:
        return len(self._events)
