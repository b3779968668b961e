"""Follows a log and its seals, and remembers its past: a change there raises an alarm.

    begin ──► is it the remembered log, and not shorter? ──► read on from the last seal, or everything again
      └► step: hash new records, judge new seals, update the state
    after a lost connection the caller starts a new watcher with the state so far

A seal that does not fit is reported once and skipped; a problem of the log itself ends the watch.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.projections.merkle.hashing import leaf_hash, leaf_hashes
from jobledger.service.audit.log_pass import (
    SealedTree,
    before_gap,
    extend_to_sizes,
    judge_root,
    wait_continues,
)
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.model.tree_tracker import Mark, TreeTracker
from jobledger.service.audit.seals import judge_seal
from jobledger.service.audit.state_file import StateFile
from jobledger.service.limits import AUDIT_TAKE_EVENTS, WATCH_SEALS_SECONDS, WATCH_STALL_SECONDS
from jobledger.store.kv import KeyHistory
from jobledger.store.log import EventLog, LogInfo, LogReader
from jobledger.store.model.errors import InvalidInput, LogBroken, LogGap, LogReplaced, LogTruncated
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import ALL_SUBJECTS

STATE_FORMAT: Final = "jobledger-watch"
STATE_VERSION: Final = 1

_Answer = TypeVar("_Answer")
_KINDS: Final[dict[type[LogBroken], Kind]] = {
    LogGap: Kind.HOLE,
    LogTruncated: Kind.TRUNCATION,
    LogReplaced: Kind.REPLACED,
}


class WatchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a watcher remembers between two runs; the content of its state file.

    Attributes:
        origin: of the log.
        epoch: of its stream.
        anchor: the right edge of the tree at the last seal that fit.
        size: the number of events read.
        root: of the tree over them.
        leaf: the hash of the newest one; empty if there is none.
        marks: roots along the way.
        seals: the last sequence read of the stream of seals.
        sealed_size: the number of events covered by the last seal that fit.
        sealed_root: its root; empty if there was none.
        sealed_name: its name in messages.
        sealed_time: when it was published, Unix nanoseconds.
        read_again: when everything was last read from the beginning, Unix nanoseconds.
        format: always STATE_FORMAT.
        version: of the format.
    """

    origin: str
    epoch: str
    anchor: bytes = Frontier().to_bytes()
    size: int = 0
    root: bytes = b""
    leaf: bytes = b""
    marks: tuple[Mark, ...] = ()
    seals: int = 0
    sealed_size: int = 0
    sealed_root: bytes = b""
    sealed_name: str = ""
    sealed_time: int = 0
    read_again: int = 0
    format: str = STATE_FORMAT
    version: int = STATE_VERSION


def watch_state_file(path: Path) -> StateFile[WatchState]:
    """Return the state file of a watcher."""

    def check(state: WatchState) -> None:
        if (state.format, state.version) != (STATE_FORMAT, STATE_VERSION):
            raise InvalidInput(f"it is not of format {STATE_FORMAT} {STATE_VERSION}")
        if Frontier.from_bytes(state.anchor).size > state.size:
            raise InvalidInput("its anchor is beyond its size")

    return StateFile(
        path,
        WatchState,
        title="watcher's state file",
        remedy="restore it, or use another file and lose what the watcher remembers",
        check=check,
    )


