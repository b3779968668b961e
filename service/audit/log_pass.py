"""One pass over a log, as `audit verify` and `audit watch` make it: read in order, hash, compare with seals.

`audit verify` reads past damage with a `LogWalk`; `audit watch` follows the log and stops at any damage. Both
check that no sequence is missing, hash to the sizes that they compare roots at, and judge seals, with the
functions here.

    records from a reader ──► a gap, an error, or silence ──► ask the leader for the next sequence
          ▲                                                    │
          ├── it has it: read some events one by one ──────────┤
          └── it does not: a hole, up to the next event that it has ┘

A consumer of nats-server that meets a damaged block delivers nothing and continues to send heartbeats, so
silence proves nothing: only the leader's own answer for one sequence does.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from jobledger.service.audit.model.findings import Finding, Kind
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
from jobledger.store.model.limits import TRUNCATION_GIVE_UP_SECONDS, TRUNCATION_POLL_SECONDS
from jobledger.store.model.subjects import ALL_SUBJECTS

Progress = Callable[[str, int, int], None]
"""Reports progress: the activity, how much is done, and the total (0 if unknown)."""


class SealedTree(NamedTuple):
    """A seal that a known key has signed.

    Attributes:
        name: for messages.
        size: the number of events covered.
        root: of the tree over them.
    """

    name: str
    size: int
    root: bytes


class Hole(NamedTuple):
    """A range of sequences that can't be read, both ends included."""

    first: int
    last: int


class _Tree(Protocol):
    @property
    def size(self) -> int: ...
    def extend(self, leaves: Sequence[bytes], /) -> None: ...


def extend_to_sizes(
    tree: _Tree, leaves: Sequence[bytes], next_size: Callable[[], int | None]
) -> Iterator[None]:
    """Extend a tree by leaves, and yield at each size to compare roots at.

    Args:
        tree: to extend.
        leaves: the next ones.
        next_size: returns the next size to stop at, called again after each stop; None for no further one. A
            size that is already exceeded stops immediately.
    """
    at, start = 0, tree.size
    while (size := next_size()) is not None and size <= start + len(leaves):
        up_to = max(at, size - start)
        tree.extend(leaves[at:up_to])
        at = up_to
        yield
    tree.extend(leaves[at:])


def judge_root(
    seal: SealedTree, root: bytes | None, *, twin: SealedTree | None, fitted: int
) -> Finding | None:
    """Compare a seal with the tree of the log; None if it fits.

    Args:
        seal: signed by a known key.
        root: of the log's tree at the size of the seal; None if the tree is beyond it.
        twin: an earlier seal of the same size.
        fitted: the size of the largest seal that fits; 0 if there is none.
    """
    if twin is not None and twin.root != seal.root:
        text = f"{twin.name} and {seal.name} cover the same {seal.size} events but have different roots"
        return Finding(Kind.FORK, text, sequence=seal.size)
    if root is None and twin is None:
        text = f"{seal.name} covers {seal.size} events, fewer than a seal before it: seals only grow"
        return Finding(Kind.UNFIT, text, sequence=seal.size)
    if root is not None and root != seal.root:
        return unfit(seal, root, fitted)
    return None


def unfit(seal: SealedTree, root: bytes, fitted: int) -> Finding:
    """Return the finding for a seal whose root is not the log's; arguments as of `judge_root`."""
    where = f"event {seal.size}" if seal.size == fitted + 1 else f"an event from {fitted + 1} to {seal.size}"
    return Finding(
        Kind.UNFIT,
        f"{seal.name} states the root {seal.root.hex()} for its {seal.size} events, but the log has"
        f" {root.hex()}: {where} was changed after it was sealed, or the seal is of another history",
        sequence=fitted + 1,
    )


