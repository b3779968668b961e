"""One partition of a subscription, as one process reads it.

The partition (`PartitionState`):

    STANDBY ◄────────► UNCLAIMED, EMPTY        another process holds it / no process does
       │                  │
       └─ this process takes it over ─► CATCHING_UP ── no event left ──► LIVE
                                            ▲  ▲                          │
                                            │  └─ events after a reset ───┤
                                            └─ lease lost, or released: STANDBY, UNCLAIMED, EMPTY
    DISCONNECTED    from any state and back: the log is unreachable, nothing is handed out
    STOPPED         final: an error that needs a person

Its events:

    source ─► taken ─► folded and filtered ─► ready ─► handed out ─► handled ─► acknowledged
                                                │                      ▲
                                                └─ its job is in the retry queue: counts as handled

The event that is handed out (`HandOut`; at most one):

    NONE ── next ──► DELIVERED ───┬─ reset, partition kept ──► RESTARTED ─┐
                │                 │                                       ├─ complete, fail, take_back: NONE
                └──► REDELIVERED ─┴─ partition lost ─────────► LOST ──────┘

`complete`, `fail` and `take_back` state what each means in each of these states.
"""

import enum
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from jobledger.projections.limits import (
    ACKNOWLEDGE_EVENTS,
    ACKNOWLEDGE_SECONDS,
    SUBSCRIPTION_CHUNK_BYTES,
    SUBSCRIPTION_CHUNK_EVENTS,
    TRACKER_MAX_BYTES,
    TRACKER_MAX_JOBS,
)
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.filters import EventFilter, match_labels
from jobledger.projections.subscriptions.parking import (
    ParkedJob,
    Redelivery,
    RetryQueue,
    retry_wait_seconds,
)
from jobledger.projections.subscriptions.state_tracker import (
    FoldedEvent,
    Scope,
    StateTracker,
    job_tracker,
    status_tracker,
)
from jobledger.store.backoff import Backoff
from jobledger.store.consumer import Delivery, DurableConsumer
from jobledger.store.job_reader import records_between
from jobledger.store.lease import lease_clock
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.fold import spec_head
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.limits import RETRY_MAX_WAIT_SECONDS, RETRY_WAIT_SECONDS

_SCAN_NANOSECONDS: Final = 50_000_000  # between two searches of the retry queue for a job that is due


class PartitionState(enum.Enum):
    """State of a partition in this process."""

    STOPPED = enum.auto()  # failed with an error that needs a person
    DISCONNECTED = enum.auto()  # the log is unreachable
    CATCHING_UP = enum.auto()  # held; has events that were there when it was taken over
    LIVE = enum.auto()  # held; everything has been handled once
    STANDBY = enum.auto()  # held by another process
    UNCLAIMED = enum.auto()  # held by no process, with events to handle
    EMPTY = enum.auto()  # held by no process, with none: the server assigns it with its next event


class HandOut(enum.Enum):
    """State of the event that is handed out."""

    NONE = enum.auto()  # no event is handed out
    DELIVERED = enum.auto()  # came from the source; is acknowledged when handled
    REDELIVERED = enum.auto()  # of a job in the retry queue; its record is updated when handled
    RESTARTED = enum.auto()  # deliveries were reset since: the source delivers it again
    LOST = enum.auto()  # another process may hold the partition since, and handles the event again


