"""The sealer: signs the log's Merkle tree periodically, if it extends what was sealed before.

    waiting ──► due (enough events or time, and the tree grew) ──► compare with the last seal
        ▲                                                            │
        ├── the tree extends it: sign, publish, append to the file ──┤
        ├── another replica published first: compare again ──────────┤
        └── it does not, or another log was sealed before: ALARM, nothing is signed

The last seal is read from the stream and from this replica's file: the file reveals a truncation of both the
log and the stream of seals. On the stream only seals by trusted keys count (`seal_scan`).
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
from jobledger.service.audit.accepted_logs import AcceptedFile
from jobledger.service.audit.keys import KeyFile, read_keys
from jobledger.service.audit.model.checkpoint import Seal, make_seal, succession
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.seal_scan import Scan, Sealed, SealScan, StillReading
from jobledger.service.audit.seals import SealFile
from jobledger.service.errors import AuditFailed, NotSealed
from jobledger.service.limits import SEAL_MAX_TRIES, SEAL_POLL_SECONDS, SEAL_RETRY_SECONDS
from jobledger.store.kv import NO_ENTRY, KeyHistory
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobledgerError, LogTruncated, LogUnavailable

_log = logging.getLogger("jobledger.audit")

SEALS_FILE: Final = Path("audit", "seals.txt")  # below the data directory


class SealAlarm(AuditFailed):
    """The tree does not extend a published seal: the past of the log was changed or truncated."""


class SealState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the sealer.

    Attributes:
        last: the largest seal of this log by a trusted key; None before the first.
        failures: the number of failed attempts to make a seal.
        problem: why the last attempt failed; empty if it succeeded.
        alarm: why nothing is signed any more; empty if the log fits its seals.
    """

    last: Sealed | None = None
    failures: int = 0
    problem: str = ""
    alarm: str = ""


