"""Reading a log from its first event to its last, past whatever can't be read, with a bound on every wait.

    records from a feed ──► a gap, an error, or silence ──► the leader is asked for the next sequence
          ▲                                                    │
          ├── it has it: some events are read one by one ──────┤
          └── it has not: a hole, up to the next event that it has ┘

A consumer of nats-server that meets a damaged block delivers nothing and goes on sending heartbeats, so
silence alone says nothing: only the leader's own answer for one sequence does.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from jobledger.service.limits import (
    AUDIT_END_MAX_MISSING,
    AUDIT_HOLES_MAX,
    AUDIT_LEADER_EVENTS,
    AUDIT_READ_MAX_TRIES,
    AUDIT_READ_WAIT_SECONDS,
    AUDIT_STALL_SECONDS,
    AUDIT_TAKE_EVENTS,
    AUDIT_UNANSWERED_TRIES,
)
from jobledger.store.log import EventLog, LogInfo, LogReader
from jobledger.store.model.errors import LogBehind, LogGap, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import TRUNCATION_GIVE_UP_SECONDS, TRUNCATION_LOOK_SECONDS
from jobledger.store.model.subjects import ALL_SUBJECTS


class Hole(NamedTuple):
    """Sequences that can't be read, both included."""

    first: int
    last: int


class Walk:
    """One pass over a log.

    Args:
        log: to read.
        info: of the log: up to which sequence to read. A stream that was created again since ends the walk.

    Attributes:
        position: everything up to here was read, or reported as a hole.
    """

    def __init__(self, log: EventLog, info: LogInfo) -> None:
        self.position = 0
        self._log = log
        self._epoch = info.epoch
        self._last = info.last_sequence
        self._end: int | None = None  # the last sequence that can be read
        self._feed: LogReader | None = None
        self._taken: list[Record] = []  # of the feed, after a hole
        # Events that are still to be read one by one: no feed begins before the first one of the stream.
        self._by_leader = int(info.first_sequence > 1)
        self._holes = 0

    async def next(self) -> Sequence[Record] | Hole | None:
        """The next records, in order and without a gap; or a hole; None at the end.

        Raises:
            LogUnavailable: if the log can't be reached for long.
            LogReplaced: if the stream was deleted and created again.
        """
        if self.position >= self._last:
            return None
        if self._end is None:
            self._end = await _last_readable(self._log, self._last)
        if self._holes >= AUDIT_HOLES_MAX or self.position >= self._end:
            return self._hole(self._last)
        if self._by_leader:
            return await self._from_leader()
        records = self._taken or await self._from_feed()
        if not records or records[0].sequence != self.position + 1:
            self._taken = [record for record in records if record.sequence > self.position]
            await self._close_feed(keep=bool(records))
            self._by_leader = AUDIT_LEADER_EVENTS
            return await self._from_leader()
        whole = _without_gap(records, self._last)
        self._taken = list(records[len(whole) :])
        self.position = whole[-1].sequence
        return whole

    async def close(self) -> None:
        """Let the log go."""
        await self._close_feed(keep=False)

    async def _from_feed(self) -> Sequence[Record]:
        """What the feed has next; nothing if it does not get past the next sequence."""
        try:
            if self._feed is None:
                async with asyncio.timeout(AUDIT_STALL_SECONDS):
                    self._feed = await self._log.follow(after=self.position, epoch=self._epoch)
            return await patiently(self._feed)
        except (LogGap, LogTruncated, TimeoutError):
            return ()

    async def _from_leader(self) -> Sequence[Record] | Hole:
        """The next event as the leader has it, or how far it has none."""
        record = await self._read(self.position + 1)
        if record is not None:
            self._by_leader -= 1
            self.position += 1
            if self._taken and self._taken[0].sequence <= self.position:
                del self._taken[0]
            if self._taken and self._taken[0].sequence == self.position + 1:
                self._by_leader = 0
            return (record,)
        self._by_leader = 0
        return self._hole(await self._next_readable() - 1)

    def _hole(self, last: int) -> Hole:
        hole = Hole(self.position + 1, min(last, self._last))
        self._holes += 1
        self.position = hole.last
        self._taken = [record for record in self._taken if record.sequence > self.position]
        return hole

    async def _next_readable(self) -> int:
        """The first sequence after the next one that the leader can read; if none, one after the last."""
        with suppress(LogUnavailable):
            record = await self._log.read_next(ALL_SUBJECTS, after=self.position + 1)
            return record.sequence if record is not None else self._last + 1
        # The server does not get past the damage by itself: try further and further on, then between.
        bad, step = self.position + 1, 1
        while (good := min(bad + step, self._last)) < self._last and await self._read(good) is None:
            bad, step = good, 2 * step
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if await self._read(middle) is not None else (middle, good)
        return good

    async def _read(self, sequence: int) -> Record | None:
        """One event from the leader; None if it has none, or does not answer for it although it is there."""
        for tries in range(1, AUDIT_READ_MAX_TRIES + 1):
            try:
                return await self._log.read_at(sequence)
            except LogUnavailable:
                if tries >= AUDIT_UNANSWERED_TRIES:
                    with suppress(LogUnavailable):
                        await self._log.info()
                        return None
            await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)
        raise LogUnavailable(f"the log does not answer, for event {sequence} or at all")

    async def _close_feed(self, *, keep: bool) -> None:
        if self._feed is not None and not keep:
            feed, self._feed = self._feed, None
            await feed.close()


