"""The sealer: signs the log's tree every so often, and only if it extends what was sealed before.

    watching ──► due (so many events, or so much time, and the tree grew) ──► looks at the last seal
        ▲                                                                       │
        ├── the tree extends it: signed, published behind it, kept in the file ─┤
        ├── another replica was faster: looks again ────────────────────────────┤
        └── it does not: ALARM, and nothing is signed until it does ────────────┘

The last seal is looked at on the stream and in this replica's file: whoever cuts off the ends of the log and
of the stream of seals together is found out by the file.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.errors import ProofError
from jobledger.projections.projector import Projector
from jobledger.projections.treereader import TreeReader, TreeState
from jobledger.service.audit.checkpoint import Seal, make_seal, open_seal, read_seal
from jobledger.service.audit.keys import KeyFile
from jobledger.service.audit.sealfile import SealFile
from jobledger.service.audit.sealpages import newest_seals
from jobledger.service.errors import AuditFailed, NotSealed
from jobledger.service.limits import SEAL_LOOK_SECONDS, SEAL_MAX_TRIES, SEAL_RETRY_SECONDS, SEAL_STRANGE_MAX
from jobledger.store.errors import JobledgerError, LogUnavailable
from jobledger.store.events import Record
from jobledger.store.log import EventLog
from jobledger.store.seals import NO_SEAL, SealStore

_log = logging.getLogger("jobledger.audit")

SEALS_FILE: Final = Path("audit", "seals.txt")  # below the service's directory


class SealAlarm(AuditFailed):
    """The tree does not extend a seal that was published: the past of the log was changed, or cut off."""


class Sealed(msgspec.Struct, frozen=True):
    """A published seal, with its place.

    Attributes:
        seal: what it says.
        sequence: its position in the stream of seals.
        time: when it was published, Unix nanoseconds, as the stream of seals has it.
    """

    seal: Seal
    sequence: int
    time: int


class SealState(msgspec.Struct, frozen=True, kw_only=True):
    """What the sealer knows.

    Attributes:
        last: the last seal that it published or looked at; None: none yet.
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
        seals: SealStore,
        *,
        keys: KeyFile,
        file: SealFile,
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
        self._every_events = every_events
        self._every_seconds = every_seconds
        self._clock = clock
        self._since = clock()  # the last seal, or the start
        self._sealing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._strange = ""  # what was passed over among the seals; told until the next start

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
            if self.state.alarm and not self._strange:
                _log.warning("the log fits its last seal again; sealing goes on")
            self.state = msgspec.structs.replace(self.state, last=found, problem="", alarm=self._strange)
            return found

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SEAL_LOOK_SECONDS)
            if not self._is_due():
                continue
            try:
                await self.seal()
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

    async def _seal(self) -> Sealed:
        with suppress(JobledgerError):  # a file that is only readable, say: they sign no more anyway
            self.keys.forget_retired()
        for _ in range(SEAL_MAX_TRIES):
            state = await self._tree.state()
            newest = await self.seals.last()
            kept = self._file.last(self.origin)
            if kept is not None:
                await self._check_extends(kept, state)
            last = await self._last(newest, kept, state) if newest is not None else None
            if last is not None and state.size <= last.seal.size:
                self._keep(last.seal, kept)
                _check_whole(state)
                return last
            if state.size == 0:
                raise NotSealed("the log's tree is empty: there is nothing to seal yet")
            root = await self._tree.root(state.size)
            seal = make_seal(self.origin, state.size, root, self.keys.signers())
            found = await self.seals.append(
                seal.note.encode(), expect=newest.sequence if newest is not None else NO_SEAL
            )
            if found is not None and found.payload == seal.note.encode():
                self._keep(seal, kept)
                _log.info("sealed %d events: root %s", seal.size, seal.root.hex())
                return self._sealed(found)
        raise LogUnavailable(f"{SEAL_MAX_TRIES} times in a row another replica sealed first; try again")

    async def _check_extends(self, before: Seal, state: TreeState) -> None:
        """Make sure that the tree begins with what was sealed before.

        Raises:
            SealAlarm: if it does not.
            NotSealed: if it is not as large yet, and may become it.
        """
        size = state.size
        if before.size > size:
            _check_whole(state)
            end = (await self._log.info()).last_sequence
            if end < before.size:
                raise SealAlarm(
                    f"a seal covers {before.size} events and the log ends at {end}: its end was cut off;"
                    " find out what happened, and restore the stream from a backup"
                )
            raise NotSealed(f"the tree has {size} events and the last seal {before.size}: wait for it")
        root = await self._tree.root(before.size)
        if root != before.root:
            raise SealAlarm(
                f"the first {before.size} events are not those that were sealed: the root of their tree is"
                f" {root.hex()} and the seal says {before.root.hex()}; `jobledger audit verify` finds"
                " the place"
            )

    async def _last(self, newest: Record, kept: Seal | None, state: TreeState) -> Sealed | None:
        """The last seal that the tree extends; what can be nobody's seal of this log is passed over.

        Raises:
            SealAlarm: if the tree does not extend one that may be a seal of this log, or too much is strange.
            NotSealed: as `_check_extends`.
        """
        strange = await self._why_strange(newest, kept, state)
        if not strange:
            return self._sealed(newest)
        if strange != self._strange:
            _log.error("ALARM: %s. It is passed over, and sealing goes on", strange)
        self._strange = strange
        older = await newest_seals(self.seals, before=newest.sequence, limit=SEAL_STRANGE_MAX)
        for record in older:
            if not await self._why_strange(record, kept, state):
                return self._sealed(record)
        if len(older) == SEAL_STRANGE_MAX:
            raise SealAlarm(f"{strange}; and so are the {SEAL_STRANGE_MAX} before it")
        return None

    async def _why_strange(self, record: Record, kept: Seal | None, state: TreeState) -> str:
        """Why what was published can be nobody's seal of this log; empty if it can be.

        Each replica may sign with a key of its own, so an unknown key alone says nothing. A seal by one that
        does not fit the log is only known to be wrong where a seal in our own hands covers as much and fits.

        Raises:
            SealAlarm: if the tree does not extend it, and it may be one.
            NotSealed: as `_check_extends`.
        """
        try:
            seal = self._sealed(record).seal
        except SealAlarm as alarm:
            return str(alarm)
        try:
            await self._check_extends(seal, state)
        except SealAlarm:
            if kept is None or kept.size < seal.size or self._is_ours(seal):
                raise
            return (
                f"the seal at {record.sequence}, by a key that this service does not know, says that the"
                f" first {seal.size} events are others, and the seals that this service keeps say that they"
                " are not; somebody else writes to that stream"
            )
        return ""

    def _is_ours(self, seal: Seal) -> bool:
        try:
            open_seal(seal.note, [each.public for each in self.keys.records()])
        except ProofError:
            return False
        return True

    def _sealed(self, record: Record) -> Sealed:
        try:
            seal = read_seal(record.payload)
        except ProofError as error:
            raise SealAlarm(
                f"what was published last among the seals, at {record.sequence}, is none: {error}; somebody"
                " else writes to that stream"
            ) from error
        if seal.origin != self.origin:
            raise SealAlarm(
                f"the seal at {record.sequence} is of the log {seal.origin!r:.80}, and this one is"
                f" {self.origin}; somebody else writes to that stream"
            )
        return Sealed(seal, record.sequence, record.time)

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
            f"event {state.missing} is missing from the log: the tree ends before it, and nothing behind it"
            " can be sealed; restore the stream from a backup that has it"
        )
