"""The projector: reads the log, folds it, and keeps the view, for ever.

    catching_up ──► live ──► reconnecting ──► catching_up …    no answer of the log
         │            ├────► waiting ───────► catching_up …    the file can't be written: no space, locked
         │            └────► rebuilding ────► catching_up …    the file is damaged, cut short, lost, replaced
         └──► stopped (asked to, or an error that a person must resolve)

Rows and checkpoint move in one transaction, and the checkpoint is guarded by its old value: a crash repeats a
batch or does not, and two projectors on one file can't both win. See DESIGN.md beside this file.
"""

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from jobledger.projections.batch import (
    Batch,
    Folded,
    Hole,
    fold_batch,
    holes_in,
    jobs_named,
    read_all,
    steps_back,
)
from jobledger.projections.database import set_aside
from jobledger.projections.errors import (
    ViewBusy,
    ViewDamaged,
    ViewError,
    ViewMissing,
    ViewRebuilding,
    ViewUnwritable,
    WaitTimeout,
)
from jobledger.projections.healing import VOCABULARY, Healed, heal_view
from jobledger.projections.limits import (
    CLOCK_LOG_LINES,
    COMMIT_MAX_BYTES,
    COMMIT_MAX_EVENTS,
    QUARANTINE_LOG_LINES,
    RECONNECT_MAX_WAIT_SECONDS,
    RECONNECT_WAIT_SECONDS,
    VIEW_IO_ERRORS_MAX,
    VIEW_LOOK_SECONDS,
    VIEW_REBUILDS_MAX,
    VIEW_REBUILDS_SECONDS,
    WAIT_DEFAULT_SECONDS,
)
from jobledger.projections.writer import CheckpointMoved, ViewWriter
from jobledger.store.log import EventLog, LogReader
from jobledger.store.model.errors import JobledgerError, LogBehind, LogDamaged, LogUnavailable
from jobledger.store.model.events import Record

_log = logging.getLogger("jobledger.view")


class ProjectorState(enum.StrEnum):
    """What a projector is doing."""

    CATCHING_UP = "catching_up"  # folding what was there when it began, or came while it was away
    LIVE = "live"  # has folded all there was; folds what comes
    RECONNECTING = (
        "reconnecting"  # no answer of the log, or one that lacks events; tries again, see `trouble`
    )
    WAITING = "waiting"  # the view's file can't be written; tries again, see `trouble`
    REBUILDING = "rebuilding"  # the file was damaged or lost; folds the log again, see `trouble`
    STOPPED = "stopped"  # asked to stop, or can't go on: see `error`


_TROUBLED: Final = frozenset({ProjectorState.RECONNECTING, ProjectorState.WAITING, ProjectorState.REBUILDING})