async def _last_readable(log: EventLog, last: int) -> int:
    try:
        return await last_record(log, last)
    except LogGap:
        return last  # the walk finds where the hole begins


async def last_record(log: EventLog, last: int) -> int:
    """The sequence of the last record that is there: the stream's last one may have been deleted.

    Raises:
        LogGap: if the last AUDIT_END_MAX_MISSING of them are missing.
    """
    for sequence in range(last, max(0, last - AUDIT_END_MAX_MISSING), -1):
        if await log.read_at(sequence) is not None:
            return sequence
    if last > AUDIT_END_MAX_MISSING:
        raise LogGap(f"the last {AUDIT_END_MAX_MISSING} events up to {last} are missing from the log")
    return 0


async def patiently(feed: LogReader) -> Sequence[Record]:
    """The next records of a feed, however often the connection is lost meanwhile, within a bound.

    Raises:
        TimeoutError: if the feed stays silent for AUDIT_STALL_SECONDS.
        LogUnavailable: if the log does not answer for long.
    """
    for _ in range(AUDIT_READ_MAX_TRIES - 1):
        try:
            async with asyncio.timeout(AUDIT_STALL_SECONDS):
                return await feed.take(AUDIT_TAKE_EVENTS)
        except LogUnavailable:
            await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)
    async with asyncio.timeout(AUDIT_STALL_SECONDS):
        return await feed.take(AUDIT_TAKE_EVENTS)


def _without_gap(records: Sequence[Record], last: int) -> Sequence[Record]:
    """The records before the first gap, and none after the last sequence that is asked for."""
    start = records[0].sequence
    count = min(len(records), last - start + 1)
    if records[count - 1].sequence == start + count - 1:  # sequences only rise, so none is missing
        return records[:count]
    return next(records[:at] for at, record in enumerate(records) if record.sequence != start + at)


async def wait_continues(
    log: EventLog, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
) -> LogInfo:
    """Call `EventLog.continues` until it has a verdict: for a caller that has nothing else to do meanwhile.

    Raises:
        LogBehind: if there is no verdict within TRUNCATION_GIVE_UP_SECONDS.
        LogError: as `EventLog.continues`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + TRUNCATION_GIVE_UP_SECONDS
    while True:
        try:
            return await log.continues(epoch=epoch, after=after, same=same)
        except LogBehind:
            if clock() >= deadline:
                raise
        await asyncio.sleep(TRUNCATION_LOOK_SECONDS)
