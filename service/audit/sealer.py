"""The sealer: signs the log's tree every so often, and only if it extends what was sealed before.

    watching ──► due (so many events, or so much time, and the tree grew) ──► looks at the last seal
        ▲                                                                       │
        ├── the tree extends it: signed, published behind it, kept in the file ─┤
        ├── another replica was faster: looks again ────────────────────────────┤
        └── it does not, or another log was sealed before: ALARM, and nothing is signed

The last seal is looked at on the stream and in this replica's file: whoever cuts off the ends of the log and
of the stream of seals together is found out by the file. On the stream only trusted keys count (`sealscan`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.projector import Projector
from jobledger.projections.tree_reader import TreeReader, TreeState
from jobledger.service.audit.accepted import AcceptedFile
from jobledger.service.audit.checkpoint import Seal, make_seal, succession
from jobledger.service.audit.keys import KeyFile, read_keys
from jobledger.service.audit.note import VerifierKey
from jobledger.service.audit.seal_scan import Scan, Sealed, SealScan, StillReading
from jobledger.service.audit.seals import SealFile
from jobledger.service.errors import AuditFailed, NotSealed
from jobledger.service.limits import SEAL_LOOK_SECONDS, SEAL_MAX_TRIES, SEAL_RETRY_SECONDS
from jobledger.store.kv import NO_ENTRY, KeyHistory
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobledgerError, LogTruncated, LogUnavailable

_log = logging.getLogger("jobledger.audit")

SEALS_FILE: Final = Path("audit", "seals.txt")  # below the service's directory


class SealAlarm(AuditFailed):
    """The tree does not extend a seal that was published: the past of the log was changed, or cut off."""


class SealState(msgspec.Struct, frozen=True, kw_only=True):
    """What the sealer knows.

    Attributes:
        last: the largest seal of this log by a trusted key; None: none yet.
        failures: how often a seal could not be made.
        problem: why the last try failed; empty if it did not.
        alarm: why nothing is signed any more: the past does not fit a seal. Empty if it does.
    """

    last: Sealed | None = None
    failures: int = 0
    problem: str = ""
    alarm: str = ""


class Sealer:
    """Seals one log's tree; `start` it, or ask it for one seal.

    Args:
        log: whose tree.
        projector: keeps the tree.
        tree: tells its roots.
        seals: where seals are published.
        keys: that sign.
        file: where seals are kept as well.
        accepted: what operators confirmed.
        scan_file: where the place on the stream of seals is kept.
        trusted_keys: of other replicas, each a vkey or a file of them.
        origin: of the log.
        every_events: seal when so many events came; 0: not for that.
        every_seconds: seal when so much time passed, and something came; 0: not for that.
        clock: seconds, rising.
    """

    def __init__(
        self,
        log: EventLog,
        projector: Projector,
        tree: TreeReader,
        seals: KeyHistory,
        *,
        keys: KeyFile,
        file: SealFile,
        accepted: AcceptedFile,
        scan_file: Path,
        trusted_keys: Sequence[str] = (),
        origin: str,
        every_events: int,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self.origin = origin
        self.seals = seals
        self.state = SealState()
        self._log = log
        self._projector = projector
        self._tree = tree
        self._file = file
        self._accepted = accepted
        self._scan = SealScan(seals, scan_file, origin)
        self._others_keys = trusted_keys
        self._every_events = every_events
        self._every_seconds = every_seconds
        self._clock = clock
        self._since = clock()  # the last seal, or the start
        self._sealing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def ignored(self) -> Mapping[str, int]:
        """Notes on the stream of seals that were ignored since the start, by reason."""
        return self._scan.ignored

    def start(self) -> None:
        """Begin to seal, unless both measures are 0: then this replica leaves it to others."""
        if self._task is None and (self._every_events or self._every_seconds):
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. A seal that is being made is given up; the next start makes it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def seal(self) -> Sealed:
        """Seal what the tree has now; the last seal, if it covers all of that.

        Raises:
            SealAlarm: if the tree does not extend the last seal.
            NotSealed: if there is nothing to seal, or the tree is not yet as large as the last seal.
            InvalidSettings: if no key signs, or a file can't be used.
            LogUnavailable: if the log's server does not answer.
            ViewError: if the view can't be read.
        """
        async with self._sealing:
            try:
                found = await self._seal()
            except SealAlarm as alarm:
                self._note(alarm, str(alarm))
                raise
            except JobledgerError as error:
                self._note(error, self.state.alarm)
                raise
            self._since = self._clock()
            if self.state.alarm:
                _log.warning("the log fits its last seal again; sealing goes on")
            self.state = msgspec.structs.replace(self.state, last=found, problem="", alarm="")
            return found

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SEAL_LOOK_SECONDS)
            if not self._is_due():
                continue
            try:
                await self.seal()
            except StillReading:
                continue
            except NotSealed:
                await asyncio.sleep(SEAL_RETRY_SECONDS)
            except JobledgerError:  # noted by `seal`
                await asyncio.sleep(SEAL_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the sealing
                _log.exception("sealing broke; it is tried again")
                self._note(error, self.state.alarm)
                await asyncio.sleep(SEAL_RETRY_SECONDS)

    def _is_due(self) -> bool:
        """Whether enough came, or enough time passed with something to seal."""
        last = self.state.last
        size = self._projector.sequence
        came = size - (last.seal.size if last is not None else 0)
        if last is None or self.state.problem:  # after a start: see whether the past still fits
            return size > 0 or last is not None
        if came <= 0:
            return False
        waited = self._clock() - self._since
        return bool(
            (self._every_events and came >= self._every_events)
            or (self._every_seconds and waited >= self._every_seconds)
        )

    def trusted(self) -> tuple[VerifierKey, ...]:
        """The keys whose seals count: this service's own, and those that `audit_trusted_keys` names.

        Raises:
            InvalidInput: if a file of keys can't be used.
        """
        return tuple(dict.fromkeys((*self.keys.trusted(), *read_keys(self._others_keys))))

    async def _seal(self) -> Sealed:
        with suppress(JobledgerError):  # a file that is only readable, say: they sign no more anyway
            self.keys.forget_retired()
        for _ in range(SEAL_MAX_TRIES):
            state = await self._tree.state()
            newest = await self.seals.last()
            scan = await self._scan.read(self.trusted())
            files = self._file.newest()
            more = await self._successions(scan, files, state)
            kept, last = files.get(self.origin), scan.last
            for seal in scan.odd:
                await self._check_extends(seal, state)
                self._scan.fits(seal)
            for before in (kept, last.seal if last is not None else None):
                if before is not None:
                    await self._check_extends(before, state)
            if last is not None and state.size <= last.seal.size:
                self._keep(last.seal, kept)
                _check_whole(state)
                return last
            if state.size == 0:
                raise NotSealed("the log's tree is empty: there is nothing to seal yet")
            root = await self._tree.root(state.size)
            seal = make_seal(self.origin, state.size, root, self.keys.signers(), more)
            found = await self.seals.append(
                seal.note.encode(), expect=newest.sequence if newest is not None else NO_ENTRY
            )
            if found is not None and found.payload == seal.note.encode():
                self._keep(seal, kept)
                _log.info("sealed %d events: root %s", seal.size, seal.root.hex())
                return Sealed(seal, found.sequence, found.time)
        raise LogUnavailable(f"{SEAL_MAX_TRIES} times in a row another replica sealed first; try again")

    async def _successions(self, scan: Scan, files: dict[str, Seal], state: TreeState) -> list[str]:
        """Lines for the next seal about earlier logs that an operator confirmed to be replaced.

        Raises:
            SealAlarm: if another log was sealed before, and it is not confirmed that this one replaces it.
        """
        others = {**files, **scan.others}
        others.pop(self.origin, None)
        accepted = self._accepted.of(self.origin)
        lines: list[str] = []
        for origin, seal in others.items():
            if origin in scan.succeeds:
                continue
            if origin not in accepted:
                raise SealAlarm(await self._replaced(seal, state))
            by = accepted[origin]
            lines.append(succession(seal, by.time, by.actor, by.reason))
        return lines

    async def _replaced(self, seal: Seal, state: TreeState) -> str:
        if state.size < seal.size:
            found = f"it has only {state.size} events so far"
        elif await self._tree.root(seal.size) == seal.root:
            found = f"its first {seal.size} events are those that were sealed"
        else:
            found = f"its first {seal.size} events are not those that were sealed"
        return (
            f"this log is {self.origin}, and seals exist of another one, {seal.origin!r:.80}, over"
            f" {seal.size} events: the stream was deleted and created again, or replaced; {found}. Find out"
            f" why; then confirm with `jobledger audit accept-log --old {seal.origin:.80} --new {self.origin}"
            " --reason TEXT`"
        )

    async def _check_extends(self, before: Seal, state: TreeState) -> None:
        """Make sure that the tree begins with what was sealed before.

        Raises:
            SealAlarm: if it does not.
            NotSealed: if it is not as large yet, and may become it.
            LogBehind: if the log seems to end before the seal, and that is not proven.
        """
        size = state.size
        if before.size > size:
            _check_whole(state)
            try:
                await self._log.continues(epoch=None, after=before.size)
            except LogTruncated as error:
                end = (await self._log.info()).last_sequence
                raise SealAlarm(
                    f"a seal covers {before.size} events and the log ends at {end}: its end was cut off;"
                    " find out what happened, and restore the stream from a backup"
                ) from error
            raise NotSealed(f"the tree has {size} events and the last seal {before.size}: wait for it")
        root = await self._tree.root(before.size)
        if root != before.root:
            raise SealAlarm(
                f"the first {before.size} events are not those that were sealed: the root of their tree is"
                f" {root.hex()} and the seal says {before.root.hex()}; `jobledger audit verify` finds"
                " the place"
            )

    def _keep(self, seal: Seal, kept: Seal | None) -> None:
        if kept is None or kept.size < seal.size:
            self._file.add(seal)

    def _note(self, error: Exception, alarm: str) -> None:
        before = self.state
        counts = not isinstance(error, NotSealed)
        self.state = msgspec.structs.replace(
            before, failures=before.failures + counts, problem=str(error) if counts else "", alarm=alarm
        )
        if alarm and alarm != before.alarm:
            _log.error("ALARM: %s. Nothing more is sealed", alarm)
        elif counts and not alarm and str(error) != before.problem:
            _log.warning("can't seal: %s", error)


def _check_whole(state: TreeState) -> None:
    """Make sure that the tree can grow.

    Raises:
        SealAlarm: if it ends before a hole in the log.
    """
    if state.missing:
        raise SealAlarm(
            f"event {state.missing} is missing from the log: the tree ends before it, and nothing after it"
            " can be sealed; restore the stream from a backup that has it"
        )
