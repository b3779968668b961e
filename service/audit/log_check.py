"""The check of a whole log: hashed from the first event to the last, and compared with every seal."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.service.audit.log_pass import (
    Hole,
    LogWalk,
    Progress,
    SealedTree,
    extend_to_sizes,
    judge_root,
    wait_continues,
)
from jobledger.service.audit.model.event_chain import BrokenLink, LinkChecker
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.limits import AUDIT_FINDINGS_MAX, AUDIT_HOLE_JOBS, AUDIT_SEALED_ROOTS_KEPT
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record

HASHING: Final = "hashing the log"


class SealSource(Protocol):
    """Seals in the order of their sizes; a note that can't be trusted is returned as a finding."""

    async def next(self) -> SealedTree | Finding | None:
        """Return the next one; None after the last."""
        ...


class LogReport(msgspec.Struct, kw_only=True):
    """The result of a check.

    Attributes:
        size: the number of events hashed.
        root: of the tree over them.
        seals: the number of seals that fit.
        findings: the problems, up to AUDIT_FINDINGS_MAX.
        more: the number of further findings.
        read: the number of events read; more than `size` if a hole ended the tree.
        unjudged: the number of seals that cover more than could be hashed because of a hole.
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

    def add(self, finding: Finding) -> None:
        """Record a finding."""
        if len(self.findings) < AUDIT_FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.more += 1


class _DamagedRange:
    """A hole, and the jobs whose later events name an event in it."""

    def __init__(self, hole: Hole) -> None:
        self.hole = hole
        self.job_ids: list[str] = []
        self.more = 0

    def add_job(self, job_id: str) -> None:
        if job_id in self.job_ids:
            return
        if len(self.job_ids) < AUDIT_HOLE_JOBS:
            self.job_ids.append(job_id)
        else:
            self.more += 1

    def finding(self) -> Finding:
        first, last = self.hole
        what = f"event {first} is" if first == last else f"events {first} to {last} are"
        jobs = ""
        if self.job_ids:
            more = f" and {self.more} more" if self.more else ""
            jobs = f"; affected, according to later events: {', '.join(self.job_ids)}{more}"
        return Finding(
            Kind.HOLE,
            f"{what} missing from the log, or can't be read{jobs}; seals of {first} or more events can't be"
            " compared: restore the stream from a replica or a backup that has them",
            sequence=first,
            last=last,
            job_id=self.job_ids[0] if len(self.job_ids) == 1 and not self.more else "",
        )


class _LogChecker:
    """Hashes records in order, and compares each seal with the tree at its size."""

    def __init__(self, seals: SealSource, report: LogReport) -> None:
        self._seals = seals
        self._report = report
        self._frontier = Frontier()
        self._links = LinkChecker()
        self._holes: list[_DamagedRange] = []
        self._next: SealedTree | None = None
        self._fitted = 0  # the size of the last seal that fit
        self._known: dict[int, SealedTree] = {}  # earlier seals by size, the newest last; bounded

    @property
    def size(self) -> int:
        """The number of events hashed."""
        return self._frontier.size

    async def next_seal(self) -> None:
        """Advance to the next seal that can be trusted."""
        while isinstance(found := await self._seals.next(), Finding):
            self._report.add(found)
        self._next = found

    async def read(self, records: Sequence[Record]) -> None:
        """Check the predecessors that events name; hash the records, unless a hole came before."""
        for link in self._links.read(records):
            self._judge_link(link)
        self._report.read += len(records)
        if self._holes:
            return
        leaves = leaf_hashes(records)
        for _ in extend_to_sizes(self._frontier, leaves, lambda: self._next.size if self._next else None):
            assert self._next is not None
            self._judge(self._next)
            await self.next_seal()

    def add_hole(self, hole: Hole) -> None:
        """Record sequences that can't be read; the tree ends before the first of them."""
        self._holes.append(_DamagedRange(hole))

    async def finish(self, log: EventLog) -> None:
        """Judge the remaining seals.

        Raises:
            LogUnavailable: it is not certain that the log ended here.
        """
        report = self._report
        for damage in self._holes:
            report.add(damage.finding())
        report.unlinked = self._links.unchecked
        report.size, report.root = self.size, self._frontier.root()
        first: SealedTree | None = None
        count = 0
        while self._next is not None:
            if self._next.size <= self.size:
                self._judge(self._next)
            else:
                first, count = first or self._next, count + 1
            await self.next_seal()
        if first is not None and self._holes:
            report.unjudged = count
        elif first is not None:
            await _confirm_end(log, first.size)
            later = f" (and {count - 1} later seals cover more)" if count > 1 else ""
            report.add(
                Finding(
                    Kind.TRUNCATION,
                    f"the log ends at {self.size}, but {first.name} covers {first.size} events{later}: the"
                    f" events from {self.size + 1} to at least {first.size} are missing from its end",
                    sequence=self.size + 1,
                )
            )

    def _judge_link(self, link: BrokenLink) -> None:
        for damage in self._holes:
            if damage.hole.first <= link.named <= damage.hole.last:
                damage.add_job(link.job_id)
                return
        had = f"event {link.had}" if link.had else "no event"
        self._report.add(
            Finding(
                Kind.LINK,
                f"event {link.sequence} of job {link.job_id} names event {link.named} as its predecessor, but"
                f" the log has {had} of that job before it: events were removed or changed",
                sequence=link.named if link.named > link.had else link.sequence,
                last=link.sequence,
                job_id=link.job_id,
            )
        )

    def _judge(self, seal: SealedTree) -> None:
        root = self._frontier.root() if seal.size == self.size else None
        twin = self._known.get(seal.size)
        found = judge_root(seal, root, twin=twin, fitted=self._fitted)
        if found is not None:
            self._report.add(found)
        else:
            self._report.seals += twin is None  # a seal that is also in a file counts once
            self._fitted = max(self._fitted, seal.size)
        self._known.setdefault(seal.size, seal)
        if len(self._known) > AUDIT_SEALED_ROOTS_KEPT:
            del self._known[next(iter(self._known))]


async def _confirm_end(log: EventLog, sealed: int) -> None:
    """Confirm that the log ends before a seal, and was not read from a server that is behind.

    Raises:
        LogUnavailable: it does not, or that can't be determined.
    """
    with suppress(LogTruncated):
        await wait_continues(log, epoch=None, after=sealed)
        raise LogUnavailable("the log was read from a server that was behind; run this again")


async def check_log(log: EventLog, seals: SealSource, progress: Progress) -> LogReport:
    """Hash the whole log, and compare it with seals.

    Args:
        log: to read.
        seals: those that existed before the log was asked for its length.
        progress: reports progress.

    Raises:
        LogUnavailable: the log can't be reached for long.
    """
    report = LogReport()
    checker = _LogChecker(seals, report)
    await checker.next_seal()
    try:
        await _read_whole(log, checker, progress)
    except LogReplaced as error:
        report.add(Finding(Kind.REPLACED, str(error), sequence=checker.size + 1))
    await checker.finish(log)
    return report


async def _read_whole(log: EventLog, checker: _LogChecker, progress: Progress) -> None:
    info = await log.info()
    walk = LogWalk(log, info)
    try:
        while (found := await walk.next()) is not None:
            if isinstance(found, Hole):
                checker.add_hole(found)
            else:
                await checker.read(found)
            progress(HASHING, walk.position, info.last_sequence)
    finally:
        await walk.close()
