"""Read-your-writes: a client that created a job on this process can read it immediately."""

from contextlib import suppress

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.service.limits import OWN_WRITE_WAIT_SECONDS, OWN_WRITES_MAX_JOBS
from jobledger.service.workers.positions import SharedPositions
from jobledger.store.model.errors import JobledgerError


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


class SharedOwnWrites(OwnWrites):
    """`OwnWrites` of all processes of a service: a client that wrote to one reads its write from any other.

    What this process acknowledged is known per job. Of the others only the last position is known: a read
    waits for it, and if the view does not reach it in time, jobs are read from the log.

    Args:
        projector: of the service.
        positions: shared with the other processes.
        number: of the worker; OWNER for the owner, which answers what workers pass on.
    """

    def __init__(self, projector: Projector, positions: SharedPositions, number: int) -> None:
        super().__init__(projector)
        self._positions = positions
        self._number = number
        self._missed = 0  # the last position of another process that the view did not reach in time

    def note(self, job_id: str, sequence: int) -> None:
        """See `OwnWrites.note`."""
        super().note(job_id, sequence)
        self._positions.set_acknowledged(self._number, sequence)

    def lacks(self, job_id: str, checkpoint: int) -> bool:
        """See `OwnWrites.lacks`."""
        return checkpoint < self._missed or super().lacks(job_id, checkpoint)

    def lacks_any(self, checkpoint: int) -> bool:
        """See `OwnWrites.lacks_any`."""
        return checkpoint < self._positions.acknowledged

    async def visible(self) -> None:
        """See `OwnWrites.visible`."""
        target = self._positions.acknowledged
        if self._projector.sequence >= target:
            return
        if self._projector.state not in (ProjectorState.REBUILDING, ProjectorState.WAITING):
            with suppress(JobledgerError):  # the log is read instead
                await self._projector.wait_for(target, OWN_WRITE_WAIT_SECONDS)
        if self._projector.sequence < target:
            self._missed = max(self._missed, target)
