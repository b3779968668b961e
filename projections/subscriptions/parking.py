"""What becomes of an event whose handler failed: its job is set aside, tried again, and led back."""

import asyncio
from collections.abc import Sequence

import msgspec

from jobledger.projections.limits import REPLAYED_EVENTS
from jobledger.projections.subscriptions.definition import Definition
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.parked_jobs import (
    ParkedJob,
    ParkedState,
    SetAside,
    failed_again,
    now_ns,
    retry_wait_seconds,
)
from jobledger.projections.subscriptions.partition import Partition
from jobledger.projections.subscriptions.redelivery import Replay
from jobledger.store.lease import lease_clock
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.limits import RETRY_MAX_WAIT_SECONDS, RETRY_WAIT_SECONDS

_SCAN_NANOSECONDS = 50_000_000  # between two looks through the jobs for one whose time has come


class Parking:
    """The jobs that one subscription has set aside, and their way back.

    Args:
        log: where their events are.
        aside: what is known of them.
        definition: of the subscription.
        retries: of an event, before its job is parked.
    """

    def __init__(self, log: EventLog, aside: SetAside, definition: Definition, *, retries: int) -> None:
        self.aside = aside
        self._log = log
        self._definition = definition
        self._retries = retries

    async def failed(self, lane: Partition, event: SubscribedEvent, error: BaseException) -> bool:
        """An event's handler failed; False if its job could not be set aside: it is handed out again."""
        replay, now = lane.replay, now_ns()
        parked = replay.parked if replay is not None and replay.handed is event else None
        if replay is not None and parked is not None:
            lane.replay = None
            if self.aside.revision_of(event.job_id) != replay.revision:
                return True  # an operator wrote something else meanwhile: that counts
        if parked is None and self.aside.is_full:
            lane.not_before = lease_clock() + retry_wait_seconds(event.attempt)
            event.attempt += 1
            lane.push_back(event)
            return False
        if parked is None or parked.sequence != event.sequence:  # a later one, with retries of its own
            parked = ParkedJob(
                subscription=self._definition.name,
                job_id=event.job_id,
                subject=event.delivery.subject,
                state=ParkedState.RETRYING,
                sequence=event.sequence,
                type=event.type,
                after=event.sequence - 1,
                since=now,
                epoch=self._definition.epoch,
            )
        parked = failed_again(parked, error, retries=self._retries, now=now)
        holding, wait_seconds = lane.holding, RETRY_WAIT_SECONDS
        while lane.holding == holding:  # otherwise whoever has it now handles the event again
            try:
                await self.aside.put(parked)
            except LogUnavailable:
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, RETRY_MAX_WAIT_SECONDS)
            else:
                return True
        return False

    def want(self, lanes: Sequence[Partition]) -> None:
        """Have partitions held whose jobs are to be tried: maybe nobody has them, and no event comes."""
        now = now_ns()
        numbers = {self._definition.part_of(parked.job_id) for parked in self.aside.due(now)}
        for lane in lanes:
            lane.source.wanted = lane.number in numbers

    async def next(self, lane: Partition) -> SubscribedEvent | None:
        """The next event of a job of this lane that is on its way back; None if there is none now.

        Raises:
            LogUnavailable: if the log can't be read; ask again.
        """
        replay = lane.replay or self._begin(lane)
        if replay is None:
            return None
        if self.aside.revision_of(replay.parked.job_id) != replay.revision:
            lane.replay = None  # an operator wrote something else: that counts
            return None
        holding = lane.holding
        try:
            if replay.unsaved >= REPLAYED_EVENTS:
                await self._save(lane, replay)
            event = await replay.next()
            if event is None and lane.holding == holding and lane.replay is replay:
                await self.aside.remove(replay.parked.job_id)
                lane.replay = None
                return None
        except BaseException:
            if lane.replay is replay:
                lane.replay = None  # begun again, from what is written down
            raise
        if lane.holding != holding or lane.replay is not replay:
            return None  # somebody else has it now, or an operator wrote something else
        replay.handed = event
        return event

    async def save(self, lane: Partition) -> None:
        """Write down how far the job that is on its way back has come.

        Raises:
            LogUnavailable: if that could not be written.
        """
        replay = lane.replay
        if replay is None or not replay.unsaved:
            return
        if self.aside.revision_of(replay.parked.job_id) == replay.revision:
            await self._save(lane, replay)

    def _begin(self, lane: Partition) -> Replay | None:
        now = now_ns()
        if now - lane.scanned_at < _SCAN_NANOSECONDS:
            return None
        for parked in self.aside.due(now):
            if self._definition.part_of(parked.job_id) == lane.number and lane.position >= parked.after:
                lane.replay = Replay(
                    self._log,
                    parked,
                    revision=self.aside.revision_of(parked.job_id),
                    position=lambda: lane.position,
                    tell=lane.tell_job,
                )
                return lane.replay
        lane.scanned_at = now
        return None

    async def _save(self, lane: Partition, replay: Replay) -> None:
        replay.unsaved = 0
        if await self.aside.put(replay.parked) == replay.parked:
            replay.revision = self.aside.revision_of(replay.parked.job_id)
        elif lane.replay is replay:
            lane.replay = None  # an operator wrote something else: that counts


def done(replay: Replay, event: SubscribedEvent) -> None:
    """An event of a job on its way back was handled."""
    replay.parked = msgspec.structs.replace(replay.parked, after=event.sequence)
    replay.unsaved += 1
    replay.handed = None
