"""An auditor that follows a log and its seals, and remembers its past: what changes there raises an alarm.

    begin ─► is it the same log, and as long as it was? ─► read on from the last seal, or all of it again
      └► step: records are hashed, seals are held against them, the state is told
    trouble with the connection is ridden out by whoever calls; what was remembered stays

A seal that does not fit is passed over once it was told; anything wrong with the log itself ends the watch.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.projections.merkle.hashing import leaf_hash, leaf_hashes
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.log_check import SealedTree, unfit
from jobledger.service.audit.note import VerifierKey
from jobledger.service.audit.seals import judge_seal
from jobledger.service.audit.tree_tracker import Mark, Witness
from jobledger.service.audit.walk import wait_continues
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import AUDIT_TAKE_EVENTS, WATCH_SEALS_SECONDS, WATCH_STALL_SECONDS
from jobledger.store.kv import KeyHistory
from jobledger.store.log import EventLog, LogInfo, LogReader
from jobledger.store.model.errors import InvalidInput, LogBroken, LogGap, LogReplaced, LogTruncated
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import ALL_SUBJECTS
from jobledger.store.private_files import read_trusted, replace_file

STATE_FORMAT: Final = "jobledger-watch"
VERSION: Final = 1


class WatchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a watcher is.

    Attributes:
        origin: of the log.
        epoch: of its stream.
        anchor: the right edge of the tree at the last seal that fitted.
        size: how many events were read.
        root: of the tree over them.
        leaf: the hash of the newest of them; empty if there is none.
        marks: roots along the way.
        seals: how far the stream of seals was read.
        sealed_size: what the last seal that fitted covers.
        sealed_root: its root; empty if there was none.
        sealed_name: what to call it.
        sealed_time: when it was published, Unix nanoseconds.
        read_again: when all was last read from the beginning, Unix nanoseconds.
        format: always `STATE_FORMAT`.
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
    version: int = VERSION


def load_state(path: Path) -> WatchState | None:
    """The state in a file; None if there is no file: then nothing is remembered yet.

    Raises:
        InvalidSettings: if the file can't be read, is not ours alone, or holds something else.
    """
    try:
        state = msgspec.json.decode(read_trusted(path), type=WatchState)
        anchor = Frontier.from_bytes(state.anchor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidSettings(f"the watcher's state {path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidInput) as error:
        raise InvalidSettings(
            f"{path} is no watcher's state ({error}); name another file, or restore it: without it, what it"
            " remembers is lost"
        ) from None
    except ValueError as error:
        raise InvalidSettings(f"the watcher's state {path} {error}") from None
    if state.format != STATE_FORMAT or state.version != VERSION or anchor.size > state.size:
        raise InvalidSettings(f"{path} is no watcher's state of format {STATE_FORMAT} {VERSION}")
    return state


def save_state(path: Path, state: WatchState) -> None:
    """Replace the file as a whole, mode 600.

    Raises:
        InvalidSettings: if it can't be written.
    """
    try:
        replace_file(path, lambda: msgspec.json.encode(state))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidSettings(f"the watcher's state {path} can't be written: {reason}") from error


_Answer = TypeVar("_Answer")
_KINDS: Final[dict[type[LogBroken], Kind]] = {
    LogGap: Kind.HOLE,
    LogTruncated: Kind.TRUNCATION,
    LogReplaced: Kind.REPLACED,
}


class WatchBroken(Exception):
    """Something is wrong with the log itself: there is nothing left to follow.

    Attributes:
        finding: what.
    """

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class Watcher:
    """Follows one log over one connection; made anew for the next.

    Args:
        log: to follow.
        seals: of the log.
        keys: those that seals may be signed with.
        state: where to go on; `WatchState(origin=…, epoch=…)` for a log that was never watched.
        clock: Unix nanoseconds.

    Attributes:
        state: what is known by now; keep it, and go on from it.
        caught_up: whether all events and seals that there were at the beginning were looked at.
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
        self._witness = Witness.at_anchor(state.anchor, state.marks)
        self._leaf = state.leaf
        self._feed: LogReader | None = None
        self._taking: asyncio.Task[Sequence[Record]] | None = None
        self._expected: list[Mark] = []  # roots that must come up again, in the order of sizes
        self._trusted = 0  # the size up to which they did
        self._session = log.session
        self._target = 0
        self._looked = 0.0
        self._again_since = 0  # when all began to be read again; 0: it is not
        self._heard = time.monotonic()  # when records last came, or were known not to be missing
        self._unsealed = (0, 0)  # sequence and time of the first event that no seal covers, as last asked

    async def begin(self, *, again: bool) -> None:
        """See that it is the log that is remembered, and begin to read.

        Args:
            again: read all of it from the beginning, not from the last seal.

        Raises:
            WatchBroken: if it is another log, or has lost its end.
            LogUnavailable: if it does not answer.
        """
        info = await self._check_place()
        self._target = info.last_sequence
        expected = {mark.size: mark for mark in self.state.marks}
        if self.state.size:
            expected[self.state.size] = Mark(self.state.size, self.state.root)
        if again:
            self._witness = Witness()
            self._again_since = self._clock()
        start = self._witness.size
        self._trusted = start
        self._expected = [expected[size] for size in sorted(expected) if size > start]
        follow = self._log.follow(after=start, epoch=self.state.epoch)
        self._feed = await _translated(follow, start + 1)

    async def step(self, wait_seconds: float) -> list[Finding]:
        """Read on, for so long at most, and look at the seals.

        Raises:
            WatchBroken: if the log is not what it was.
            LogUnavailable: if it does not answer; what is known stays as it is.
        """
        await self._recheck_after_trouble()
        witness = self._witness
        is_there = witness.size >= self._target
        records = await self._take(0 if is_there and not self.caught_up else wait_seconds)
        if records:
            self._heard = time.monotonic()
            self._read(records)
        elif time.monotonic() - self._heard >= WATCH_STALL_SECONDS:
            await self._check_silence()
        findings: list[Finding] = []
        reached = witness.size >= self._target and not self.caught_up
        now = time.monotonic()
        if reached or now - self._looked >= WATCH_SEALS_SECONDS:
            self._looked = now
            findings = await self._look_at_seals()
        if witness.size >= self.state.size:
            self.state = msgspec.structs.replace(
                self.state,
                anchor=witness.anchor_bytes(),
                size=witness.size,
                root=witness.root(),
                leaf=self._leaf,
                marks=tuple(witness.marks),
            )
            if reached and self._again_since:  # only now: an interrupted one must begin again
                self.state = msgspec.structs.replace(self.state, read_again=self._again_since)
            self.caught_up = self.caught_up or reached
        return findings

    async def close(self) -> None:
        """Let the log go."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.gather(self._taking, return_exceptions=True)
        if self._feed is not None:
            await self._feed.close()

    @property
    def unsealed(self) -> int:
        """How many events were read that no seal covers yet."""
        return max(0, self._witness.size - self.state.sealed_size)

    async def unsealed_since(self) -> int:
        """The stream time of the first event that no seal covers, Unix nanoseconds; 0: there is none.

        Raises:
            LogUnavailable: if the log does not answer.
        """
        first = self.state.sealed_size + 1
        if not self.unsealed:
            return 0
        if self._unsealed[0] != first:
            record = await self._log.read_at(first)
            self._unsealed = (first, record.time if record is not None else self._clock())
        return self._unsealed[1]

    # --- the log ------------------------------------------------------------------------------------------

    async def _check_place(self) -> LogInfo:
        """Make sure that the log is the one that is remembered, and not shorter; wait for certainty."""
        info = await self._log.info()
        state, size = self.state, max(self.state.size, self._witness.size)
        if info.epoch != state.epoch:
            text = (
                f"the stream was deleted and made again: it was of {state.epoch}, and is of {info.epoch};"
                f" of the {size} events that were read, nothing is left"
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
                    f"the log ends at {info.last_sequence}, and {size} was read before: its end was cut off"
                )
                found = Finding(Kind.TRUNCATION, text, sequence=info.last_sequence + 1)
            else:
                text = f"the log begins at {info.first_sequence}: the events before that are gone"
                found = Finding(Kind.HOLE, text, sequence=1)
            raise WatchBroken(found) from error
        return info

    async def _recheck_after_trouble(self) -> None:
        """The connection was lost, and the server may have been restored from something older meanwhile."""
        if self._session == self._log.session:
            return
        session = self._log.session
        await self._check_place()
        size = self._witness.size
        try:
            await wait_continues(
                self._log,
                epoch=self.state.epoch,
                after=size,
                same=lambda record: leaf_hash(record) == self._leaf,
            )
        except LogTruncated as error:
            text = f"event {size} is not the one that was read before: the log lost its end and grew again"
            raise WatchBroken(Finding(Kind.REWRITE, text, sequence=size)) from error
        self._session = session

    async def _take(self, wait_seconds: float) -> Sequence[Record]:
        if self._taking is None:
            assert self._feed is not None
            self._taking = asyncio.create_task(self._feed.take(AUDIT_TAKE_EVENTS))
        done, _ = await asyncio.wait({self._taking}, timeout=wait_seconds)
        if not done:
            return ()
        taken, self._taking = self._taking, None
        return await _translated(taken, self._witness.size + 1)

    async def _check_silence(self) -> None:
        """Nothing came for long: see whether the log has grown, and if so, read the next event itself."""
        self._heard = time.monotonic()
        place = self._witness.size + 1
        if (await self._log.info()).last_sequence < place:
            return
        if await self._log.read_at(place) is None:
            after = await self._log.read_next(ALL_SUBJECTS, after=place)
            until = f", and the next one that can be read is {after.sequence}" if after is not None else ""
            text = f"event {place} can't be read{until}: it is missing, or its block is damaged"
            last = after.sequence - 1 if after is not None else 0
            raise WatchBroken(Finding(Kind.HOLE, text, sequence=place, last=last))
        # The leader has it, so the replica that feeds us is stuck: another one may not be.
        await self.close()
        self._taking = None
        self._feed = await _translated(
            self._log.follow(after=self._witness.size, epoch=self.state.epoch), place
        )

    def _read(self, records: Sequence[Record]) -> None:
        witness = self._witness
        for place, record in enumerate(records, start=witness.size + 1):
            if record.sequence != place:
                text = f"event {place} is missing from the log, which goes on with {record.sequence}"
                raise WatchBroken(Finding(Kind.HOLE, text, sequence=place))
        leaves = leaf_hashes(records)
        at = 0
        while self._expected and self._expected[0].size <= witness.size + len(leaves) - at:
            mark = self._expected.pop(0)
            count = mark.size - witness.size
            witness.add(leaves[at : at + count])
            at += count
            self._hold_against(mark)
        witness.add(leaves[at:])
        self._leaf = leaves[-1]

    def _hold_against(self, mark: Mark) -> None:
        if self._witness.root() != mark.root:
            first = self._trusted + 1
            where = (
                f"event {mark.size} is" if first == mark.size else f"of events {first} to {mark.size}, one is"
            )
            text = f"{where} not the one that was read before: the log's past was changed"
            raise WatchBroken(Finding(Kind.REWRITE, text, sequence=first))
        self._trusted = mark.size
        if mark.size <= self.state.sealed_size:
            self._witness.settle(mark.size)

    # --- the seals ----------------------------------------------------------------------------------------

    async def _look_at_seals(self) -> list[Finding]:
        findings: list[Finding] = []
        while page := await self._seals.read(after=self.state.seals):
            for record in page:
                seal = judge_seal(f"seal {record.sequence}", record.payload, self._keys, self.state.origin)
                if isinstance(seal, SealedTree):
                    if seal.size > self._witness.size:
                        await self._check_covered(seal)
                        return findings  # it is looked at again when the log was read that far
                    found = self._judge(seal, record.time)
                else:
                    found = seal
                findings += [found] if found is not None else []
                self.state = msgspec.structs.replace(self.state, seals=record.sequence)
        return findings

    async def _check_covered(self, seal: SealedTree) -> None:
        """An event is in the log before a seal can cover it."""
        last = (await self._log.info()).last_sequence
        if last >= seal.size:
            return
        try:
            await wait_continues(self._log, epoch=self.state.epoch, after=seal.size)
        except LogTruncated as error:
            last = (await self._log.info()).last_sequence
            text = f"{seal.name} covers {seal.size} events, and the log ends at {last}: its end was cut off"
            raise WatchBroken(Finding(Kind.TRUNCATION, text, sequence=last + 1)) from error

    def _judge(self, seal: SealedTree, published: int) -> Finding | None:
        state = self.state
        if seal.size == state.sealed_size and state.sealed_root:
            if seal.root == state.sealed_root:
                return None
            names = f"{state.sealed_name} and {seal.name}"
            text = f"{names} cover the same {seal.size} events and have different roots"
            return Finding(Kind.FORK, text, sequence=seal.size)
        root = self._witness.root_at(seal.size)
        if root is None:
            if (
                seal.size > state.sealed_size
            ):  # more was read since than is remembered, and none of it was sealed
                return None
            text = f"{seal.name} covers {seal.size} events, fewer than a seal before it: seals only grow"
            return Finding(Kind.UNFIT, text, sequence=seal.size)
        if root != seal.root:
            return unfit(seal, root, state.sealed_size)
        self.state = msgspec.structs.replace(
            state,
            sealed_size=max(seal.size, state.sealed_size),
            sealed_root=seal.root,
            sealed_name=seal.name,
            sealed_time=published,
        )
        return None


async def _translated(asked: Awaitable[_Answer], sequence: int) -> _Answer:
    """An answer of the log; that it is not the log that was read before is an alarm."""
    try:
        return await asked
    except LogBroken as error:
        kind = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), Kind.HOLE)
        raise WatchBroken(Finding(kind, str(error), sequence=sequence)) from error
