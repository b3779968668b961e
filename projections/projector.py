"""The projector reads the log, folds it, and keeps the view up to date.

    catching_up ──► live ──► reconnecting ──► catching_up …    the log does not answer
         │            ├────► waiting ───────► catching_up …    the file cannot be written: disk full, locked
         │            └────► rebuilding ────► catching_up …    the file is damaged, truncated, lost or
         replaced └──► stopped (requested, or an error that an operator must resolve)

Rows and checkpoint move in one transaction, guarded by the previous checkpoint: a crash repeats a batch or
does not, and of two projectors on one file only one can commit. See DESIGN.md in this folder.
"""

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from jobledger.projections.batch import (
    Batch,
    Folded,
    Hole,
    find_clock_steps,
    find_holes,
    fold_batch,
    job_ids_in,
    read_events,
)
from jobledger.projections.database import move_damaged
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
    CATCH_UP_MIN_EVENTS,
    CLOCK_LOG_LINES,
    COMMIT_MAX_BYTES,
    COMMIT_MAX_EVENTS,
    QUARANTINE_LOG_LINES,
    RECONNECT_MAX_WAIT_SECONDS,
    RECONNECT_WAIT_SECONDS,
    VIEW_IO_ERRORS_MAX,
    VIEW_POLL_SECONDS,
    VIEW_REBUILDS_MAX,
    VIEW_REBUILDS_SECONDS,
    WAIT_DEFAULT_SECONDS,
)
from jobledger.projections.writer import CheckpointMoved, ViewWriter
from jobledger.store.backoff import Backoff
from jobledger.store.log import EventLog, LogReader
from jobledger.store.model.errors import JobledgerError, LogBehind, LogDamaged, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_log = logging.getLogger("jobledger.view")


class ProjectorState(enum.StrEnum):
    """What a projector is doing."""

    CATCHING_UP = "catching_up"  # folding what was in the log when it started or reconnected
    LIVE = "live"  # folding new events as they arrive
    RECONNECTING = "reconnecting"  # retrying: the log does not answer, or lacks events; see `trouble`
    WAITING = "waiting"  # retrying: the view's file cannot be written; see `trouble`
    REBUILDING = "rebuilding"  # folding the log again: the file was damaged or lost; see `trouble`
    STOPPED = "stopped"  # stopped on request, or by `error`


_TROUBLED: Final = frozenset({ProjectorState.RECONNECTING, ProjectorState.WAITING, ProjectorState.REBUILDING})


class ProjectionListener(Protocol):
    """Receives what a projector folds, once it is visible in the view. Its methods must return quickly."""

    def on_start(self, sequence: int) -> None:
        """The view is at this sequence; `on_advance` continues from here."""
        ...

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        """The view advanced.

        Args:
            after: the previous sequence.
            up_to: the new sequence.
            folded: the events in between that changed a job, in order; None if they are unknown, because
                another projector applied them.
        """
        ...

    def on_stop(self, error: JobledgerError | None) -> None:
        """The projector stopped, on request (None) or because of an error."""
        ...


class ViewReader(Protocol):
    """A reader of the view's file that must close it during a rebuild."""

    async def suspend(self, why: ViewError) -> None:
        """Close the file; reads raise this error until `resume`."""
        ...

    async def resume(self) -> None:
        """Open the file that is at the path now; it contains all that the previous one did."""
        ...


class RowWatcher(Protocol):
    """Is informed before rows of jobs change, for example because it keeps what was read."""

    def changing(self, statuses: Iterable[JobStatus] | None) -> None:
        """The rows of these jobs are about to change (None: possibly those of all), until `settled`."""
        ...

    def settled(self) -> None:
        """The rows are committed, and the projector's sequence is theirs; or nothing changed."""
        ...


