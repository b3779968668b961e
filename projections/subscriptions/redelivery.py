"""A job that was set aside, on its way back: its events, from the failed one up to where the lane is."""

from collections.abc import AsyncIterator, Callable

from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.parked_jobs import ParkedJob
from jobledger.projections.subscriptions.state_tracker import FoldedEvent
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.events import Recorded, read_record
from jobledger.store.model.fold import fold_job_on
from jobledger.store.model.job import Job


class Replay:
    """One job's events, one after the other.

    Args:
        log: where they are.
        parked: the job's record.
        revision: of it.
        position: tells where the lane is: later events come by the lane.
        tell: makes an event of what was folded; None if the subscription does not want it.

    Attributes:
        parked: the record, with what is done by now.
        revision: of the record that it began with, or wrote.
        unsaved: events done since the record was written.
        handed: the event that is being handled.
    """

    def __init__(
        self,
        log: EventLog,
        parked: ParkedJob,
        *,
        revision: int,
        position: Callable[[], int],
        tell: Callable[[FoldedEvent[Job]], SubscribedEvent | None],
    ) -> None:
        self.parked = parked
        self.revision = revision
        self.unsaved = 0
        self.handed: SubscribedEvent | None = None
        self._log = log
        self._position = position
        self._tell = tell
        self._events = self._read()

    async def next(self) -> SubscribedEvent | None:
        """The next event; None if the job is where the lane is.

        Raises:
            LogUnavailable: if the log can't be read; ask again with a new one.
        """
        return await anext(self._events, None)

    async def _read(self) -> AsyncIterator[SubscribedEvent]:
        job: Job | None = None
        place = 0
        while True:
            last = await self._log.read_last(self.parked.subject)
            if last is None or last.sequence <= place:
                return
            async for record in records_between(
                self._log, self.parked.subject, after=place, up_to=last.sequence
            ):
                if record.sequence > self._position():
                    return
                place = record.sequence
                recorded = read_record(record)
                before, job = job, fold_job_on(job, recorded)
                if job is None or job is before or not isinstance(recorded, Recorded):
                    continue
                if job.status.sequence != place:
                    continue  # it changed nothing that shows
                before = before if before is not None and not before.status.is_lost else None
                if place > self.parked.after:
                    event = self._tell(FoldedEvent(record, recorded.event, before, job))
                    if event is not None:
                        if place == self.parked.sequence:
                            event.attempt = self.parked.attempts + 1
                        yield event
