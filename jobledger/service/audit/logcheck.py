"""The log from its first event to its last, hashed again, with every seal held against it on the way."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.limits import (
    AUDIT_END_MAX_MISSING,
    AUDIT_FINDINGS_MAX,
    AUDIT_READ_MAX_TRIES,
    AUDIT_READ_WAIT_SECONDS,
    AUDIT_SEALED_ROOTS_KEPT,
    AUDIT_TAKE_EVENTS,
)
from jobledger.store.continuity import wait_continues
from jobledger.store.errors import LogGap, LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.events import Record
from jobledger.store.log import EventLog, Feed

HASHING: Final = "hashing the log"

Tell = Callable[[str, int, int], None]
"""Hears how far it is: what is being done, how much of it, out of how much."""


class SealedTree(NamedTuple):
    """A seal that a known key has signed.

    Attributes:
        name: what to call it in a message.
        size: how many events it covers.
        root: of the tree over them.
    """

    name: str
    size: int
    root: bytes


class Seals(Protocol):
    """Seals in the order in which they were made; what can't be trusted comes as a finding."""

    async def next(self) -> SealedTree | Finding | None:
        """The next one; None after the last."""
        ...


class LogReport(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        size: how many events were hashed.
        root: of the tree over them.
        seals: how many fit.
        findings: what is wrong, bounded.
        more: how many findings besides.
    """

    size: int = 0
    root: bytes = b""
    seals: int = 0
    findings: list[Finding] = []
    more: int = 0

    def found(self, finding: Finding) -> None:
        """Take note."""
        if len(self.findings) < AUDIT_FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.more += 1


class Judge:
    """Hashes records in order, and holds each seal against the tree of its size.

    Args:
        seals: in the order in which they were made.
        report: where to write.
    """

    def __init__(self, seals: Seals, report: LogReport) -> None:
        self._seals = seals
        self._report = report
        self._frontier = Frontier()
        self._next: SealedTree | None = None
        self._fitted = 0  # the size of the last seal that fit
        self._known: dict[int, SealedTree] = {}  # seals behind, the newest last; bounded

    @property
    def size(self) -> int:
        """How many events were hashed."""
        return self._frontier.size

    async def begin(self) -> None:
        """Look at the first seal."""
        await self._advance()

    async def read(self, records: Sequence[Record]) -> bool:
        """Hash on; False if nothing that follows can have its place, because a record is missing."""
        whole = _until_hole(records, self.size + 1)
        leaves = leaf_hashes(whole)
        at, start = 0, self.size
        while self._next is not None and self._next.size <= start + len(leaves):
            upto = max(at, self._next.size - start)
            self._frontier.extend(leaves[at:upto])
            at = upto
            self._judge(self._next)
            await self._advance()
        self._frontier.extend(leaves[at:])
        if len(whole) < len(records):
            self.hole(records[len(whole)].sequence - 1)
            return False
        return True

    def hole(self, last: int) -> None:
        """Say that records are missing, from the next one up to this."""
        first = self.size + 1
        what = f"event {first} is" if first >= last else f"events {first} to {last} are"
        self._report.found(
            Finding(
                Kind.HOLE,
                f"{what} missing from the log: nothing behind it can be held against a seal; restore the"
                " stream from a backup that has it",
                sequence=first,
            )
        )

    async def finish(self, log: EventLog, *, whole: bool) -> None:
        """Judge what seals are left.

        Args:
            log: that was read.
            whole: whether it was read to its end.

        Raises:
            LogUnavailable: if it is not certain that this was its end.
        """
        report = self._report
        report.size, report.root = self.size, self._frontier.root()
        first: SealedTree | None = None
        count = 0
        while self._next is not None:
            if self._next.size <= self.size:
                self._judge(self._next)
            else:
                first, count = first or self._next, count + 1
            await self._advance()
        if first is not None and whole:
            await _confirm_end(log, first.size)
            missing = f"event {first.size}" if first.size == self.size + 1 else f"events up to {first.size}"
            more = f" (and {count - 1} later seals cover more)" if count > 1 else ""
            report.found(
                Finding(
                    Kind.TRUNCATION,
                    f"the log ends at {self.size}, and {first.name} covers {first.size} events{more}: from"
                    f" event {self.size + 1} on, {missing} and what came between are gone from its end",
                    sequence=self.size + 1,
                )
            )

    def _judge(self, seal: SealedTree) -> None:
        root = self._frontier.root() if seal.size == self.size else None
        twin = self._known.get(seal.size)
        if twin is not None and twin.root != seal.root:
            text = f"{twin.name} and {seal.name} cover the same {seal.size} events and have different roots"
            self._report.found(Finding(Kind.FORK, text, sequence=seal.size))
        elif root is None and twin is None:
            text = f"{seal.name} covers {seal.size} events, fewer than a seal before it: seals only grow"
            self._report.found(Finding(Kind.UNFIT, text, sequence=seal.size))
        elif root is not None and root != seal.root:
            self._report.found(unfit(seal, root, self._fitted))
        else:
            self._report.seals += twin is None  # one that is in a file as well counts once
            self._fitted = max(self._fitted, seal.size)
        self._known.setdefault(seal.size, seal)
        if len(self._known) > AUDIT_SEALED_ROOTS_KEPT:
            del self._known[next(iter(self._known))]

    async def _advance(self) -> None:
        while isinstance(found := await self._seals.next(), Finding):
            self._report.found(found)
        self._next = found


async def _confirm_end(log: EventLog, sealed: int) -> None:
    """Make sure that the log does end before a seal, and was not read from a server that is behind.

    Raises:
        LogUnavailable: if it does not, or that can't be found out.
    """
    with suppress(LogTruncated):
        await wait_continues(log, epoch=None, after=sealed)
        raise LogUnavailable("the log was read from a server that was behind; run this again")


def unfit(seal: SealedTree, root: bytes, fitted: int) -> Finding:
    """The finding of a seal whose root is not the log's.

    Args:
        seal: it.
        root: what the log comes to at its size.
        fitted: the size up to which an earlier seal fits; 0: none does.
    """
    where = f"event {seal.size}" if seal.size == fitted + 1 else f"an event from {fitted + 1} to {seal.size}"
    return Finding(
        Kind.UNFIT,
        f"{seal.name} says that its {seal.size} events have the root {seal.root.hex()}, and the log's have"
        f" {root.hex()}: {where} was changed after it was sealed, or the seal is of another history",
        sequence=fitted + 1,
    )


async def check_log(log: EventLog, seals: Seals, tell: Tell) -> LogReport:
    """Hash the whole log, and hold seals against it.

    Args:
        log: to read.
        seals: those that there were before the log was asked how long it is.
        tell: hears how far it is.

    Raises:
        LogUnavailable: if the log can't be reached for long.
    """
    report = LogReport()
    judge = Judge(seals, report)
    await judge.begin()
    whole = False
    try:
        whole = await _read_whole(log, judge, tell)
    except (LogGap, LogTruncated) as error:
        report.found(Finding(Kind.HOLE, str(error), sequence=judge.size + 1))
    except LogReplaced as error:
        report.found(Finding(Kind.REPLACED, str(error), sequence=judge.size + 1))
    await judge.finish(log, whole=whole)
    return report


async def _read_whole(log: EventLog, judge: Judge, tell: Tell) -> bool:
    """Read from the first event to the last; False if records are missing on the way."""
    info = await log.info()
    if info.first_sequence > 1 and info.last_sequence:
        judge.hole(info.first_sequence - 1)
        return False
    last = await last_record(log, info.last_sequence)
    if last:
        feed = await log.follow(after=0, epoch=info.epoch)
        try:
            while judge.size < last:
                records = await patiently(feed)
                if not await judge.read(records):
                    return False
                tell(HASHING, judge.size, max(last, judge.size))
        finally:
            await feed.close()
    if judge.size < info.last_sequence:
        judge.hole(info.last_sequence)
        return False
    return True


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


async def patiently(feed: Feed) -> Sequence[Record]:
    """The next records of a feed, however often the connection is lost meanwhile, within a bound.

    Raises:
        LogUnavailable: if the log does not answer for long.
    """
    for _ in range(AUDIT_READ_MAX_TRIES - 1):
        try:
            return await feed.take(AUDIT_TAKE_EVENTS)
        except LogUnavailable:
            await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)
    return await feed.take(AUDIT_TAKE_EVENTS)


def _until_hole(records: Sequence[Record], first: int) -> Sequence[Record]:
    if records[-1].sequence == first + len(records) - 1:  # sequences only rise, so none is missing
        return records
    return next((records[:at] for at, record in enumerate(records) if record.sequence != first + at), records)