class Projector:
    """Keeps one SQLite file up to date with one log: `async with Projector(log, path) as projector`.

    The wait methods raise `WaitTimeout`, or the error that stopped the projector.

    Args:
        log: the log to fold.
        path: the view's file; created if missing, rebuilt if its rows have an older meaning.
        tree: whether the view keeps the Merkle tree of the log, for proofs. A view created without the tree
            is rebuilt; from a view that has it and should not, the tree is deleted.
        epoch: of the log, if it is known for certain: a view of another log is then moved away and rebuilt.
            If None, such a view raises `LogReplaced`, because either of the two can be the wrong one.

    Attributes:
        rebuilds: number of times that the file was damaged or lost and was rebuilt.
        clock_steps: number of events before which the stream's time went back.
    """

    def __init__(self, log: EventLog, path: Path, *, tree: bool = True, epoch: str | None = None) -> None:
        self.rebuilds = 0
        self.clock_steps = 0
        self._known_epoch = epoch
        self._log = log
        self._path = path
        self._keeps_tree = tree
        self._state = ProjectorState.CATCHING_UP
        self._sequence = 0  # committed and visible
        self._announced = 0  # the highest sequence that was ever visible: `_sequence`, but while rebuilding
        self._folded = 0  # folded, possibly not committed yet
        self._time = 0  # stream time of that event; 0 if unknown
        self._clock_checked = 0  # the last event whose stream time was checked
        self._error: JobledgerError | None = None
        self._trouble = ""
        self._opened: ViewWriter | None = None
        self._reader: LogReader | None = None
        self._epoch: str | None = None  # of the log
        self._changed = asyncio.Condition()
        self._target = 0
        self._backoff = Backoff(RECONNECT_WAIT_SECONDS, RECONNECT_MAX_WAIT_SECONDS)
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._reported_jobs: set[str] = set()  # quarantined jobs that were logged; bounded
        self._exclusive = asyncio.Lock()  # held while records are folded, and while jobs are refolded
        self._listener: ProjectionListener | None = None
        self._view_readers: list[ViewReader] = []
        self._row_watcher: RowWatcher | None = None
        self._suspended: ViewError | None = None  # the error that suspended readers raise
        self._reported_damage: ViewDamaged | None = None  # damage found by a reader
        self._found_damage = asyncio.Event()
        self._rebuild_times: deque[float] = deque(maxlen=VIEW_REBUILDS_MAX)
        self._io_errors = 0  # consecutive
        self._rebuilt_after_bug = False

    def attach(self, listener: ProjectionListener) -> None:
        """Report every batch to this listener, starting with the one that is being written."""
        self._listener = listener
        listener.on_start(self._announced)
        if self._state is ProjectorState.STOPPED:
            listener.on_stop(self._error)

    def watch_rows(self, watcher: RowWatcher) -> None:
        """Report every change of a row to this watcher before it is made, starting with the next batch."""
        watcher.changing(None)
        if self._writing is None and self._suspended is None:
            watcher.settled()
        self._row_watcher = watcher

    async def add_view_reader(self, reader: ViewReader) -> None:
        """Suspend this reader of the file during every rebuild."""
        self._view_readers.append(reader)
        if self._suspended is not None:
            await reader.suspend(self._suspended)

    def report_damage(self, error: ViewDamaged) -> None:
        """Rebuild the file because a reader found damage."""
        if self._suspended is None:
            self._reported_damage = error
            self._found_damage.set()

    async def start(self) -> Self:
        """Open the view, check that the log continues it, and start.

        A log that appears to lack events of the view is no error here: the projector starts as
        `reconnecting`, and stops if the loss is proven. A damaged file is moved away: the projector starts as
        `rebuilding`.

        Raises:
            ViewError: if the file cannot be used.
            LogBroken: if the log is not the one that the view was made from.
            LogUnavailable: if the log does not answer.
        """
        if self._task is not None:
            raise ViewError(f"the projector of {self._path} is already running; stop it first")
        self._error, self._writing, self._trouble = None, None, ""
        self._sequence = self._announced = 0
        self._epoch = self._known_epoch
        self._state = ProjectorState.CATCHING_UP
        try:
            await self._start()
        except BaseException:
            await self._close_files()
            raise
        if self._listener is not None:
            self._listener.on_start(self._announced)
        self._task = asyncio.create_task(self._run())
        return self

    async def _start(self) -> None:
        try:
            if self._reported_damage is not None:  # reported before the start
                raise self._reported_damage
            await self._open_view()
        except ViewDamaged as error:
            await self._start_rebuild(error)
            await self._open_view()
            # Readers resume only when the new view has all events that are in the log now.
            self._announced = (await self._log.info()).last_sequence
        try:
            self._reader = await self._open_reader()
        except LogBehind as error:
            self._state, self._trouble = ProjectorState.RECONNECTING, str(error)

    async def stop(self) -> None:
        """Finish the transaction in progress, and close. Idempotent."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, *filter(None, (self._writing,)), return_exceptions=True)
        await self._close_files()
        self._task = None  # last: a cancelled stop can be repeated
        await self._enter(ProjectorState.STOPPED)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def state(self) -> ProjectorState:
        """The current state."""
        return self._state

    @property
    def sequence(self) -> int:
        """The last sequence that is visible in the view."""
        return self._sequence

    @property
    def error(self) -> JobledgerError | None:
        """The error that stopped the projector; None if there is none."""
        return self._error

    @property
    def trouble(self) -> str:
        """Why the projector is reconnecting, waiting or rebuilding; otherwise empty."""
        return self._trouble if self._state in _TROUBLED else ""

    def restart_reader(self, reason: str) -> None:
        """Replace the log's consumer, which delivers nothing, and continue at the same position."""
        if self._reader is not None:
            self._reader.restart(reason)

    async def wait_for(self, sequence: int, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """Wait until a sequence is visible in the view, for example to read one's own write."""
        await self._wait(lambda: self._sequence >= sequence, timeout_seconds, f"event {sequence}")

    async def wait_live(self, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """Wait until everything that was in the log is in the view."""
        await self._wait(lambda: self._state is ProjectorState.LIVE, timeout_seconds, "the end of the log")

    async def wait_state_change(self, state: ProjectorState, trouble: str) -> None:
        """Wait until the state, or its trouble, is another one than this."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state is not state or self.trouble != trouble)

    async def wait_stopped(self) -> None:
        """Wait until the projector stops."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state is ProjectorState.STOPPED)
        if self._error is not None:
            raise self._error

    # --- the loop -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._run_until_error()
                except Exception as error:  # noqa: BLE001 - raised again if it cannot be handled
                    await self._recover(error)
        except JobledgerError as error:
            self._error = error
            await self._enter(ProjectorState.STOPPED)
        except Exception as error:  # noqa: BLE001 - a bug must not leave callers waiting for a dead projector
            self._error = JobledgerError(
                f"the projector of {self._path} failed at event {self._sequence}: {error!r}"
            )
            self._error.__cause__ = error
            await self._enter(ProjectorState.STOPPED)

    async def _recover(self, error: Exception) -> None:
        """Prepare the next try; raise the error if a retry cannot help."""
        match error:
            case CheckpointMoved():
                await self._reload()
            case LogUnavailable():
                await self._pause(ProjectorState.RECONNECTING, error)
            case ViewDamaged() | ViewMissing():
                await self._rebuild(error)
            case ViewUnwritable() | ViewBusy():
                await self._retry_file(error)
            case JobledgerError():
                raise error
            case _ if self._rebuilt_after_bug or not self._sequence:
                raise error
            case _:
                # Rows that SQLite can read may contain what no fold has written. Rebuild once only: it may be
                # a bug instead.
                self._rebuilt_after_bug = True
                what = f"folding onto the view {self._path} failed at event {self._sequence}: {error!r}"
                await self._rebuild(ViewDamaged(what))

    async def _run_until_error(self) -> None:
        tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._watch_file())]
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
        if self._reader is None:
            self._reader = await self._open_reader()
        await self._heal_after_upgrade()
        await self._follow(self._reader)

    async def _watch_file(self) -> None:
        """Check the file periodically; never returns."""
        seen = -1
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(VIEW_POLL_SECONDS):
                    await self._found_damage.wait()
            if (found := self._reported_damage) is not None:
                raise found
            if self._opened is not None:
                self._opened.check_files()
                is_idle, seen = self._sequence == seen, self._sequence
                if is_idle and self._state is ProjectorState.LIVE and self._writing is None:
                    await self._opened.trim_log()

    @property
    def _writer(self) -> ViewWriter:
        assert self._opened is not None
        return self._opened

    # --- recovery -------------------------------------------------------------------------------------------

    async def _pause(self, state: ProjectorState, error: JobledgerError) -> None:
        self._trouble = str(error)
        await self._enter(state)
        await asyncio.sleep(self._backoff.next_seconds())

    async def _retry_file(self, error: ViewUnwritable | ViewBusy) -> None:
        """Close the file, and retry from its checkpoint later."""
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
            await self._start_rebuild(error)
        except ViewUnwritable as unwritable:
            await self._pause(ProjectorState.WAITING, unwritable)

    async def _start_rebuild(self, error: ViewDamaged | ViewMissing) -> None:
        """Suspend the readers and move the file away, so that the next one starts empty."""
        now = asyncio.get_running_loop().time()
        if (
            len(self._rebuild_times) == VIEW_REBUILDS_MAX
            and now - self._rebuild_times[0] < VIEW_REBUILDS_SECONDS
        ):
            raise ViewError(
                f"the view {self._path} was rebuilt {VIEW_REBUILDS_MAX} times within"
                f" {VIEW_REBUILDS_SECONDS:g} s and is damaged again: {error}; check the disk, and whether"
                " another process changes the file"
            ) from error
        self._suspended = ViewRebuilding(f"the view is being rebuilt from the log ({error}); try again later")
        self._rows_change(None)
        for reader in self._view_readers:
            await reader.suspend(self._suspended)
        kept = None
        if not isinstance(error, ViewMissing):  # a file that replaced it is used, if it is a valid view
            kept = await asyncio.to_thread(move_damaged, self._path)
        self._rebuild_times.append(now)
        self.rebuilds += 1
        where = f"; the old file is {kept.name}" if kept is not None else ""
        _log.warning("rebuilding the view from the log: %s%s", error, where)
        self._reported_damage = None
        self._found_damage.clear()
        self._trouble = str(error)
        self._sequence = 0
        await self._enter(ProjectorState.REBUILDING)

    async def _resume_readers(self) -> None:
        if self._suspended is None:
            return
        for reader in self._view_readers:
            await reader.resume()
        self._suspended = None
        _log.info("the view is rebuilt up to event %d", self._sequence)

    async def _open_view(self) -> None:
        """Open the file, and continue from its checkpoint."""
        self._rows_change(None)  # another projector may have moved it
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
            self._announced = max(self._announced, writer.sequence)
        self._rows_settled()

    async def _close_files(self) -> None:
        """Close the reader of the log and the file."""
        await self._close_reader()
        writing, self._writing = self._writing, None
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        writer, self._opened = self._opened, None
        if writer is not None:
            await writer.close()

    # --- folding --------------------------------------------------------------------------------------------

    async def _follow(self, reader: LogReader) -> None:
        """Fold records as they arrive; returns only by an error."""
        while True:
            if self._state in (ProjectorState.RECONNECTING, ProjectorState.WAITING):
                self._target = (await self._log.info()).last_sequence
                is_whole = self._suspended is None
                await self._enter(ProjectorState.CATCHING_UP if is_whole else ProjectorState.REBUILDING)
            if self._target - self._folded >= CATCH_UP_MIN_EVENTS:
                await self._writer.set_catching_up(True)
            if self._folded >= self._target:
                # All that was in the log is folded: commit it before waiting for more.
                await self._written()
                await self._writer.set_catching_up(False)
                if self._state in (ProjectorState.CATCHING_UP, ProjectorState.REBUILDING):
                    self._backoff.reset()
                    self._io_errors = 0
                    await self._resume_readers()
                    await self._enter(ProjectorState.LIVE)
            try:
                records = await reader.take(COMMIT_MAX_EVENTS)
            except LogDamaged as damage:
                async with self._exclusive:
                    await self._skip_damage(damage.last)
                continue
            for chunk in _chunks(records):
                async with self._exclusive:
                    await self._project(chunk)

    async def heal(self) -> Healed:
        """Refold the jobs in quarantine from their own events, for example after the log was repaired.

        The view stays readable. After an upgrade, a projector heals the view when it starts.
        """
        if self._task is None or self._state is ProjectorState.STOPPED:
            raise ViewError(f"the projector of {self._path} is stopped; start it first")
        async with self._exclusive:
            await self._written()
            self._rows_change(None)
            try:
                return await heal_view(self._log, self._writer)
            except CheckpointMoved as error:
                raise ViewError(f"{error}; heal the view again") from error
            finally:
                self._rows_settled()

    async def _heal_after_upgrade(self) -> None:
        async with self._exclusive:
            await self._written()
            if await self._writer.has_vocabulary(VOCABULARY):
                return
            self._rows_change(None)
            try:
                healed = await heal_view(self._log, self._writer)
            finally:
                self._rows_settled()
            await self._writer.set_vocabulary(VOCABULARY)
        if healed.jobs:
            _log.info(
                "this release reads other events than the previous one: %d quarantined jobs were refolded, %d"
                " changed, %d are still in quarantine",
                *healed,
            )

    async def _project(self, records: Sequence[Record]) -> None:
        """Fold a batch while the previous one is written, then write it."""
        events = read_events(records)
        known = await self._writer.statuses(job_ids_in(events))
        batch = fold_batch(events, known, records if self._listener is not None else ())
        batch.last_time = records[-1].time
        batch.clock_steps = self._check_clock(records)
        batch.holes = find_holes(records, self._folded)
        self._report(batch)
        batch.tree = self._writer.append_to_tree(records)
        await self._written()
        self._writer.remember(batch.statuses)
        self._folded = batch.last_sequence
        # A separate task: a stop during the transaction lets it finish.
        self._writing = asyncio.create_task(self._write(batch))

    def _check_clock(self, records: Sequence[Record]) -> int:
        """Count and log each event before which the stream's time went back, once.

        Returns the number of such events, also of those that were counted before.
        """
        steps = find_clock_steps(records, self._time)
        for step in steps:
            if step.sequence <= self._clock_checked:  # folded before
                continue
            self.clock_steps += 1
            if self.clock_steps <= CLOCK_LOG_LINES:
                _log.warning(
                    "the stream's time goes back by %.3f s at event %d: the clock of a NATS server was set"
                    " back, or the clock of a new leader is behind; ModifyTime keeps the largest time",
                    step.nanoseconds / NANOSECONDS_PER_SECOND,
                    step.sequence,
                )
        self._time = records[-1].time
        self._clock_checked = max(self._clock_checked, records[-1].sequence)
        return len(steps)

    async def _skip_damage(self, up_to: int) -> None:
        """Continue after events at the end of the log that cannot be read."""
        batch = Batch(last_sequence=up_to)
        batch.holes = [Hole(self._folded + 1, up_to)]
        batch.folded = [] if self._listener is not None else None
        batch.tree = self._writer.append_to_tree((), up_to)
        self._report(batch)
        await self._written()
        self._folded = up_to
        self._writing = asyncio.create_task(self._write(batch))

    def _report(self, batch: Batch) -> None:
        """Log each hole and each newly quarantined job, up to a limit."""
        for hole in batch.holes:
            _log.error(
                "the log is damaged: events %d to %d are missing; the view continues after them, and jobs"
                " that miss one are quarantined (`jobledger view damage`)",
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
        self._rows_change(batch.statuses.values())
        await self._writer.write(batch)
        await self._advance(batch.last_sequence, batch.folded)
        self._rows_settled()

    def _rows_change(self, statuses: Iterable[JobStatus] | None) -> None:
        if self._row_watcher is not None:
            self._row_watcher.changing(statuses)

    def _rows_settled(self) -> None:
        if self._row_watcher is not None:
            self._row_watcher.settled()

    async def _written(self) -> None:
        """Wait for the batch that is being written; raises its error."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def _open_reader(self) -> LogReader:
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

    async def _reload(self) -> None:
        """Continue from the checkpoint to which another projector moved this file."""
        self._writing = None
        self._rows_change(None)
        await self._close_reader()
        await self._advance(await self._writer.reload())
        self._rows_settled()

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _advance(self, sequence: int, folded: Sequence[Folded] | None = None) -> None:
        async with self._changed:
            self._sequence = sequence
            self._changed.notify_all()
        announced = self._announced
        if sequence <= announced:  # rebuilding: the listener has received all of this before
            return
        self._announced = sequence
        if self._listener is not None:
            if folded is not None and folded and folded[0].record.sequence <= announced:
                folded = [each for each in folded if each.record.sequence > announced]
            self._listener.on_advance(announced, sequence, folded)

    async def _enter(self, state: ProjectorState) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()
        if self._listener is not None and state is ProjectorState.STOPPED:
            self._listener.on_stop(self._error)

    async def _wait(self, reached: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._changed.wait_for(lambda: reached() or self._state is ProjectorState.STOPPED)
            except TimeoutError:
                raise WaitTimeout(
                    f"the view is at {self._sequence} ({self._state}) and did not reach {what} within"
                    f" {timeout_seconds:g} s; wait longer, or find out why the projector is behind"
                ) from None
        if not reached():
            raise self._error or WaitTimeout(
                f"the projector is stopped at event {self._sequence}; start it again"
            )


def _chunks(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Split records so that the payloads of each chunk, unless it is one record, fit into a transaction."""
    chunks: list[Sequence[Record]] = []
    start = size = 0
    for index, record in enumerate(records):
        if size and size + len(record.payload) > COMMIT_MAX_BYTES:
            chunks.append(records[start:index])
            start, size = index, 0
        size += len(record.payload)
    chunks.append(records[start:])
    return chunks
