"""The log from its first event to its last, hashed again, with every seal held against it on the way."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.service.audit.event_chain import BrokenLink, Links
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.walk import Hole, Walk, wait_continues
from jobledger.service.limits import AUDIT_FINDINGS_MAX, AUDIT_HOLE_JOBS, AUDIT_SEALED_ROOTS_KEPT
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record

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
        read: how many events could be read; more than `size` if a hole ended the tree.
        unjudged: how many seals cover more than could be hashed, because of a hole.
        unlinked: events whose `previous` was not checked, because there are too many jobs.
    """

    size: int = 0
    read: int = 0
    unjudged: int = 0
    unlinked: int = 0
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


class _Damage:
    """A hole, and the jobs whose later events name one in it."""

    def __init__(self, hole: Hole) -> None:
        self.hole = hole
        self.job_ids: list[str] = []
        self.more = 0

    def affects(self, job_id: str) -> None:
        """Take note of a job."""
        if job_id in self.job_ids:
            return
        if len(self.job_ids) < AUDIT_HOLE_JOBS:
            self.job_ids.append(job_id)
        else:
            self.more += 1

    def jobs(self) -> str:
        """The jobs, as part of a sentence."""
        if not self.job_ids:
            return ""
        more = f" and {self.more} more" if self.more else ""
        return f"; affected, by later events: {', '.join(self.job_ids)}{more}"


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
        self._links = Links()
        self._holes: list[_Damage] = []
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

    async def read(self, records: Sequence[Record]) -> None:
        """Read on: hash, unless a hole came before, and check what each event says of the one before it."""
        for link in self._links.read(records):
            self._judge_link(link)
        self._report.read += len(records)
        if self._holes:
            return
        leaves = leaf_hashes(records)
        at, start = 0, self.size
        while self._next is not None and self._next.size <= start + len(leaves):
            upto = max(at, self._next.size - start)
            self._frontier.extend(leaves[at:upto])
            at = upto
            self._judge(self._next)
            await self._advance()
        self._frontier.extend(leaves[at:])

    def hole(self, hole: Hole) -> None:
        """Take note of sequences that can't be read; the tree ends before the first of them."""
        self._holes.append(_Damage(hole))

    def _judge_link(self, link: BrokenLink) -> None:
        for damage in self._holes:
            if damage.hole.first <= link.named <= damage.hole.last:
                damage.affects(link.job_id)
                return
        had = f"event {link.had}" if link.had else "no event"
        self._report.found(
            Finding(
                Kind.LINK,
                f"event {link.sequence} of job {link.job_id} says that it follows event {link.named}, and the"
                f" log has {had} of that job before it: events were removed, or changed",
                sequence=link.named if link.named > link.had else link.sequence,
                last=link.sequence,
                job_id=link.job_id,
            )
        )

    def _find_holes(self) -> None:
        for damage in self._holes:
            first, last = damage.hole
            what = f"event {first} is" if first == last else f"events {first} to {last} are"
            self._report.found(
                Finding(
                    Kind.HOLE,
                    f"{what} missing from the log, or can't be read{damage.jobs()}; no seal of {first} events"
                    " or more can be compared: restore the stream from a replica or a backup that has them",
                    sequence=first,
                    last=last,
                    job_id=damage.job_ids[0] if len(damage.job_ids) == 1 and not damage.more else "",
                )
            )

    async def finish(self, log: EventLog) -> None:
        """Judge what seals are left.

        Args:
            log: that was read.

        Raises:
            LogUnavailable: if it is not certain that this was its end.
        """
        report = self._report
        self._find_holes()
        report.unlinked = self._links.unchecked
        report.size, report.root = self.size, self._frontier.root()
        first: SealedTree | None = None
        count = 0
        while self._next is not None:
            if self._next.size <= self.size:
                self._judge(self._next)
            else:
                first, count = first or self._next, count + 1
            await self._advance()
        if first is not None and self._holes:
            report.unjudged = count
        elif first is not None:
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
    try:
        await _read_whole(log, judge, tell)
    except LogReplaced as error:
        report.found(Finding(Kind.REPLACED, str(error), sequence=judge.size + 1))
    await judge.finish(log)
    return report


async def _read_whole(log: EventLog, judge: Judge, tell: Tell) -> None:
    """Read from the first event to the last, past whatever can't be read."""
    info = await log.info()
    walk = Walk(log, info)
    try:
        while (found := await walk.next()) is not None:
            if isinstance(found, Hole):
                judge.hole(found)
            else:
                await judge.read(found)
            tell(HASHING, walk.position, info.last_sequence)
    finally:
        await walk.close()
