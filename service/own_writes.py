"""Read-your-writes: a client that created a job on this process can read it immediately."""

from contextlib import suppress

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.service.limits import OWN_WRITE_WAIT_SECONDS, OWN_WRITES_MAX_JOBS


class OwnWrites:
    """Lets a read see the writes that this process has acknowledged.

    Clients create a job and read it immediately, without `wait_for`; a 404 would be wrong then. A read first
    waits briefly for the view (`visible`); a job that the view still `lacks` is read from the log.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._sequence = 0
        self._unseen: dict[str, int] = {}  # last event per job that the view may lack; oldest first
        self._forgotten = 0  # last event of the jobs evicted from `_unseen`

    def note(self, job_id: str, sequence: int) -> None:
        """Record that a client was answered with this event of a job."""
        seen = self._projector.sequence
        if sequence <= seen:
            return
        self._sequence = max(self._sequence, sequence)
        self._unseen[job_id] = max(sequence, self._unseen.pop(job_id, 0))
        while self._unseen:
            oldest = next(iter(self._unseen))
            if self._unseen[oldest] > seen:
                if len(self._unseen) <= OWN_WRITES_MAX_JOBS:
                    break
                self._forgotten = max(self._forgotten, self._unseen[oldest])
            del self._unseen[oldest]

    def lacks(self, job_id: str, checkpoint: int) -> bool:
        """Whether a view at this checkpoint lacks an acknowledged event of this job."""
        return checkpoint < max(self._forgotten, self._unseen.get(job_id, 0))

    def lacks_any(self, checkpoint: int) -> bool:
        """Whether a view at this checkpoint lacks an acknowledged event of any job."""
        return checkpoint < self._sequence

    async def visible(self) -> None:
        """Wait up to OWN_WRITE_WAIT_SECONDS until the view has all acknowledged events."""
        if self._projector.state in (ProjectorState.REBUILDING, ProjectorState.WAITING):
            return  # would take longer; a single job is read from the log instead
        if self._projector.sequence < self._sequence:
            with suppress(WaitTimeout):
                await self._projector.wait_for(self._sequence, OWN_WRITE_WAIT_SECONDS)