class EventBuilder:
    """Makes the events of one partition from deliveries: folds jobs, filters, matches labels.

    Args:
        log: where jobs are read that are not in the cache.
        event_filter: the events to pass.
        with_jobs: whether events carry their job before and after.
        shards: only events of these shards pass; None: of all.
        reachable_shards: the shards whose jobs can be delivered; None: all.
        share: divide the memory limits by this number of partitions.
    """

    def __init__(
        self,
        log: EventLog,
        event_filter: EventFilter,
        *,
        with_jobs: bool,
        shards: frozenset[str] | None = None,
        reachable_shards: frozenset[str] | None = None,
        share: int = 1,
    ) -> None:
        self._log = log
        self._filter = event_filter
        self._passes_all = (
            event_filter.is_covered_by_subjects
            and event_filter.namespaces is None
            and event_filter.job is None
        )
        self._with_jobs = with_jobs
        self._folds_jobs = with_jobs or bool(event_filter.selector)
        self._shards = shards
        self._reachable_shards = reachable_shards
        self._share = share
        self._tracker: StateTracker[JobStatus] | StateTracker[Job] | None = None

    def reset(self) -> None:
        """Forget all jobs: deliveries start again."""
        self._tracker = None

    async def build(self, deliveries: Sequence[Delivery], *, from_first: bool) -> list[SubscribedEvent]:
        """The events of deliveries that pass.

        Args:
            deliveries: in order, after those of the last call.
            from_first: whether the first call since `reset` starts at the log's first event.

        Raises:
            LogUnavailable: if the log cannot be read; the same deliveries can be passed again.
        """
        if self._tracker is None:
            make = job_tracker if self._folds_jobs else status_tracker
            self._tracker = make(
                self._log,
                from_first=from_first,
                scope=Scope(self._filter.subjects, self._is_reachable),
                max_jobs=TRACKER_MAX_JOBS // self._share,
                max_bytes=TRACKER_MAX_BYTES // self._share,
            )
        if self._shards is not None:
            deliveries = [each for each in deliveries if _shard(each.subject) in self._shards]
        folded: Sequence[FoldedEvent[JobStatus] | FoldedEvent[Job]] = await self._tracker.fold(deliveries)
        if self._passes_all and not self._folds_jobs:
            return [
                SubscribedEvent(record.sequence, record.time, after, event, record)  # type: ignore[arg-type]
                for record, event, _, after in folded
            ]
        build = self._from_job if self._folds_jobs else self._from_status
        return [event for each in folded if (event := build(each)) is not None]  # type: ignore[arg-type]

    async def history(
        self, subject: str, *, after: int, up_to: Callable[[], int]
    ) -> AsyncIterator[SubscribedEvent]:
        """The events of one job that pass, read from the log.

        Args:
            subject: of the job's events.
            after: the sequence to start after.
            up_to: the last sequence; may grow while the events are read.
        """
        tracker = job_tracker(self._log, from_first=True, logs_quarantine=False)
        sequence = 0
        while True:
            last = await self._log.read_last(subject)
            if last is None or last.sequence <= sequence:
                return
            async for record in records_between(self._log, subject, after=sequence, up_to=last.sequence):
                if record.sequence > up_to():
                    return
                sequence = record.sequence
                for folded in await tracker.fold([record]):
                    if sequence > after and (event := self._from_job(folded)) is not None:
                        yield event

    def _is_reachable(self, record: Record) -> bool:
        return self._reachable_shards is None or _shard(record.subject) in self._reachable_shards

    def _from_status(self, folded: FoldedEvent[JobStatus]) -> SubscribedEvent | None:
        record, job_event, _, after = folded
        event = SubscribedEvent(record.sequence, record.time, after, job_event, record)
        return event if self._passes_all or self._filter.passes(event) else None

    def _from_job(self, folded: FoldedEvent[Job]) -> SubscribedEvent | None:
        record, job_event, before, after = folded
        event = SubscribedEvent(record.sequence, record.time, after.status, job_event, record)
        if not (self._passes_all or self._filter.passes(event)):
            return None
        if self._filter.selector:
            labels = spec_head(after.spec).labels
            if before is None or before.spec is after.spec:
                labels_before = labels if before is not None else None
            else:
                labels_before = spec_head(before.spec).labels
            event.matches = match_labels(self._filter.selector, labels_before, labels)
            if event.matches is None:
                return None
        if self._with_jobs:
            event.before, event.after = before, after
        return event


