"""The projector: reads the log, folds it, and keeps the view, for ever.

    catching_up ──► live ──► reconnecting ──► catching_up …
         └────────────┴────────────┴──► stopped (asked to, or an error that only a person can mend)

Rows and checkpoint move in one transaction, and the checkpoint is guarded by its old value: a crash repeats a
batch or does not, and two projectors on one file can't both win. See DESIGN.md beside this file.
"""

import asyncio
import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

from jobledger.projections.batch import Batch, Folded, fold_batch, jobs_named, read_all
from jobledger.projections.errors import ViewError, WaitTimeout
from jobledger.projections.limits import (
    COMMIT_MAX_BYTES,
    COMMIT_MAX_EVENTS,
    RECONNECT_MAX_WAIT_SECONDS,
    RECONNECT_WAIT_SECONDS,
    WAIT_DEFAULT_SECONDS,
)
from jobledger.projections.viewwriter import Overtaken, ViewWriter
from jobledger.store.errors import JobledgerError, LogBehind, LogUnavailable
from jobledger.store.events import Record
from jobledger.store.log import EventLog, Feed


class ProjectorState(enum.StrEnum):
    """What a projector is doing."""

    CATCHING_UP = "catching_up"  # folding what was there when it began, or came while it was away
    LIVE = "live"  # has folded all there was; folds what comes
    RECONNECTING = (
        "reconnecting"  # no answer of the log, or one that lacks events; tries again, see `trouble`
    )
    STOPPED = "stopped"  # asked to stop, or can't go on: see `error`


class Tap(Protocol):
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


class Projector:
    """Keeps one SQLite file up with one log; `async with Projector(log, path) as projector`.

    Args:
        log: what to fold.
        path: the view's file, made if it is missing, rebuilt if its rows mean something else to this release.
        tree: whether the Merkle tree over the log is kept as well, for proofs. A file that was begun without
            it is rebuilt; from one that has it and shall not, it is taken out.
    """

    def __init__(self, log: EventLog, path: Path, *, tree: bool = True) -> None:
        self._log = log
        self._path = path
        self._keeps_tree = tree
        self._state = ProjectorState.CATCHING_UP
        self._sequence = 0  # written, visible
        self._folded = 0  # folded, perhaps still being written
        self._error: JobledgerError | None = None
        self._trouble = ""
        self._feed: Feed | None = None
        self._changed = asyncio.Condition()
        self._target = 0
        self._wait_seconds = RECONNECT_WAIT_SECONDS  # before the log is tried again
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._tap: Tap | None = None

    def attach(self, tap: Tap) -> None:
        """From now on tell this one what is folded; what is being written at this moment is the first."""
        self._tap = tap
        tap.begin(self._sequence)
        if self._state is ProjectorState.STOPPED:
            tap.end(self._error)

    async def start(self) -> Self:
        """Open the view, check that the log continues it, and begin.

        A log that seems to lack what the view has is no error here: the projector begins `reconnecting`, and
        stops for good if the loss is proven.

        Raises:
            ViewError: if the file can't be used.
            LogBroken: if the log is not the one that the view was made from.
            LogUnavailable: if the log does not answer.
        """
        if self._task is not None:
            raise ViewError(f"this projector of {self._path} is running; stop it first, or use it as it is")
        self._error, self._writing, self._feed, self._trouble = None, None, None, ""
        self._state = ProjectorState.CATCHING_UP
        self._writer = await ViewWriter.open(self._path, tree=self._keeps_tree)
        try:
            self._sequence = self._writer.sequence
            self._feed = await self._open_feed()
        except LogBehind as error:
            self._state, self._trouble = ProjectorState.RECONNECTING, str(error)
        except BaseException:
            await self._writer.close()
            raise
        if self._tap is not None:
            self._tap.begin(self._sequence)
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        """Finish the transaction under way, and close. Stopping twice is harmless."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, *filter(None, (self._writing,)), return_exceptions=True)
        await self._close_feed()
        await self._writer.close()
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
        """Why it is reconnecting; empty if it is not."""
        return self._trouble if self._state is ProjectorState.RECONNECTING else ""

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
        overtaken = False
        try:
            while True:
                try:
                    if overtaken:
                        await self._start_over()
                        overtaken = False
                    feed = self._feed = self._feed or await self._open_feed()
                    await self._follow(feed)
                except Overtaken:
                    overtaken = True
                except LogUnavailable as error:
                    self._trouble = str(error)
                    await self._enter(ProjectorState.RECONNECTING)
                    await asyncio.sleep(self._wait_seconds)
                    self._wait_seconds = min(2 * self._wait_seconds, RECONNECT_MAX_WAIT_SECONDS)
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

    async def _follow(self, feed: Feed) -> None:
        """Fold what comes, until trouble."""
        while True:
            if self._state is ProjectorState.RECONNECTING:
                self._target = (await self._log.info()).last_sequence
                await self._enter(ProjectorState.CATCHING_UP)
            if self._folded >= self._target:
                # All that was there is folded: what is being written must be seen before we wait for more.
                await self._written()
                if self._state is ProjectorState.CATCHING_UP:
                    self._wait_seconds = RECONNECT_WAIT_SECONDS
                    await self._enter(ProjectorState.LIVE)
            for chunk in _chunks(await feed.take(COMMIT_MAX_EVENTS)):
                await self._project(chunk)

    async def _project(self, records: Sequence[Record]) -> None:
        """Fold a batch while the one before is being written, then write it."""
        events = read_all(records)
        known = await self._writer.statuses(jobs_named(events))
        batch = fold_batch(events, known, records if self._tap is not None else ())
        batch.last_time = records[-1].time
        batch.tree = self._writer.grow(records)
        await self._written()
        self._writer.remember(batch.statuses)
        self._folded = batch.last_sequence
        # A task of its own: a stop in mid-transaction lets it finish instead of tearing it.
        self._writing = asyncio.create_task(self._write(batch))

    async def _write(self, batch: Batch) -> None:
        await self._writer.write(batch)
        await self._reach(batch.last_sequence, batch.folded)

    async def _written(self) -> None:
        """Wait for the batch that is being written, and hear what became of it."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def _open_feed(self) -> Feed:
        time = self._writer.time
        info = await self._log.continues(
            epoch=self._writer.epoch,
            after=self._sequence,
            same=(lambda record: record.time == time) if time else None,
        )
        await self._writer.adopt(info.epoch)
        self._target = info.last_sequence
        self._folded = self._sequence
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
            after, self._sequence = self._sequence, sequence
            self._changed.notify_all()
        if self._tap is not None:
            self._tap.take(after, sequence, folded)

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