class Sealer:
    """Seals the tree of one log, periodically after `start` or on request with `seal`.

    Args:
        log: to seal.
        projector: maintains the tree.
        tree: computes its roots.
        seals: the stream to publish on.
        keys: to sign with.
        file: to append seals to.
        accepted: operator confirmations.
        scan_file: the file of `SealScan`.
        trusted_keys: of other replicas, each a vkey or a file of vkeys.
        origin: of the log.
        every_events: seal after so many new events; 0: not by number.
        every_seconds: seal after this time if there are new events; 0: not by time.
        clock: monotonic seconds.
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
        """The number of notes ignored on the stream of seals since the start, by reason."""
        return self._scan.ignored

    def start(self) -> None:
        """Start to seal periodically, unless both intervals are 0: then other replicas seal."""
        if self._task is None and (self._every_events or self._every_seconds):
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; a seal in progress is abandoned."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def seal(self) -> Sealed:
        """Seal the current tree, and return the seal; the last one if it covers the whole tree.

        Raises:
            SealAlarm: the tree does not extend the last seal.
            NotSealed: there is nothing to seal, or the tree is not yet as large as the last seal.
            InvalidSettings: no key signs, or a file can't be used.
            LogUnavailable: the log's server does not answer.
            ViewError: the view can't be read.
        """
        async with self._sealing:
            try:
                found = await self._seal()
            except SealAlarm as alarm:
                self._record_failure(alarm, str(alarm))
                raise
            except JobledgerError as error:
                self._record_failure(error, self.state.alarm)
                raise
            self._since = self._clock()
            if self.state.alarm:
                _log.warning("the log fits its last seal again; sealing resumes")
            self.state = msgspec.structs.replace(self.state, last=found, problem="", alarm="")
            return found

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SEAL_POLL_SECONDS)
            if not self._is_due():
                continue
            try:
                await self.seal()
            except StillReading:
                continue
            except NotSealed:
                await asyncio.sleep(SEAL_RETRY_SECONDS)
            except JobledgerError:  # recorded by `seal`
                await asyncio.sleep(SEAL_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - a bug must not end the sealing
                _log.exception("sealing failed; trying again")
                self._record_failure(error, self.state.alarm)
                await asyncio.sleep(SEAL_RETRY_SECONDS)

    def _is_due(self) -> bool:
        """Whether there are enough new events, or any after enough time."""
        last = self.state.last
        size = self._projector.sequence
        came = size - (last.seal.size if last is not None else 0)
        if last is None or self.state.problem:  # after a start: check whether the past still fits
            return size > 0 or last is not None
        if came <= 0:
            return False
        waited = self._clock() - self._since
        return bool(
            (self._every_events and came >= self._every_events)
            or (self._every_seconds and waited >= self._every_seconds)
        )

    def trusted(self) -> tuple[VerifierKey, ...]:
        """Return the keys whose seals count: this service's own, and those of `audit_trusted_keys`.

        Raises:
            InvalidInput: a key file can't be used.
        """
        return tuple(dict.fromkeys((*self.keys.trusted(), *read_keys(self._others_keys))))

    async def _seal(self) -> Sealed:
        with suppress(JobledgerError):  # for example a read-only file; retired keys do not sign anyway
            self.keys.drop_retired_seeds()
        for _ in range(SEAL_MAX_TRIES):
            state = await self._tree.state()
            newest = await self.seals.last()
            scan = await self._scan.read(self.trusted())
            files = self._file.newest()
            more = await self._successions(scan, files, state)
            kept, last = files.get(self.origin), scan.last
            for seal in scan.odd:
                await self._check_extends(seal, state)
                self._scan.mark_fitting(seal)
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
        """Return the extension lines of the next seal about replaced logs.

        Raises:
            SealAlarm: another log was sealed before, and no operator confirmed that this one replaces it.
        """
        others = {**files, **scan.others}
        others.pop(self.origin, None)
        accepted = self._accepted.replaced_by(self.origin)
        lines: list[str] = []
        for origin, seal in others.items():
            if origin in scan.succeeds:
                continue
            if origin not in accepted:
                raise SealAlarm(await self._replacement_alarm(seal, state))
            by = accepted[origin]
            lines.append(succession(seal, by.time, by.actor, by.reason))
        return lines

    async def _replacement_alarm(self, seal: Seal, state: TreeState) -> str:
        if state.size < seal.size:
            found = f"it has only {state.size} events so far"
        elif await self._tree.root(seal.size) == seal.root:
            found = f"its first {seal.size} events are those that were sealed"
        else:
            found = f"its first {seal.size} events are not those that were sealed"
        return (
            f"this log is {self.origin}, but seals exist of another one, {seal.origin!r:.80}, over"
            f" {seal.size} events: the stream was deleted and created again, or replaced; {found}. Find out"
            f" why; then confirm with `jobledger audit accept-log --old {seal.origin:.80} --new {self.origin}"
            " --reason TEXT`"
        )

    async def _check_extends(self, before: Seal, state: TreeState) -> None:
        """Check that the tree extends a seal.

        Raises:
            SealAlarm: it does not.
            NotSealed: it is smaller, and may still grow.
            LogBehind: the log seems to end before the seal, which is not proven yet.
        """
        size = state.size
        if before.size > size:
            _check_whole(state)
            try:
                await self._log.continues(epoch=None, after=before.size)
            except LogTruncated as error:
                end = (await self._log.info()).last_sequence
                raise SealAlarm(
                    f"a seal covers {before.size} events, but the log ends at {end}: its end is missing; find"
                    " out what happened, and restore the stream from a backup"
                ) from error
            raise NotSealed(
                f"the tree has {size} events and the last seal {before.size}: try again when the view has"
                " them"
            )
        root = await self._tree.root(before.size)
        if root != before.root:
            raise SealAlarm(
                f"the first {before.size} events are not those that were sealed: the root of their tree is"
                f" {root.hex()}, but the seal states {before.root.hex()}; find the place with `jobledger"
                " audit verify`"
            )

    def _keep(self, seal: Seal, kept: Seal | None) -> None:
        if kept is None or kept.size < seal.size:
            self._file.add(seal)

    def _record_failure(self, error: Exception, alarm: str) -> None:
        before = self.state
        counts = not isinstance(error, NotSealed)
        self.state = msgspec.structs.replace(
            before, failures=before.failures + counts, problem=str(error) if counts else "", alarm=alarm
        )
        if alarm and alarm != before.alarm:
            _log.error("ALARM: %s. Sealing is stopped", alarm)
        elif counts and not alarm and str(error) != before.problem:
            _log.warning("can't seal: %s", error)


def _check_whole(state: TreeState) -> None:
    """Check that the tree does not end before a hole in the log.

    Raises:
        SealAlarm: it does.
    """
    if state.missing:
        raise SealAlarm(
            f"event {state.missing} is missing from the log: the tree ends before it, and later events can't"
            " be sealed; restore the stream from a backup that has it"
        )