class WatchBroken(Exception):
    """The log itself has a problem: there is nothing left to follow."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class Watcher:
    """Follows one log over one connection.

    Args:
        log: to follow.
        seals: of the log.
        keys: trusted to sign seals.
        state: where to continue; `WatchState(origin=…, epoch=…)` for a log that was never watched.
        clock: Unix nanoseconds.

    Attributes:
        state: what is known so far; save it and continue from it.
        caught_up: whether all events and seals that existed at the beginning were examined.
    """

    def __init__(
        self,
        log: EventLog,
        seals: KeyHistory,
        keys: Sequence[VerifierKey],
        state: WatchState,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.state = state
        self.caught_up = False
        self._log = log
        self._seals = seals
        self._keys = keys
        self._clock = clock
        self._tree = TreeTracker.at_anchor(state.anchor, state.marks)
        self._leaf = state.leaf
        self._reader: LogReader | None = None
        self._taking: asyncio.Task[Sequence[Record]] | None = None
        self._expected: list[Mark] = []  # roots that must be met again, by size
        self._confirmed = 0  # the size up to which they were
        self._session = log.session
        self._target = 0
        self._seals_read_at = 0.0
        self._reread_since = 0  # when reading everything again began; 0 if it did not
        self._progress_at = time.monotonic()  # when records last arrived, or were confirmed not to exist
        self._unsealed = (0, 0)  # sequence and time of the first event not covered by a seal, cached

    async def begin(self, *, again: bool) -> None:
        """Confirm that it is the remembered log, and start to read.

        Args:
            again: read everything from the first event, not from the last seal.

        Raises:
            WatchBroken: it is another log, or its end is missing.
            LogUnavailable: it does not answer.
        """
        info = await self._check_extent()
        self._target = info.last_sequence
        expected = {mark.size: mark for mark in self.state.marks}
        if self.state.size:
            expected[self.state.size] = Mark(self.state.size, self.state.root)
        if again:
            self._tree = TreeTracker()
            self._reread_since = self._clock()
        start = self._tree.size
        self._confirmed = start
        self._expected = [expected[size] for size in sorted(expected) if size > start]
        self._reader = await _translated(self._log.follow(after=start, epoch=self.state.epoch), start + 1)

    async def step(self, wait_seconds: float) -> list[Finding]:
        """Read new records, waiting for them at most so long, and judge new seals.

        Raises:
            WatchBroken: the log is not what it was.
            LogUnavailable: it does not answer; the state stays valid.
        """
        await self._recheck_after_reconnect()
        has_reached_target = self._tree.size >= self._target
        records = await self._take(0 if has_reached_target and not self.caught_up else wait_seconds)
        if records:
            self._progress_at = time.monotonic()
            self._read(records)
        elif time.monotonic() - self._progress_at >= WATCH_STALL_SECONDS:
            await self._check_silence()
        tree = self._tree
        findings: list[Finding] = []
        reached = tree.size >= self._target and not self.caught_up
        now = time.monotonic()
        if reached or now - self._seals_read_at >= WATCH_SEALS_SECONDS:
            self._seals_read_at = now
            findings = await self._judge_new_seals()
        if tree.size >= self.state.size:
            self.state = msgspec.structs.replace(
                self.state,
                anchor=tree.anchor_bytes(),
                size=tree.size,
                root=tree.root(),
                leaf=self._leaf,
                marks=tuple(tree.marks),
            )
            if reached and self._reread_since:  # only now: an interrupted one must start over
                self.state = msgspec.structs.replace(self.state, read_again=self._reread_since)
            self.caught_up = self.caught_up or reached
        return findings

    async def close(self) -> None:
        """Close the reader."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.gather(self._taking, return_exceptions=True)
        if self._reader is not None:
            await self._reader.close()

    @property
    def unsealed(self) -> int:
        """The number of events read that no seal covers yet."""
        return max(0, self._tree.size - self.state.sealed_size)

    async def unsealed_since(self) -> int:
        """Return the stream time of the first event without a seal, Unix nanoseconds; 0 if there is none.

        Raises:
            LogUnavailable: the log does not answer.
        """
        first = self.state.sealed_size + 1
        if not self.unsealed:
            return 0
        if self._unsealed[0] != first:
            record = await self._log.read_at(first)
            self._unsealed = (first, record.time if record is not None else self._clock())
        return self._unsealed[1]

    # --- the log ------------------------------------------------------------------------------------------

    async def _check_extent(self) -> LogInfo:
        """Confirm that the log is the remembered one, and not shorter."""
        info = await self._log.info()
        state, size = self.state, max(self.state.size, self._tree.size)
        if info.epoch != state.epoch:
            text = (
                f"the stream was deleted and created again: its epoch was {state.epoch} and is {info.epoch};"
                f" none of the {size} events read before is left"
            )
            raise WatchBroken(Finding(Kind.REPLACED, text, sequence=1))
        try:
            if info.last_sequence < size:
                info = await wait_continues(self._log, epoch=state.epoch, after=size)
            elif info.first_sequence > 1 and info.last_sequence:
                info = await wait_continues(self._log, epoch=state.epoch, after=0)
        except LogTruncated as error:
            info = await self._log.info()
            if info.last_sequence < size:
                text = (
                    f"the log ends at {info.last_sequence}, but {size} events were read before: its end is"
                    " missing"
                )
                found = Finding(Kind.TRUNCATION, text, sequence=info.last_sequence + 1)
            else:
                text = f"the log starts at {info.first_sequence}: the events before that are missing"
                found = Finding(Kind.HOLE, text, sequence=1)
            raise WatchBroken(found) from error
        return info

    async def _recheck_after_reconnect(self) -> None:
        """Check again after a lost connection: the server may have been restored from an older state."""
        if self._session == self._log.session:
            return
        session = self._log.session
        await self._check_extent()
        size = self._tree.size
        try:
            await wait_continues(
                self._log,
                epoch=self.state.epoch,
                after=size,
                same=lambda record: leaf_hash(record) == self._leaf,
            )
        except LogTruncated as error:
            text = f"event {size} differs from the one read before: the log lost its end and grew again"
            raise WatchBroken(Finding(Kind.REWRITE, text, sequence=size)) from error
        self._session = session

    async def _take(self, wait_seconds: float) -> Sequence[Record]:
        if self._taking is None:
            assert self._reader is not None
            self._taking = asyncio.create_task(self._reader.take(AUDIT_TAKE_EVENTS))
        done, _ = await asyncio.wait({self._taking}, timeout=wait_seconds)
        if not done:
            return ()
        taken, self._taking = self._taking, None
        return await _translated(taken, self._tree.size + 1)

    async def _check_silence(self) -> None:
        """If the log has grown although no record arrived, read the next event from the leader."""
        self._progress_at = time.monotonic()
        place = self._tree.size + 1
        if (await self._log.info()).last_sequence < place:
            return
        if await self._log.read_at(place) is None:
            after = await self._log.read_next(ALL_SUBJECTS, after=place)
            up_to = f"; the next readable one is {after.sequence}" if after is not None else ""
            text = f"event {place} can't be read: it is missing, or its block is damaged{up_to}"
            last = after.sequence - 1 if after is not None else 0
            raise WatchBroken(Finding(Kind.HOLE, text, sequence=place, last=last))
        # The leader has it, so the replica of this reader is stuck; another one may not be.
        await self.close()
        self._taking = None
        self._reader = await _translated(
            self._log.follow(after=self._tree.size, epoch=self.state.epoch), place
        )

    def _read(self, records: Sequence[Record]) -> None:
        place = self._tree.size + 1
        whole = before_gap(records) if records[0].sequence == place else ()
        if len(whole) < len(records):
            missing = place + len(whole)
            text = (
                f"event {missing} is missing from the log, which continues with"
                f" {records[len(whole)].sequence}"
            )
            raise WatchBroken(Finding(Kind.HOLE, text, sequence=missing))
        leaves = leaf_hashes(records)
        for _ in extend_to_sizes(
            self._tree, leaves, lambda: self._expected[0].size if self._expected else None
        ):
            self._compare_mark(self._expected.pop(0))
        self._leaf = leaves[-1]

    def _compare_mark(self, mark: Mark) -> None:
        if self._tree.root() != mark.root:
            first = self._confirmed + 1
            where = f"event {mark.size}" if first == mark.size else f"an event from {first} to {mark.size}"
            text = f"{where} differs from the one read before: the log's past was changed"
            raise WatchBroken(Finding(Kind.REWRITE, text, sequence=first))
        self._confirmed = mark.size
        if mark.size <= self.state.sealed_size:
            self._tree.advance_anchor(mark.size)

    # --- the seals ----------------------------------------------------------------------------------------

    async def _judge_new_seals(self) -> list[Finding]:
        findings: list[Finding] = []
        while page := await self._seals.read(after=self.state.seals):
            for record in page:
                seal = judge_seal(f"seal {record.sequence}", record.payload, self._keys, self.state.origin)
                if isinstance(seal, SealedTree):
                    if seal.size > self._tree.size:
                        await self._check_covered(seal)
                        return findings  # judged again when the log was read that far
                    found = self._judge(seal, record.time)
                else:
                    found = seal
                findings += [found] if found is not None else []
                self.state = msgspec.structs.replace(self.state, seals=record.sequence)
        return findings

    async def _check_covered(self, seal: SealedTree) -> None:
        """Confirm that the log has the events that a seal covers: they were there before the seal."""
        last = (await self._log.info()).last_sequence
        if last >= seal.size:
            return
        try:
            await wait_continues(self._log, epoch=self.state.epoch, after=seal.size)
        except LogTruncated as error:
            last = (await self._log.info()).last_sequence
            text = f"{seal.name} covers {seal.size} events, but the log ends at {last}: its end is missing"
            raise WatchBroken(Finding(Kind.TRUNCATION, text, sequence=last + 1)) from error

    def _judge(self, seal: SealedTree, published: int) -> Finding | None:
        state = self.state
        twin = None
        if state.sealed_root and seal.size == state.sealed_size:
            if seal.root == state.sealed_root:
                return None
            twin = SealedTree(state.sealed_name, state.sealed_size, state.sealed_root)
        root = self._tree.root_at(seal.size)
        if root is None and seal.size > state.sealed_size:
            return None  # more was read since, without a seal, than the tracker keeps
        if found := judge_root(seal, root, twin=twin, fitted=state.sealed_size):
            return found
        if seal.size >= state.sealed_size:
            self.state = msgspec.structs.replace(
                state,
                sealed_size=seal.size,
                sealed_root=seal.root,
                sealed_name=seal.name,
                sealed_time=published,
            )
        return None


async def _translated(answer: Awaitable[_Answer], sequence: int) -> _Answer:
    """Await the log's answer, and turn a broken log into an alarm."""
    try:
        return await answer
    except LogBroken as error:
        kind = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), Kind.HOLE)
        raise WatchBroken(Finding(kind, str(error), sequence=sequence)) from error
