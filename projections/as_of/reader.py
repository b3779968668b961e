"""`AsOf`: queries as of an earlier point of the log."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Self

from jobledger.projections.as_of.direct import WaitScope
from jobledger.projections.as_of.job import job_as_of
from jobledger.projections.as_of.snapshots import SnapshotCache
from jobledger.projections.limits import ASOF_MAX_BYTES, ASOF_MAX_COPIES, WAIT_DEFAULT_SECONDS
from jobledger.projections.query.query import ListQuery
from jobledger.projections.results import Page, StateCount
from jobledger.projections.view import View
from jobledger.store.log import EventLog
from jobledger.store.model.job import Job, StateType


class AsOf:
    """Queries as of a sequence: `async with await AsOf.open(log, view, directory) as as_of`.

    Methods raise `JobNotFound` if the job did not exist yet, `AsOfBusy` if the snapshot cannot be built in
    time, `WaitTimeout` if the live view does not reach the sequence in time, and `ViewError` or `LogError`.

    Args:
        log: of the view.
        view: the live view.
        snapshots: of the live view.
    """

    def __init__(self, log: EventLog, view: View, snapshots: SnapshotCache) -> None:
        self._log = log
        self._view = view
        self.snapshots = snapshots

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
        """Open a snapshot cache for a live view.

        Args:
            log: of the view.
            view: the live view, which a projector maintains; the caller closes it.
            directory: of the snapshots, for exclusive use; created if missing.
            max_copies: maximum number of snapshots, from 1.
            max_bytes: maximum total size; the most recently used snapshot is kept regardless of size.

        Raises:
            OSError: if the directory cannot be used.
            LogUnavailable: if the log does not answer.
        """
        snapshots = await SnapshotCache.open(log, view, directory, max_copies=max_copies, max_bytes=max_bytes)
        return cls(log, view, snapshots)

    async def close(self) -> None:
        """Cancel builds and close the snapshots. Idempotent."""
        await self.snapshots.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def job(self, present: Job, sequence: int, *, checkpoint: int = 0) -> Job:
        """A job as of a sequence; takes a few milliseconds.

        Args:
            present: the job in the view.
            sequence: not beyond the end of the log.
            checkpoint: the view's checkpoint before `present` was read, or 0; it saves a read of the log if
                the job has not changed since the point.
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
        """One page of a list as of a sequence. A page that needs a new snapshot may take long.

        Args:
            query: as for the live view; a cursor must be from a page as of the same sequence.
            sequence: not beyond the end of the log; at 0 there are no jobs.
            timeout_seconds: maximum wait for the live view to reach the sequence.
            client: see `SnapshotCache.at`.
            waiting: entered while waiting.
            turn: entered to read the page, when no further wait is needed.
        """
        if sequence == 0:
            return Page(jobs=(), next_cursor=None, sequence=0)
        checkpoint = (await self._view.checkpoint()).sequence
        if checkpoint == sequence:
            page = await self._view.list(query)
            if page.sequence == sequence:  # nothing was appended since the point
                return page
        if checkpoint < sequence:
            with waiting():
                await self._view.wait_for(sequence, timeout_seconds)
        direct = await self.snapshots.direct_page(query, sequence, client, waiting, turn)
        if direct is not None:
            return direct
        async with self.snapshots.at(sequence, client, waiting) as snapshot, turn():
            return await snapshot.list(query)

    async def state_counts(
        self,
        query: ListQuery,
        sequence: int,
        *,
        timeout_seconds: float = WAIT_DEFAULT_SECONDS,
        client: str = "",
        waiting: WaitScope = nullcontext,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> dict[StateType, StateCount]:
        """`View.state_counts` as of a sequence; arguments as of `list`."""
        if sequence == 0:
            return dict.fromkeys(StateType, StateCount(0, is_exact=True))
        with waiting():
            await self._view.wait_for(sequence, timeout_seconds)
        async with self.snapshots.at(sequence, client, waiting) as snapshot, turn():
            return await snapshot.state_counts(query)
