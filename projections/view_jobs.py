"""The jobs of a view, for the commands of a ledger: a row instead of the job's history in the log."""

import asyncio
import time

from jobledger.projections.errors import ViewError
from jobledger.projections.limits import KNOWN_CONFIRM_SECONDS, KNOWN_RETRY_SECONDS
from jobledger.projections.view import View
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogError
from jobledger.store.model.fold import last_read
from jobledger.store.model.job import Job


class ViewJobs:
    """`KnownJobs` of a view: `Ledger(log, known=ViewJobs(view, log))`.

    A ledger's append is guarded by the sequence of the job's last event. That proves that the job is current,
    if the view and the log have the same event there: the view can be of a log that was replaced, or that
    lost its end and grew again, and its projector may not know that yet. So a row is used only up to a point
    where the log was compared with the view's checkpoint, by this object, since the log was last unreachable.
    A row with a later event causes the next comparison.

    Args:
        view: of the log; it can lag.
        log: of the ledger.
    """

    def __init__(self, view: View, log: EventLog) -> None:
        self._view = view
        self._log = log
        self._session = log.session
        self._confirmed = 0  # up to here, the log of this session is the one that the view was made from
        self._retry_at = 0.0
        self._comparing = asyncio.Lock()

    async def find(self, job_id: str) -> Job | None:
        """See `KnownJobs.find`; a job in quarantine is not returned, because the view lacks a part of it."""
        job = self._row(job_id)
        if job is None or self._has_confirmed(last_read(job.status)):
            return job
        await self._confirm(last_read(job.status))
        job = self._row(job_id)  # the view may have been rebuilt meanwhile, from another log
        return job if job is not None and self._has_confirmed(last_read(job.status)) else None

    def _row(self, job_id: str) -> Job | None:
        try:
            job = self._view.get_by_id_now(job_id)
        except (ViewError, ValueError):  # a damaged row
            return None
        return job if job is not None and job.status.quarantine is None else None

    async def _confirm(self, sequence: int) -> None:
        async with self._comparing:  # one comparison confirms the rows of all that wait
            if self._has_confirmed(sequence):
                return
            if time.monotonic() >= self._retry_at and not await self._compare():
                self._retry_at = time.monotonic() + KNOWN_RETRY_SECONDS

    def _has_confirmed(self, sequence: int) -> bool:
        return sequence <= self._confirmed and self._session == self._log.session

    async def _compare(self) -> bool:
        """Whether the log continues the view."""
        session = self._log.session
        try:
            async with asyncio.timeout(KNOWN_CONFIRM_SECONDS):
                end = await self._view.checkpoint()
                if not end.time:
                    return False  # after damage, there is no record to compare
                await self._log.continues(
                    epoch=end.epoch, after=end.sequence, same=lambda record: record.time == end.time
                )
        except (LogError, ViewError, TimeoutError):
            return False
        self._session, self._confirmed = session, end.sequence
        return True
