"""How many events the log received, over time. Exact, and without reading events.

The log can find the first event after a time. So the events of a bucket are the difference of two sequences,
and those of the past never change: they are remembered.
"""

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple

from jobledger.service.limits import HISTOGRAM_AT_ONCE, HISTOGRAM_BUCKETS, HISTOGRAM_REMEMBERED
from jobledger.store.log import EventLog
from jobledger.store.model.subjects import ALL_SUBJECTS
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_HOUR: Final = 3_600
_DAY: Final = 24 * _HOUR
_MINUTES: Final = (60, 120, 300, 600, 900, 1_800)
_HOURS: Final = tuple(hours * _HOUR for hours in (1, 2, 3, 6, 12))
_DAYS: Final = tuple(days * _DAY for days in (1, 2, 7, 14, 30, 90, 180, 365))
WIDTHS_SECONDS: Final = (1, 2, 5, 10, 15, 30, *_MINUTES, *_HOURS, *_DAYS)
"""The widths of a bucket; buckets begin at multiples of it since 1970."""


class Bucket(NamedTuple):
    """The events of one interval: those after the sequence `after`, up to `sequence`.

    Attributes:
        time: where it begins, Unix nanoseconds.
    """

    time: int
    after: int
    sequence: int


class Buckets(NamedTuple):
    """A histogram, oldest first, without a gap."""

    width_seconds: int
    items: list[Bucket]


class EventTimes:
    """The times of events in a log.

    Attributes:
        is_preparing: whether `prepare` runs.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._known: dict[int, int] = {}  # a time of the past, and the last sequence before it
        self._times: dict[int, int] = {}
        self._looking = asyncio.Lock()
        self.is_preparing = False

    async def prepare(self) -> None:
        """Look up what the histogram of the whole log needs, so that the first reader does not wait for it.

        In a large log that was just opened, the server loads a block of its files for each bucket.
        """
        self.is_preparing = True
        try:
            info = await self._log.info()
            if info.last_sequence:
                await self.histogram(max(1, info.first_sequence), info.last_sequence, HISTOGRAM_BUCKETS)
        finally:
            self.is_preparing = False

    async def time_of(self, sequence: int) -> int:
        """The stream time of the event at a sequence, or of the next one if it is missing; 0 without one."""
        found = self._times.get(sequence)
        if found is None:
            record = await self._log.read_at(sequence) if sequence else None
            if record is None:
                record = await self._log.read_next(ALL_SUBJECTS, after=max(0, sequence - 1))
            if record is None:
                return 0
            found = record.time
            _remember(self._times, sequence, found)
        return found

    async def histogram(self, first: int, last: int, most: int) -> Buckets:
        """The events from `first` up to `last`, in at most `most` buckets of equal width."""
        start, end = await self.time_of(first), await self.time_of(last)
        width_seconds = bucket_width(start, end, most)
        width = width_seconds * NANOSECONDS_PER_SECOND
        edges = [*range(start // width * width, end + 1, width)]
        found = await self._sequences_before(edges[1:], end)
        items, after = [], first - 1
        for edge, sequence in zip(edges, [*found, last], strict=True):
            reached = min(max(sequence, after), last)  # the clock of a stream may have been set back
            items.append(Bucket(edge, after, reached))
            after = reached
        return Buckets(width_seconds, items)

    async def _sequences_before(self, times: list[int], end: int) -> list[int]:
        # Not looked up again at the end: other requests forget what is remembered.
        sequences = {time: self._known[time] for time in times if time in self._known}
        if len(sequences) == len(times):
            return [sequences[time] for time in times]
        async with self._looking:  # whoever waits here finds what others looked up meanwhile
            sequences |= {time: self._known[time] for time in times if time in self._known}
            for some in _parts([time for time in times if time not in sequences]):
                found = await asyncio.gather(*(self._log.sequence_at(time - 1) for time in some))
                sequences.update(zip(some, found, strict=True))
                for time, sequence in zip(some, found, strict=True):
                    if time <= end:  # later events are later than this
                        _remember(self._known, time, sequence)
        return [sequences[time] for time in times]


def bucket_width(start: int, end: int, most: int) -> int:
    """The width in seconds that divides a span of time into at most this many buckets."""
    for seconds in WIDTHS_SECONDS:
        width = seconds * NANOSECONDS_PER_SECOND
        if end // width - start // width < most:
            return seconds
    return (end - start) // NANOSECONDS_PER_SECOND + 1


def _parts(times: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(times), HISTOGRAM_AT_ONCE):
        yield times[start : start + HISTOGRAM_AT_ONCE]


def _remember(known: dict[int, int], key: int, value: int) -> None:
    while len(known) >= HISTOGRAM_REMEMBERED:
        del known[next(iter(known))]
    known[key] = value
