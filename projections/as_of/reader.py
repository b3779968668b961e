"""What was at a point: the public face of this folder."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Self

from jobledger.projections.as_of.job import job_as_of
from jobledger.projections.as_of.snapshots import SnapshotCache, WaitScope
from jobledger.projections.limits import ASOF_MAX_BYTES, ASOF_MAX_COPIES, WAIT_DEFAULT_SECONDS
from jobledger.projections.query.query import ListQuery
from jobledger.projections.results import Page
from jobledger.projections.view import View
from jobledger.store.log import EventLog
from jobledger.store.model.job import Job


class AsOf:
    """Reads as of a sequence; `async with await AsOf.open(log, view, directory) as asof`.

    Args:
        log: of the view.
        view: the live view.
        copies: of it.
    """

    def __init__(self, log: EventLog, view: View, copies: SnapshotCache) -> None:
        self._log = log
        self._view = view
        self.copies = copies

    @classmethod
    async def open(
        cls,
        log: EventLog,
        view: View,
        directory: Path,
        *,
        max_copies: int = ASOF_MAX_COPIES,
        max_bytes: int = ASOF_MAX_BYTES,
    ) -> Self:
        """Open it over a live view, which a projector keeps up.

        Args:
            log: of the view.
            view: the live view; it stays the caller's.
            directory: for copies of it, used by nobody else; made if it is missing.
            max_copies: kept at most, from 1.
            max_bytes: that they may take together; the one that was used last stays, whatever its size.

        Raises:
            OSError: if the directory can't be used.
            LogUnavailable: if the log does not answer.
        """
        copies = await SnapshotCache.open(log, view, directory, max_copies=max_copies, max_bytes=max_bytes)
        return cls(log, view, copies)

    async def close(self) -> None:
        """Stop what is being built. Closing twice is harmless."""
        await self.copies.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def job(self, present: Job, sequence: int, *, checkpoint: int = 0) -> Job:
        """A job as it was when the log ended at a sequence; some milliseconds.

        Args:
            present: the job as the view has it.
            sequence: up to the end of the log.
            checkpoint: how far the view was before `present` was read; 0: not known. It saves a read of the
                log where nothing has happened to the job since the point.

        Raises:
            JobNotFound: if it did not exist yet.
            LogUnavailable: if the log can't be read.
        """
        return await job_as_of(self._log, present, sequence, checkpoint=checkpoint)

    async def list(
        self,
        query: ListQuery,
        sequence: int,
        *,
        timeout_seconds: float = WAIT_DEFAULT_SECONDS,
        client: str = "",
        waiting: WaitScope = nullcontext,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Page:
        """One page of jobs as they were when the log ended at a sequence. The first page may take long.

        Args:
            query: as of the live view; a cursor is of a page as of the same sequence.
            sequence: up to the end of the log; 0: there were no jobs.
            timeout_seconds: how long to wait until the live view has come to that sequence.
            client: who asks; see `SnapshotCache.at`.
            waiting: entered while something is waited for.
            turn: entered to read the page, once nothing else has to be waited for.

        Raises:
            AsOfBusy: if it can't be made ready within a bound; ask again.
            WaitTimeout: if the live view does not come to the sequence in time.
            ViewError: if the copy can't be made.
            LogError: if the log can't be read.
        """
        if sequence == 0:
            return Page(jobs=(), next_cursor=None, sequence=0)
        checkpoint = (await self._view.checkpoint()).sequence
        if checkpoint == sequence:
            page = await self._view.list(query)
            if page.sequence == sequence:  # nothing has happened since
                return page
        if checkpoint < sequence:
            with waiting():
                await self._view.wait_for(sequence, timeout_seconds)
        async with self.copies.at(sequence, client, waiting) as copy, turn():
            return await copy.list(query)