class Partition:
    """One partition; at most one of its events is handed out at a time.

    Its coroutines, except `fail`, raise LogUnavailable if the log is unreachable; call them again.

    Args:
        number: of the partition, from 0.
        source: its deliveries.
        events: makes events of them.
        queue: the retry queue; None: failed events are not retried.
        part_of: the number of the partition that a job belongs to.
        on_change: called when there may be an event, or the state may have changed.
    """

    def __init__(
        self,
        number: int,
        source: DurableConsumer,
        events: EventBuilder,
        *,
        on_change: Callable[[], None],
        queue: RetryQueue | None = None,
        part_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self.number: Final = number
        self._source = source
        self._events = events
        self._queue = queue
        self._queued = queue.jobs if queue is not None else {}
        self._part_of = part_of
        self._on_change = on_change
        self._resets = 0  # of the deliveries; what was awaited across one is dropped
        self._taken: Sequence[Delivery] = ()
        self._ready: deque[SubscribedEvent] = deque()
        self._last_ready: Delivery | None = None  # the last delivery that `_ready` covers
        self._position = 0  # everything up to this sequence is handled, in the retry queue, or handed out
        self._last_time = 0  # stream time of the last handled event
        self._event: SubscribedEvent | None = None
        self._hand_out = HandOut.NONE
        self._unacknowledged = 0  # handled events since the last acknowledgement
        self._acknowledged_at = 0.0
        self._is_caught_up = False
        self._held_since = 0.0
        self._is_queue_read = queue is None  # since the partition is held
        self._redelivery: Redelivery | None = None
        self._scanned_at = 0  # Unix nanoseconds
        self._not_before = 0.0  # nothing is delivered before: an event failed, and the retry queue is full

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> PartitionState:
        """The state, from what the source last reported."""
        source = self._source
        if source.error is not None:
            return PartitionState.STOPPED
        if not source.connected:
            return PartitionState.DISCONNECTED
        if source.held:
            return PartitionState.LIVE if self._is_caught_up else PartitionState.CATCHING_UP
        info = source.info
        if info.holder:
            return PartitionState.STANDBY
        has_events = info.pending or info.unacknowledged or not info.created
        return PartitionState.UNCLAIMED if has_events else PartitionState.EMPTY

    @property
    def error(self) -> LogError | None:
        """Why the partition is stopped."""
        return self._source.error

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._source.held

    @property
    def held_since(self) -> float:
        """When this process took it over, by `lease_clock`."""
        return self._held_since

    @property
    def others_waiting(self) -> int:
        """How many other processes wait for it."""
        return self._source.others_waiting

    @property
    def event(self) -> SubscribedEvent | None:
        """The event that is handed out."""
        return self._event

    @property
    def is_redelivering(self) -> bool:
        """Whether the event that is handed out was redelivered."""
        return self._hand_out is HandOut.REDELIVERED

    @property
    def position(self) -> int:
        """The sequence up to which everything is handled or in the retry queue."""
        is_ahead = self._hand_out in (HandOut.DELIVERED, HandOut.RESTARTED)
        return self._position - 1 if is_ahead else self._position

    @property
    def backlog(self) -> int:
        """Events that are not handed out yet, as far as known."""
        return self._source.pending + self._waiting

    @property
    def last_time(self) -> int:
        """Stream time of the last handled event, Unix nanoseconds; 0 before the first one."""
        return self._last_time

    @property
    def _waiting(self) -> int:
        return len(self._ready) + len(self._taken) + self._source.buffered

    @property
    def _is_idle(self) -> bool:
        return not (self._waiting or self._last_ready)

    # --- transitions of the partition -----------------------------------------------------------------------

    async def start(self) -> None:
        """Wait for the partition, and read it."""
        await self._source.start(self)

    async def close(self) -> None:
        """Stop reading, and let another process have it."""
        await self._source.close()
        self._ready.clear()

    def on_change(self) -> None:
        """See `ConsumerListener.on_change`."""
        self._on_change()

    def on_reset(self, *, position: int, kept: bool) -> None:
        """See `ConsumerListener.on_reset`."""
        self._resets += 1
        self._ready.clear()
        self._taken, self._last_ready = (), None
        self._events.reset()
        self._unacknowledged = 0
        if kept:
            self._position = max(self._position, position)
            if self._hand_out is HandOut.DELIVERED:
                self._hand_out = HandOut.RESTARTED
        else:
            self._position = position
            self._held_since = lease_clock()
            self._redelivery = None
            self._is_queue_read = self._queue is None
            self._not_before = 0.0
            if self._hand_out is not HandOut.NONE:
                self._hand_out = HandOut.LOST
        if self._source.held and self._source.pending:
            self._is_caught_up = False
        self._on_change()

    async def settle(self) -> None:
        """Acknowledge, when no event can be handed out now. Without a backlog the partition is live."""
        await self.acknowledge()
        if self._source.held and not self.backlog:
            self._is_caught_up = True

    def release(self) -> None:
        """Give it to another process that waits; call this while no event of it is handed out."""
        self._source.release()

    def set_at_quota(self, *, at_quota: bool) -> None:
        """Pass the partition on if it is assigned to this process, which holds its share already."""
        self._source.at_quota = at_quota

    def set_claimed(self, *, claimed: bool) -> None:
        """Have it assigned to some process even without a new event: a job of it is to be retried."""
        self._source.claim_idle = claimed

    # --- transitions of the event that is handed out --------------------------------------------------------

    def next_ready(self, now: float) -> SubscribedEvent | None:
        """Hand out the next event that is ready.

        The lease is checked here, and nothing is awaited before the handler gets the event.
        """
        if now >= self._source.lease_expires_at:
            return None
        ready = self._ready
        while ready:
            event = ready.popleft()
            if event.sequence <= self._position:  # handled before deliveries were reset
                self._mark_handled(event.delivery)
                continue
            self._position = event.sequence
            if self._queued and event.job_id in self._queued:
                self._mark_handled(event.delivery)
                continue
            self._event, self._hand_out = event, HandOut.DELIVERED
            return event
        last = self._last_ready
        if last is not None:
            self._last_ready = None
            self._position = max(self._position, last.sequence)
            self._mark_handled(last)
        return None

    async def next(self, *, redelivered_first: bool) -> SubscribedEvent | None:
        """Hand out the next event; None if there is none now.

        Args:
            redelivered_first: whether events of the retry queue come before those of the source; alternate,
                so that neither waits for all of the other.

        Raises:
            LogUnavailable: if the log cannot be read; try again.
        """
        await self._acknowledge_if_due()
        for redelivered in (redelivered_first, not redelivered_first):
            event = await (self._next_redelivered() if redelivered else self._next_delivered())
            if event is not None:
                return event
        return None

    def complete(self) -> bool:
        """The event was handled; False if none is handed out."""
        event, state = self._event, self._hand_out
        if event is None:
            return False
        self._event, self._hand_out = None, HandOut.NONE
        if state is HandOut.DELIVERED:
            self._last_time = event.time
            self._mark_handled(event.delivery)
        elif state is HandOut.REDELIVERED and self._redelivery is not None:
            self._redelivery.handled(event)
        # RESTARTED: it is delivered again, is at or before the position, and so counts as handled.
        # LOST: the process that holds the partition now decides.
        return True

    async def fail(self, queue: RetryQueue, error: BaseException) -> None:
        """The event's handler failed: its job enters the retry queue, or goes back to it."""
        event, redelivery, parked = self._event, self._redelivery, None
        if event is None:
            return
        if self._hand_out is HandOut.REDELIVERED and redelivery is not None:
            self._redelivery = None
            if not redelivery.is_current:  # an operator changed the record: that counts
                self.withdraw()
                return
            parked = redelivery.parked
        elif queue.is_full and self._hand_out is not HandOut.LOST:
            self._not_before = lease_clock() + retry_wait_seconds(event.attempt)
            event.attempt += 1
            self.take_back()
            return
        await self._enqueue(queue, event, queue.after_failure(event, error, parked))
        self.withdraw()

    async def _enqueue(self, queue: RetryQueue, event: SubscribedEvent, parked: ParkedJob) -> None:
        backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
        while self._hand_out is not HandOut.LOST:
            try:
                await queue.put(parked)
            except LogUnavailable:
                await backoff.sleep()
                continue
            if self._hand_out is HandOut.DELIVERED and self._event is event:
                self._last_time = event.time
                self._mark_handled(event.delivery)
            return

    def take_back(self) -> None:
        """The event was not handled: it is handed out again."""
        event, state = self._event, self._hand_out
        self.withdraw()
        if event is None:
            return
        if state is HandOut.REDELIVERED:
            self._redelivery = None  # starts again from the record
        elif state is HandOut.DELIVERED:
            self._position = event.sequence - 1
            self._ready.appendleft(event)
        elif state is HandOut.RESTARTED:
            self._position = event.sequence - 1  # the source delivers it again

    def withdraw(self) -> None:
        """Forget the event that is handed out."""
        self._event, self._hand_out = None, HandOut.NONE

    # --- acknowledging --------------------------------------------------------------------------------------

    async def acknowledge(self) -> None:
        """Send the server the last handled event."""
        self._unacknowledged = 0
        await self._source.acknowledge()

    async def save(self) -> None:
        """Write down the progress of a redelivery."""
        if self._redelivery is not None:
            await self._redelivery.save()

    async def _acknowledge_if_due(self) -> None:
        if not self._unacknowledged:
            return
        now = lease_clock()
        if self._unacknowledged >= ACKNOWLEDGE_EVENTS or now - self._acknowledged_at >= ACKNOWLEDGE_SECONDS:
            self._acknowledged_at = now
            await self.acknowledge()

    def _mark_handled(self, delivery: Record) -> None:
        assert isinstance(delivery, Delivery)
        self._unacknowledged += 1
        self._source.mark_handled(delivery)

    # --- where events come from -----------------------------------------------------------------------------

    async def _next_delivered(self) -> SubscribedEvent | None:
        if self._is_idle or lease_clock() < self._not_before:
            return None
        while (now := lease_clock()) < self._source.lease_expires_at:
            event = self.next_ready(now)
            if event is not None:
                return event
            if not await self._prepare():
                return None
            await self._acknowledge_if_due()
        return None

    async def _prepare(self) -> bool:
        """Make the next deliveries ready; False if there are none."""
        resets = self._resets
        if not self._is_queue_read and self._queue is not None:
            await self._queue.refresh()
            if resets != self._resets:
                return False
            self._is_queue_read = True
        if not self._taken:
            # No await between these two: deliveries that were taken and not kept would be lost.
            self._taken = self._source.take(SUBSCRIPTION_CHUNK_EVENTS, SUBSCRIPTION_CHUNK_BYTES)
            await self._source.replenish()
        taken = self._taken
        if not taken:
            return False
        events = await self._events.build(taken, from_first=self._position == 0)
        if resets != self._resets:
            return False
        self._taken, self._last_ready = (), taken[-1]
        self._ready.extend(events)
        return True

    async def _next_redelivered(self) -> SubscribedEvent | None:
        if not self._queued or lease_clock() >= self._source.lease_expires_at:
            return None
        redelivery = self._redelivery = self._redelivery or self._due_redelivery()
        if redelivery is None:
            return None
        event: SubscribedEvent | None = None
        try:
            event = await redelivery.next()
            if self._redelivery is not redelivery:
                return None  # the partition was lost meanwhile
            if event is None:
                await redelivery.finish()
            elif lease_clock() < self._source.lease_expires_at:
                self._event, self._hand_out = event, HandOut.REDELIVERED
                return event
        finally:
            # Unless its event is handed out, a redelivery starts again from the record.
            if self._redelivery is redelivery and self._hand_out is not HandOut.REDELIVERED:
                self._redelivery = None
        return None

    def _due_redelivery(self) -> Redelivery | None:
        now, queue = time.time_ns(), self._queue
        if queue is None or now - self._scanned_at < _SCAN_NANOSECONDS:
            return None
        for parked in queue.due(now):
            if self._part_of(parked.job_id) == self.number and self._position >= parked.after:
                events = self._events.history(
                    parked.subject, after=parked.after, up_to=lambda: self._position
                )
                return Redelivery(queue, parked, events)
        self._scanned_at = now
        return None


def _shard(subject: str) -> str:
    tokens = subject.split(".", 3)
    return tokens[2] if len(tokens) > 3 else ""
