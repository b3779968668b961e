"""One partition's way: deliveries are folded, filtered and made ready; what is handled is acknowledged.

source ─► taken ─► folded ─► ready ─► handed out ─► done ─► source
                               └── its job is set aside: passed, which counts as done
"""

from collections import deque
from collections.abc import Callable, Sequence

from jobledger.projections.limits import (
    FOLDER_MAX_BYTES,
    FOLDER_MAX_JOBS,
    SUBSCRIPTION_CHUNK_BYTES,
    SUBSCRIPTION_CHUNK_EVENTS,
)
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.filters import EventFilter, match_labels
from jobledger.projections.subscriptions.parked_jobs import SetAside
from jobledger.projections.subscriptions.redelivery import Replay
from jobledger.projections.subscriptions.state_tracker import (
    FoldedEvent,
    Folder,
    Scope,
    job_folder,
    status_folder,
)
from jobledger.store.consumer import Delivery, DurableConsumer
from jobledger.store.log import EventLog
from jobledger.store.model.events import Record
from jobledger.store.model.fold import spec_head
from jobledger.store.model.job import Job, JobStatus


class Partition:
    """One partition as one process reads it.

    Args:
        number: of the partition, from 0.
        source: of its deliveries.
        log: where jobs are read that are not remembered.
        wanted: what passes.
        with_jobs: whether events carry the job before and after.
        aside: the jobs set aside; None if there can't be any.
        news: called when there is something to look at.
        shards: only events of these; the rest is passed.
        covered: the shards whose jobs can come at all; None: any.
        share: with so many lanes it shares what may be remembered.

    Attributes:
        turn: rises whenever deliveries begin anew.
        holding: rises whenever it is held anew: somebody else may have had it meanwhile.
        position: all up to here is handled, passed, or being handled.
        live: all there was has been handled since it was held.
        replay: the job that is on its way back.
        not_before: nothing is handed out sooner (by `lease_clock`): an event failed, and there is no room.
    """

    def __init__(
        self,
        number: int,
        source: DurableConsumer,
        *,
        log: EventLog,
        wanted: EventFilter,
        with_jobs: bool,
        aside: SetAside | None,
        news: Callable[[], None],
        shards: frozenset[str] | None = None,
        covered: frozenset[str] | None = None,
        share: int = 1,
    ) -> None:
        self.number = number
        self.source = source
        self.turn = 0
        self.holding = 0
        self.position = 0
        self.time = 0  # the stream's, of the last event that was handled
        self.live = False
        self.replay: Replay | None = None
        self.not_before = 0.0
        self.scanned_at = 0  # when the jobs set aside were looked through, Unix nanoseconds
        self.handled = 0  # events since the last acknowledgement
        self.acknowledged_at = 0.0
        self.ready: deque[SubscribedEvent] = deque()
        self._log = log
        self._wanted = wanted
        self._all_pass = wanted.asks_nothing and wanted.namespaces is None and wanted.job is None
        self._with_jobs = with_jobs
        self._shards = shards
        self._covered = covered
        self._share = share
        self._fold_jobs = with_jobs or bool(wanted.selector)
        self._aside = aside
        self._blocked = aside.jobs if aside is not None else {}
        self._news = news
        self._taken: Sequence[Delivery] = ()
        self._tail: Delivery | None = None  # the last one of those that are ready
        self._folder: Folder[JobStatus] | Folder[Job] | None = None
        self._fresh = aside is None  # the records were looked at since it is held

    # --- what the source tells ------------------------------------------------------------------------------

    def news(self) -> None:
        """See `ConsumerListener.news`."""
        self._news()

    def on_reset(self, *, place: int, kept: bool) -> None:
        """See `ConsumerListener.on_reset`."""
        self.turn += 1
        self.ready.clear()
        self._taken, self._tail, self._folder = (), None, None
        self.handled = 0
        if kept:
            self.position = max(self.position, place)
        else:
            self.holding += 1
            self.position = place
            self.replay = None
            self._fresh = self._aside is None
            self.not_before = 0.0
        if self.source.held and self.source.pending:
            self.live = False
        self._news()

    # --- what the subscription asks -------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Events that are here and not handed out."""
        return len(self.ready) + len(self._taken) + self.source.buffered

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to be made of what has come."""
        return not (self.ready or self._taken or self._tail or self.source.buffered)

    def pop(self) -> SubscribedEvent | None:
        """The next event to be handled, of those that are ready."""
        ready = self.ready
        while ready:
            event = ready.popleft()
            if event.sequence <= self.position:
                self._pass(event.delivery)  # handled, before deliveries began anew
                continue
            self.position = event.sequence
            if self._blocked and event.job_id in self._blocked:
                self._pass(event.delivery)
                continue
            return event
        tail = self._tail
        if tail is not None:
            self._tail = None
            self.position = max(self.position, tail.sequence)
            self._pass(tail)
        return None

    def push_back(self, event: SubscribedEvent) -> None:
        """The event is handed out again."""
        self.position = event.sequence - 1
        self.ready.appendleft(event)

    def take_back(self, event: SubscribedEvent, came: tuple[int, int]) -> None:
        """An event that was handed out in this turn and holding is not done: it is handed out again."""
        turn, holding = came
        if self.replay is not None and self.replay.handed is event:
            self.replay = None  # begun again, from what is written down
        elif self.holding == holding:  # otherwise it comes again by itself
            if self.turn == turn:
                self.push_back(event)
            else:
                self.position = event.sequence - 1

    def done(self, event: SubscribedEvent) -> None:
        """An event of the present turn was handled."""
        self.time = event.time
        self._pass(event.delivery)

    def _pass(self, delivery: Record) -> None:
        assert isinstance(delivery, Delivery)
        self.handled += 1
        self.source.handled(delivery)

    async def prepare(self) -> bool:
        """Make the next deliveries ready; False if there are none.

        Raises:
            LogUnavailable: if the log can't be read; try again.
        """
        if not self._fresh and self._aside is not None:
            turn = self.turn
            await self._aside.refresh()
            if turn != self.turn:
                return False
            self._fresh = True
        if not self._taken:
            # Nothing is awaited between: what was taken, and not kept, would be lost.
            self._taken = self.source.take(SUBSCRIPTION_CHUNK_EVENTS, SUBSCRIPTION_CHUNK_BYTES)
            await self.source.replenish()
        return bool(self._taken) and await self._fold(self._taken)

    async def _fold(self, taken: Sequence[Delivery]) -> bool:
        turn = self.turn
        if self._folder is None:
            from_first = self.position == 0
            make = job_folder if self._fold_jobs else status_folder
            self._folder = make(
                self._log,
                from_first=from_first,
                scope=Scope(self._wanted.subjects, self._can_come),
                max_jobs=FOLDER_MAX_JOBS // self._share,
                max_bytes=FOLDER_MAX_BYTES // self._share,
            )
        mine = taken
        if self._shards is not None:
            mine = [delivery for delivery in taken if _shard(delivery.subject) in self._shards]
        folded: Sequence[FoldedEvent[JobStatus] | FoldedEvent[Job]] = await self._folder.fold(mine)
        if turn != self.turn:
            return False
        self._taken = ()
        self._tail = taken[-1] if taken else None
        tell = self.tell_job if self._fold_jobs else self._tell_status
        self.ready.extend([event for each in folded if (event := tell(each)) is not None])  # type: ignore[arg-type]
        return True

    def _can_come(self, record: Record) -> bool:
        return self._covered is None or _shard(record.subject) in self._covered

    def _tell_status(self, folded: FoldedEvent[JobStatus]) -> SubscribedEvent | None:
        record, event, _, after = folded
        told = SubscribedEvent(record.sequence, record.time, after, event, record)
        return told if self._all_pass or self._wanted.passes(told) else None

    def tell_job(self, folded: FoldedEvent[Job]) -> SubscribedEvent | None:
        """The event as it is handed out; None if it does not pass."""
        record, event, before, after = folded
        told = SubscribedEvent(record.sequence, record.time, after.status, event, record)
        if not (self._all_pass or self._wanted.passes(told)):
            return None
        if self._wanted.selector:
            labels = spec_head(after.spec).labels
            if before is None or before.spec is after.spec:
                labels_before = labels if before is not None else None
            else:
                labels_before = spec_head(before.spec).labels
            told.matches = match_labels(self._wanted.selector, labels_before, labels)
            if told.matches is None:
                return None
        if self._with_jobs:
            told.before, told.after = before, after
        return told


def _shard(subject: str) -> str:
    tokens = subject.split(".", 3)
    return tokens[2] if len(tokens) > 3 else ""