class LogWalk:
    """Reads a log from its first event to its last, past what can't be read; every wait is bounded.

    Args:
        log: to read.
        info: its extent. A stream that was created again since then ends the walk.

    Attributes:
        position: everything up to here was returned, as records or as a hole.
    """

    def __init__(self, log: EventLog, info: LogInfo) -> None:
        self.position = 0
        self._log = log
        self._epoch = info.epoch
        self._last = info.last_sequence
        self._end: int | None = None  # the last sequence that can be read
        self._reader: LogReader | None = None
        self._taken: list[Record] = []  # from the reader, after a hole
        # Events still to be read one by one: no reader starts before the first one of the stream.
        self._by_leader = int(info.first_sequence > 1)
        self._holes = 0

    async def next(self) -> Sequence[Record] | Hole | None:
        """Return the next records, in order and without a gap; or a hole; None at the end.

        Raises:
            LogUnavailable: the log can't be reached for long.
            LogReplaced: the stream was deleted and created again.
        """
        if self.position >= self._last:
            return None
        if self._end is None:
            self._end = await _last_readable(self._log, self._last)
        if self._holes >= AUDIT_HOLES_MAX or self.position >= self._end:
            return self._hole(self._last)
        if self._by_leader:
            return await self._from_leader()
        records = self._taken or await self._from_reader()
        if not records or records[0].sequence != self.position + 1:
            self._taken = [record for record in records if record.sequence > self.position]
            await self._close_reader(keep=bool(records))
            self._by_leader = AUDIT_LEADER_EVENTS
            return await self._from_leader()
        whole = before_gap(records[: self._last - self.position])
        self._taken = list(records[len(whole) :])
        self.position = whole[-1].sequence
        return whole

    async def close(self) -> None:
        """Close the reader."""
        await self._close_reader(keep=False)

    async def _from_reader(self) -> Sequence[Record]:
        """Return the reader's next records; none if it does not get past the next sequence."""
        try:
            if self._reader is None:
                async with asyncio.timeout(AUDIT_STALL_SECONDS):
                    self._reader = await self._log.follow(after=self.position, epoch=self._epoch)
            return await take_patiently(self._reader)
        except (LogGap, LogTruncated, TimeoutError):
            return ()

    async def _from_leader(self) -> Sequence[Record] | Hole:
        """Return the next event from the leader, or the hole up to the next one that it has."""
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
        """Return the first readable sequence after the next one; one after the last if there is none."""
        with suppress(LogUnavailable):
            record = await self._log.read_next(ALL_SUBJECTS, after=self.position + 1)
            return record.sequence if record is not None else self._last + 1
        # The server does not skip the damage by itself: search with doubling steps, then by bisection.
        bad, step = self.position + 1, 1
        while (good := min(bad + step, self._last)) < self._last and await self._read(good) is None:
            bad, step = good, 2 * step
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if await self._read(middle) is not None else (middle, good)
        return good

    async def _read(self, sequence: int) -> Record | None:
        """Read one event from the leader; None if it is missing, or exists but can't be read."""
        for tries in range(1, AUDIT_READ_MAX_TRIES + 1):
            try:
                return await self._log.read_at(sequence)
            except LogUnavailable:
                if tries >= AUDIT_UNANSWERED_TRIES:
                    with suppress(LogUnavailable):
                        await self._log.info()
                        return None
            await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)
        raise LogUnavailable(f"the log does not answer requests for event {sequence}; try again later")

    async def _close_reader(self, *, keep: bool) -> None:
        if self._reader is not None and not keep:
            reader, self._reader = self._reader, None
            await reader.close()


async def _last_readable(log: EventLog, last: int) -> int:
    try:
        return await last_record(log, last)
    except LogGap:
        return last  # the walk finds where the hole starts


async def last_record(log: EventLog, last: int) -> int:
    """Return the sequence of the last existing record: the stream's last one may have been deleted.

    Raises:
        LogGap: the last AUDIT_END_MAX_MISSING records are missing.
    """
    for sequence in range(last, max(0, last - AUDIT_END_MAX_MISSING), -1):
        if await log.read_at(sequence) is not None:
            return sequence
    if last > AUDIT_END_MAX_MISSING:
        raise LogGap(f"the last {AUDIT_END_MAX_MISSING} events up to {last} are missing from the log")
    return 0


async def take_patiently(reader: LogReader) -> Sequence[Record]:
    """Return the next records of a reader, across a bounded number of lost connections.

    Raises:
        TimeoutError: no record within AUDIT_STALL_SECONDS.
        LogUnavailable: the log does not answer for long.
    """
    for _ in range(AUDIT_READ_MAX_TRIES - 1):
        try:
            async with asyncio.timeout(AUDIT_STALL_SECONDS):
                return await reader.take(AUDIT_TAKE_EVENTS)
        except LogUnavailable:
            await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)
    async with asyncio.timeout(AUDIT_STALL_SECONDS):
        return await reader.take(AUDIT_TAKE_EVENTS)


def before_gap(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records before the first missing sequence; `records` is not empty."""
    start = records[0].sequence
    if records[-1].sequence == start + len(records) - 1:  # sequences only rise, so none is missing
        return records
    return next(records[:at] for at, record in enumerate(records) if record.sequence != start + at)


async def wait_continues(
    log: EventLog, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
) -> LogInfo:
    """Call `EventLog.continues` until it has a verdict, for callers with nothing else to do meanwhile.

    Raises:
        LogBehind: no verdict within TRUNCATION_GIVE_UP_SECONDS.
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
        await asyncio.sleep(TRUNCATION_POLL_SECONDS)