class ProjectionListener(Protocol):
    """Hears what a projector folds, once it is visible in the view. Its methods take note, and return."""

    def begin(self, sequence: int) -> None:
        """The view is at this sequence; what comes is told."""
        ...

    def take(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        """The view went on, from one sequence up to another.

        Args:
            after: where it was.
            up_to: where it is.
            folded: all that changed a job on that way, in order; None if it is not known, because another
                projector did it.
        """
        ...

    def end(self, error: JobledgerError | None) -> None:
        """The projector is stopped, by itself (and why) or because it was asked to (None)."""
        ...


class Gate(Protocol):
    """Somebody who reads the view's file, and must let it go while it is rebuilt."""

    async def suspend(self, why: ViewError) -> None:
        """Let the file go; answer with this error until `resume`."""
        ...

    async def resume(self) -> None:
        """Open the file that is there now: it has all that the one before had."""
        ...


class Projector:
    """Keeps one SQLite file up with one log; `async with Projector(log, path) as projector`.

    Args:
        log: what to fold.
        path: the view's file, made if it is missing, rebuilt if its rows mean something else to this release.
        tree: whether the Merkle tree over the log is kept as well, for proofs. A file that was begun without
            it is rebuilt; from one that has it and shall not, it is taken out.
        epoch: of the log, if it is known for certain: a file of another log is then moved aside and rebuilt.
            None: such a file is `LogReplaced`, because either of the two may be the wrong one.

    Attributes:
        rebuilds: how often the file was found damaged or lost, and was begun again.
        clock_steps: at how many of the events that it read the stream's time went back.
    """

    def __init__(self, log: EventLog, path: Path, *, tree: bool = True, epoch: str | None = None) -> None:
        self.rebuilds = 0
        self.clock_steps = 0
        self._known_epoch = epoch
        self._log = log
        self._path = path
        self._keeps_tree = tree
        self._state = ProjectorState.CATCHING_UP
        self._sequence = 0  # written, visible
        self._told = 0  # the highest sequence that ever was visible here: `_sequence`, but while rebuilding
        self._folded = 0  # folded, perhaps still being written
        self._time = 0  # the stream's, of that event; 0: not known
        self._clock_checked = 0  # up to which event the stream's time was looked at
        self._error: JobledgerError | None = None
        self._trouble = ""
        self._opened: ViewWriter | None = None
        self._feed: LogReader | None = None
        self._epoch: str | None = None  # of the log
        self._changed = asyncio.Condition()
        self._target = 0
        self._wait_seconds = RECONNECT_WAIT_SECONDS  # before the log, or the file, is tried again
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._reported_jobs: set[str] = set()  # in quarantine, with a line in the log; bounded
        self._exclusive = asyncio.Lock()  # held while records are folded, and while jobs are folded again
        self._tap: ProjectionListener | None = None
        self._gates: list[Gate] = []
        self._suspended: ViewError | None = None  # what the gates were told
        self._distrust: ViewDamaged | None = None  # damage that somebody else found
        self._found_damage = asyncio.Event()
        self._began: deque[float] = deque(maxlen=VIEW_REBUILDS_MAX)  # when rebuilds began
        self._io_errors = 0  # in a row
        self._broke = False  # once, by something that may have been the file

    def attach(self, tap: ProjectionListener) -> None:
        """From now on tell this one what is folded; what is being written at this moment is the first."""
        self._tap = tap
        tap.begin(self._told)
        if self._state is ProjectorState.STOPPED:
            tap.end(self._error)

    async def serve(self, gate: Gate) -> None:
        """From now on, suspend this reader of the file while the file is rebuilt."""
        self._gates.append(gate)
        if self._suspended is not None:
            await gate.suspend(self._suspended)

    def report_damage(self, error: ViewDamaged) -> None:
        """Rebuild the file: somebody who read it found damage."""
        if self._suspended is None:
            self._distrust = error
            self._found_damage.set()

    async def start(self) -> Self:
        """Open the view, check that the log continues it, and begin.

        A log that seems to lack what the view has is no error here: the projector begins `reconnecting`, and
        stops for good if the loss is proven. A file that is damaged is moved aside: the projector begins
        `rebuilding`.

        Raises:
            ViewError: if the file can't be used.
            LogBroken: if the log is not the one that the view was made from.
            LogUnavailable: if the log does not answer.
        """
        if self._task is not None:
            raise ViewError(f"this projector of {self._path} is running; stop it first, or use it as it is")
        self._error, self._writing, self._trouble = None, None, ""
        self._sequence = self._told = 0
        self._epoch = self._known_epoch
        self._state = ProjectorState.CATCHING_UP
        try:
            await self._start()
        except BaseException:
            await self._close_files()
            raise
        if self._tap is not None:
            self._tap.begin(self._told)
        self._task = asyncio.create_task(self._run())
        return self

    async def _start(self) -> None:
        try:
            if self._distrust is not None:  # reported before the start
                raise self._distrust
            await self._open_view()
        except ViewDamaged as error:
            await self._begin_again(error)
            await self._open_view()
            # Readers are to have all that there is before they are let in, as they had before.
            self._told = (await self._log.info()).last_sequence
        try:
            self._feed = await self._open_feed()
        except LogBehind as error:
            self._state, self._trouble = ProjectorState.RECONNECTING, str(error)

    async def stop(self) -> None:
        """Finish the transaction under way, and close. Stopping twice is harmless."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, *filter(None, (self._writing,)), return_exceptions=True)
        await self._close_files()
        self._task = None  # last: a stop that is cancelled can be repeated
        await self._enter(ProjectorState.STOPPED)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def state(self) -> ProjectorState:
        """What it is doing now."""
        return self._state

    @property
    def sequence(self) -> int:
        """The last sequence that is folded and visible in the view."""
        return self._sequence

    @property
    def error(self) -> JobledgerError | None:
        """Why it stopped by itself; None if it did not."""
        return self._error

    @property
    def trouble(self) -> str:
        """Why it is reconnecting, waiting or rebuilding; empty if it is not."""
        return self._trouble if self._state in _TROUBLED else ""

    def restart_feed(self, reason: str) -> None:
        """Read on from where it is with a new consumer: the present one delivers nothing.

        Args:
            reason: of that, for an error if it does not help.
        """
        if self._feed is not None:
            self._feed.restart(reason)

    async def wait_for(self, sequence: int, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """Wait until a sequence is visible in the view: how a reader reads its own write.

        Raises:
            WaitTimeout: if it is not in time.
            JobledgerError: if the projector can't go on.
        """
        await self._wait(lambda: self._sequence >= sequence, timeout_seconds, f"event {sequence}")

    async def wait_live(self, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """Wait until everything that was in the log is in the view.

        Raises:
            WaitTimeout: if it is not in time.
            JobledgerError: if the projector can't go on.
        """
        await self._wait(lambda: self._state is ProjectorState.LIVE, timeout_seconds, "the end of the log")

    # --- the loop
    # ---------------------------------------------------------------------------------------------

    async def wait_stopped(self) -> None:
        """Wait until the projector is stopped, by `stop` or by itself.

        Raises:
            JobledgerError: why it stopped by itself.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._state is ProjectorState.STOPPED)
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._guarded()
                except Exception as error:  # noqa: BLE001 - raised again if nothing can be done
                    await self._recover(error)
        except JobledgerError as error:
            self._error = error
            await self._enter(ProjectorState.STOPPED)
        except Exception as error:  # noqa: BLE001 - whatever it is, readers must hear of it
            # A mistake of ours must not leave readers waiting for a projector that is gone.
            self._error = JobledgerError(
                f"the projector of {self._path} broke at {self._sequence}: {error!r}"
            )
            self._error.__cause__ = error
            await self._enter(ProjectorState.STOPPED)

    async def _recover(self, error: Exception) -> None:
        """Do what the error needs before folding is tried again; raise it if nothing helps."""
        match error:
            case CheckpointMoved():
                await self._start_over()
            case LogUnavailable():
                await self._pause(ProjectorState.RECONNECTING, error)
            case ViewDamaged() | ViewMissing():
                await self._rebuild(error)
            case ViewUnwritable() | ViewBusy():
                await self._retry_file(error)
            case JobledgerError():
                raise error
            case _ if self._broke or not self._sequence:
                raise error
            case _:
                # Rows that SQLite can read may still hold what no fold can have written. Once: it may be a
                # mistake of ours instead.
                self._broke = True
                what = f"folding onto the view {self._path} broke at {self._sequence}: {error!r}"
                await self._rebuild(ViewDamaged(what))

    async def _guarded(self) -> None:
        """Open what is not open and fold, until trouble, or until the file is not what it was."""
        tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._guard())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            failed = next(task for task in reversed(tasks) if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await failed

    async def _work(self) -> None:
        if self._opened is None:
            await self._open_view()
        if self._feed is None:
            self._feed = await self._open_feed()
        await self._heal_after_upgrade()
        await self._follow(self._feed)

    async def _guard(self) -> None:
        """Look after the file; never returns.

        Raises:
            ViewError: if it is gone, another one, or damaged.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(VIEW_LOOK_SECONDS):
                    await self._found_damage.wait()
            if (found := self._distrust) is not None:
                raise found
            if self._opened is not None:
                self._opened.check_files()
                if self._state is ProjectorState.LIVE and self._writing is None:
                    await self._opened.trim_log()

    @property
    def _writer(self) -> ViewWriter:
        assert self._opened is not None
        return self._opened

    # --- trouble --------------------------------------------------------------------------------------------

    async def _pause(self, state: ProjectorState, error: JobledgerError) -> None:
        self._trouble = str(error)
        await self._enter(state)
        await asyncio.sleep(self._wait_seconds)
        self._wait_seconds = min(2 * self._wait_seconds, RECONNECT_MAX_WAIT_SECONDS)

    async def _retry_file(self, error: ViewUnwritable | ViewBusy) -> None:
        """The file can't be written just now: let it go, and try again from its checkpoint."""
        is_io_error = isinstance(error, ViewUnwritable) and error.may_be_damage
        self._io_errors = self._io_errors + 1 if is_io_error else 0
        if self._io_errors > VIEW_IO_ERRORS_MAX:
            await self._rebuild(ViewDamaged(f"{error} ({self._io_errors} times in a row)"))
            return
        await self._close_files()
        await self._pause(ProjectorState.WAITING, error)

    async def _rebuild(self, error: ViewDamaged | ViewMissing) -> None:
        try:
            await self._close_files()
            await self._begin_again(error)
        except ViewUnwritable as unwritable:
            await self._pause(ProjectorState.WAITING, unwritable)

    async def _begin_again(self, error: ViewDamaged | ViewMissing) -> None:
        """Move the file out of the way, so that the next one begins empty, and suspend whoever reads it.

        Raises:
            ViewUnwritable: if it can't be moved.
            ViewError: if that was done too often.
        """
        now = asyncio.get_running_loop().time()
        if len(self._began) == VIEW_REBUILDS_MAX and now - self._began[0] < VIEW_REBUILDS_SECONDS:
            raise ViewError(
                f"the view {self._path} was rebuilt {VIEW_REBUILDS_MAX} times within"
                f" {VIEW_REBUILDS_SECONDS:g} s, and again: {error}; check the disk, and whether another"
                " process changes the file"
            ) from error
        self._suspended = ViewRebuilding(f"the view is being rebuilt from the log ({error}); ask again")
        for gate in self._gates:
            await gate.suspend(self._suspended)
        kept = None
        if not isinstance(error, ViewMissing):  # a file that was put in its place is used, if it is a view
            kept = await asyncio.to_thread(set_aside, self._path)
        self._began.append(now)
        self.rebuilds += 1
        where = f"; the old file is {kept.name}" if kept is not None else ""
        _log.warning("rebuilding the view from the log: %s%s", error, where)
        self._distrust = None
        self._found_damage.clear()
        self._trouble = str(error)
        self._sequence = 0
        await self._enter(ProjectorState.REBUILDING)

    async def _let_readers_in(self) -> None:
        if self._suspended is None:
            return
        for gate in self._gates:
            await gate.resume()
        self._suspended = None
        _log.info("the view is rebuilt, up to %d", self._sequence)

    async def _open_view(self) -> None:
        """Open the file, and go on from its checkpoint.

        Raises:
            ViewDamaged: if it can't be read, or was put in the place of the file of this log.
            ViewError: if it can't be used.
        """
        writer = await ViewWriter.open(self._path, tree=self._keeps_tree)
        if self._epoch is not None and writer.epoch not in (None, self._epoch):
            await writer.close()
            raise ViewDamaged(
                f"the view {self._path} was made from another log (created {writer.epoch}) than this one"
                f" (created {self._epoch})"
            )
        self._opened = writer
        writer.check_files()
        async with self._changed:
            self._sequence = writer.sequence
            self._told = max(self._told, writer.sequence)

    async def _close_files(self) -> None:
        """Let the log and the file go."""
        await self._close_feed()
        writing, self._writing = self._writing, None
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        writer, self._opened = self._opened, None
        if writer is not None:
            await writer.close()

    # --- folding --------------------------------------------------------------------------------------------

    async def _follow(self, feed: LogReader) -> None:
        """Fold what comes, until trouble."""
        while True:
            if self._state in (ProjectorState.RECONNECTING, ProjectorState.WAITING):
                self._target = (await self._log.info()).last_sequence
                is_whole = self._suspended is None
                await self._enter(ProjectorState.CATCHING_UP if is_whole else ProjectorState.REBUILDING)
            if self._folded >= self._target:
                # All that was there is folded: what is being written must be seen before we wait for more.
                await self._written()
                if self._state in (ProjectorState.CATCHING_UP, ProjectorState.REBUILDING):
                    self._wait_seconds = RECONNECT_WAIT_SECONDS
                    self._io_errors = 0
                    await self._let_readers_in()
                    await self._enter(ProjectorState.LIVE)
            try:
                records = await feed.take(COMMIT_MAX_EVENTS)
            except LogDamaged as damage:
                async with self._exclusive:
                    await self._pass(damage.last)
                continue
            for chunk in _chunks(records):
                async with self._exclusive:
                    await self._project(chunk)

    async def heal(self) -> Healed:
        """Fold the jobs in quarantine again, from their own events: after a repair of the log, say.

        Everything else goes on; a projector of another release does it by itself when it begins.

        Raises:
            ViewError: if this projector is stopped, or another one moved on in the same file; try again.
            LogUnavailable: if the log can't be read; try again.
        """
        if self._task is None or self._state is ProjectorState.STOPPED:
            raise ViewError(f"the projector of {self._path} is stopped; start it first")
        async with self._exclusive:
            await self._written()
            try:
                return await heal_view(self._log, self._writer)
            except CheckpointMoved as error:
                raise ViewError(f"{error}; heal the view again") from error

    async def _heal_after_upgrade(self) -> None:
        async with self._exclusive:
            await self._written()
            if await self._writer.knows(VOCABULARY):
                return
            healed = await heal_view(self._log, self._writer)
            await self._writer.learn(VOCABULARY)
        if healed.jobs:
            _log.info(
                "this release reads other events than the one before: %d quarantined jobs were folded again,"
                " %d changed, %d still are in quarantine",
                *healed,
            )

    async def _project(self, records: Sequence[Record]) -> None:
        """Fold a batch while the one before is being written, then write it."""
        events = read_all(records)
        known = await self._writer.statuses(jobs_named(events))
        batch = fold_batch(events, known, records if self._tap is not None else ())
        batch.last_time = records[-1].time
        self._check_clock(records)
        batch.holes = holes_in(records, self._folded)
        self._report(batch)
        batch.tree = self._writer.grow(records)
        await self._written()
        self._writer.remember(batch.statuses)
        self._folded = batch.last_sequence
        # A task of its own: a stop in mid-transaction lets it finish instead of tearing it.
        self._writing = asyncio.create_task(self._write(batch))

    def _check_clock(self, records: Sequence[Record]) -> None:
        """Count each event at which the stream's time goes back, once; one line in the log for each."""
        for step in steps_back(records, self._time):
            if step.sequence <= self._clock_checked:  # it was folded before
                continue
            self.clock_steps += 1
            if self.clock_steps <= CLOCK_LOG_LINES:
                _log.warning(
                    "the stream's time goes back by %.3f s at event %d: the clock of a NATS server was set"
                    " back, or that of another leader is behind; a job's ModifyTime keeps the largest time",
                    step.nanoseconds / 1e9,
                    step.sequence,
                )
        self._time = records[-1].time
        self._clock_checked = max(self._clock_checked, records[-1].sequence)

    async def _pass(self, up_to: int) -> None:
        """Go on after events at the end of the log that can't be read: nothing comes after them yet."""
        batch = Batch({}, {}, {}, [], [], {}, up_to)
        batch.holes = [Hole(self._folded + 1, up_to)]
        batch.folded = [] if self._tap is not None else None
        batch.tree = self._writer.grow((), up_to)
        self._report(batch)
        await self._written()
        self._folded = up_to
        self._writing = asyncio.create_task(self._write(batch))

    def _report(self, batch: Batch) -> None:
        """One line in the log for each hole, and for each job that is quarantined, up to a limit."""
        for hole in batch.holes:
            _log.error(
                "the log is damaged: events %d to %d are missing; the view goes on after them, jobs that miss"
                " one are quarantined (`jobledger view damage`)",
                *hole,
            )
        for status in batch.statuses.values():
            quarantine = status.quarantine
            if (
                quarantine is None
                or len(quarantine.unread) > 1
                or len(self._reported_jobs) >= QUARANTINE_LOG_LINES
            ):
                continue
            if status.id not in self._reported_jobs:
                self._reported_jobs.add(status.id)
                _log.warning(
                    "job %s in namespace %s is quarantined: %s",
                    status.id,
                    status.namespace,
                    quarantine.reason,
                )

    async def _write(self, batch: Batch) -> None:
        await self._writer.write(batch)
        await self._reach(batch.last_sequence, batch.folded)

    async def _written(self) -> None:
        """Wait for the batch that is being written, and hear what became of it."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def _open_feed(self) -> LogReader:
        writer = self._writer
        time = writer.time
        info = await self._log.continues(
            epoch=writer.epoch,
            after=self._sequence,
            same=(lambda record: record.time == time) if time else None,
        )
        await writer.adopt(info.epoch)
        self._epoch = info.epoch
        self._target = info.last_sequence
        self._folded, self._time = self._sequence, time
        return await self._log.follow(after=self._sequence, epoch=info.epoch)

    async def _start_over(self) -> None:
        """Another projector on this file was faster: go on from where it is."""
        self._writing = None
        await self._close_feed()
        await self._reach(await self._writer.reload())

    async def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.close()

    async def _reach(self, sequence: int, folded: Sequence[Folded] | None = None) -> None:
        async with self._changed:
            self._sequence = sequence
            self._changed.notify_all()
        told = self._told
        if sequence <= told:  # rebuilding: all of that was told before
            return
        self._told = sequence
        if self._tap is not None:
            if folded is not None and folded and folded[0].record.sequence <= told:
                folded = [each for each in folded if each.record.sequence > told]
            self._tap.take(told, sequence, folded)

    async def _enter(self, state: ProjectorState) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()
        if self._tap is not None and state is ProjectorState.STOPPED:
            self._tap.end(self._error)

    async def _wait(self, reached: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._changed.wait_for(lambda: reached() or self._state is ProjectorState.STOPPED)
            except TimeoutError:
                raise WaitTimeout(
                    f"the view is at {self._sequence} ({self._state}) and did not reach {what} within"
                    f" {timeout_seconds:g} s; wait longer, or see why the projector is behind"
                ) from None
        if not reached():
            raise self._error or WaitTimeout(f"the projector is stopped at {self._sequence}; start it again")


def _chunks(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Records in portions whose payloads stay under the limit of a transaction (or that are one record)."""
    chunks: list[Sequence[Record]] = []
    start = size = 0
    for index, record in enumerate(records):
        if size and size + len(record.payload) > COMMIT_MAX_BYTES:
            chunks.append(records[start:index])
            start, size = index, 0
        size += len(record.payload)
    chunks.append(records[start:])
    return chunks
