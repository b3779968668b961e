"""A subscription: hands out one event at a time, over all partitions that this process reads.

What it shows (`SubscriptionState`) follows from its partitions (`partition.py` has their state machine):

    STOPPED ──open──► CATCHING_UP ──every held partition is live──► LIVE, or PARKED: jobs wait for an operator
                        ▲   ▲  └─── other processes hold every partition ──► STANDBY
                        │   └────── a partition is taken over ─────────────────┘
                        └── RECONNECTING: from any state, while the log is unreachable
    STOPPED again: closed, or an error that needs a person

Its reader (`_Reader`):

                        ┌──────────── ack, fail ───────────────┐
                        ▼                                      │
    CLOSED ──open──► IDLE ──__anext__──► WAITING ──event──► HANDED_OUT ◄──► IN_HANDLER (of `run`)
                                            ▲                  │
                                            └──── __anext__ ───┘  acknowledges the event before
    CLOSED from any of them

The loop over all of it:

    release a partition if due ──► refresh the retry queue ─► next event of the next partition ─► handler
                                                                     │ none
                                                                     └─► acknowledge, wait for a change
"""

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self

import msgspec

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.limits import (
    RELEASE_MAX_PARTITIONS,
    RETRY_QUEUE_REFRESH_SECONDS,
    SUBSCRIPTION_BUFFER_BYTES,
    SUBSCRIPTION_BUFFER_EVENTS,
    SUBSCRIPTION_TURN_SECONDS,
    WAIT_DEFAULT_SECONDS,
)
from jobledger.projections.subscriptions.creation import ensure_consumers, ensure_definition, resolve_start
from jobledger.projections.subscriptions.definition import Definition
from jobledger.projections.subscriptions.ephemeral_source import EphemeralSource
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.parking import ParkedState, RetryQueue
from jobledger.projections.subscriptions.partition import EventBuilder, Partition, PartitionState
from jobledger.projections.subscriptions.rebalance import Balance
from jobledger.store.backoff import Backoff
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.lease import lease_clock
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput, JobledgerError, LogUnavailable
from jobledger.store.model.limits import HOLD_CHECK_SECONDS, RETRY_MAX_WAIT_SECONDS, RETRY_WAIT_SECONDS
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

Handler = Callable[[SubscribedEvent], Awaitable[object]]


class SubscriptionState(enum.StrEnum):
    """What a subscription is doing in this process."""

    CATCHING_UP = "catching_up"  # handling events that were there when it was opened, or while it was away
    LIVE = "live"  # has handled all events; waits for new ones
    PARKED = "parked"  # live, with jobs that wait for an operator
    RECONNECTING = "reconnecting"  # the log is unreachable; retried until it is reachable
    STANDBY = "standby"  # other processes hold every partition with events; takes over when one of them ends
    STOPPED = "stopped"  # closed, or failed: the loop over it raises the error


class SubscriptionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription at one moment; counts are of the partitions that this process holds.

    Attributes:
        state: what it is doing.
        position: the sequence up to which every event is handled or in the retry queue; 0 at the beginning.
        gap: events not handled yet, as last reported by the server; an upper bound for filters that the
            server does not apply.
        lag_seconds: age of the last handled event while there are more; otherwise 0.
        handled: events handled since it was opened, repeated ones included.
        retrying: jobs that are retried by themselves.
        parked: jobs that wait for an operator.
        partitions: number of partitions.
        held: numbers of the partitions that this process holds, from 1.
    """

    state: SubscriptionState
    position: int = 0
    gap: int = 0
    lag_seconds: float = 0.0
    handled: int = 0
    retrying: int = 0
    parked: int = 0
    partitions: int = 1
    held: tuple[int, ...] = ()


class _Reader(enum.Enum):
    """What the task that reads the subscription is doing."""

    CLOSED = enum.auto()
    IDLE = enum.auto()  # no event is handed out
    WAITING = enum.auto()  # a task waits for the next event
    HANDED_OUT = enum.auto()  # an event is handed out; asking for the next one acknowledges it
    IN_HANDLER = enum.auto()  # handed out to the handler of `run`, which may be cancelled or fail


class Subscription:
    """Events of a log, one after another; created by `subscribe`, used as `async with … as events`.

    Args:
        log: the log, or the URL of its nats-server, or None for the log of this machine's service.
        definition: filters, start and sharing.
        is_durable: whether the position is kept on the server, under the definition's name.
        member: the member of a fixed group, from 1; 0: there is no such group.
        with_jobs: whether events carry their job before and after.
        retries: retries of a failed event before its job is parked.
    """

    def __init__(
        self,
        log: EventLog | str | None,
        definition: Definition,
        *,
        is_durable: bool,
        member: int = 0,
        with_jobs: bool,
        retries: int,
    ) -> None:
        self._log = log
        self._definition = definition
        self._is_durable = is_durable
        self._member = member
        self._with_jobs = with_jobs
        self._retries = retries
        # Set when it is opened.
        self._own_log: JetStreamLog | None = None
        self._partitions: Sequence[Partition] = ()
        self._queue: RetryQueue | None = None
        self._balance: Balance | None = None
        self._tending: asyncio.Task[None] | None = None
        # The reader.
        self._reader = _Reader.CLOSED
        self._task: asyncio.Task[object] | None = None  # of the reader
        self._partition: Partition | None = None  # of the event that is handed out, or was last
        self._to_release: Partition | None = None  # once its event is handled
        self._turn_ends = 0.0
        self._refresh_at = 0.0
        self._redelivered_first = False
        self._is_up = True  # the log was reachable when the reader last used it
        self._handled = 0
        self._changed = asyncio.Event()  # for the reader
        self._state_changed = asyncio.Event()  # for `wait_state`
        self._known_state = SubscriptionState.STOPPED

    # --- opening and closing --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._reader is not _Reader.CLOSED:
            raise InvalidInput("this subscription is already open: use it, or create another one")
        self._reader, self._task, self._partition, self._partitions = _Reader.IDLE, None, None, ()
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        self._notify_if_state_changed()
        self._tending = asyncio.create_task(self._tend())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._reader is _Reader.HANDED_OUT:
            self._complete()
        await self._close()

    async def _open(self) -> None:
        log = self._log
        if isinstance(log, str | None):
            log = self._own_log = await JetStreamLog.connect(log)
        if not self._is_durable:
            self._partitions = [await self._ephemeral_partition(log)]
        elif isinstance(log, JetStreamLog):
            self._partitions = await self._durable_partitions(log)
        else:
            raise InvalidInput("a subscription with a name needs a log on NATS JetStream")
        for partition in self._partitions:
            await partition.start()

    async def _ephemeral_partition(self, log: EventLog) -> Partition:
        event_filter = self._definition.filter()
        info = await log.info()
        after = await resolve_start(log, self._definition.start, info)
        source = EphemeralSource(log, subjects=event_filter.subjects, after=after, epoch=info.epoch)
        events = EventBuilder(log, event_filter, with_jobs=self._with_jobs)
        return Partition(0, source, events, on_change=self._on_change)

    async def _durable_partitions(self, log: JetStreamLog) -> Sequence[Partition]:
        records, consumers = await log.key_value("SUBSCRIPTIONS"), log.consumers()
        definition = self._definition = await ensure_definition(log, records, consumers, self._definition)
        parts = [self._member - 1] if definition.members else list(range(definition.parts))
        await ensure_consumers(consumers, definition, parts)
        self._queue = RetryQueue(records, definition.name, definition.epoch, retries=self._retries)
        self._balance = Balance(definition.partitions) if definition.partitions else None
        event_filter = definition.filter()
        return [
            Partition(
                part,
                consumers.open(
                    definition.consumer_name(part),
                    note=definition.note(part),
                    epoch=definition.epoch,
                    max_events=max(2, SUBSCRIPTION_BUFFER_EVENTS // len(parts)),
                    max_bytes=SUBSCRIPTION_BUFFER_BYTES // len(parts),
                ),
                EventBuilder(
                    log,
                    event_filter,
                    with_jobs=self._with_jobs,
                    shards=definition.shards(part),
                    reachable_shards=definition.reachable_shards(part),
                    share=len(parts),
                ),
                on_change=self._on_change,
                queue=self._queue,
                part_of=definition.part_of,
            )
            for part in parts
        ]

    async def _close(self) -> None:
        self._reader = _Reader.CLOSED
        if self._partition is not None:
            self._partition.withdraw()
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        for partition in self._partitions:
            with suppress(JobledgerError):
                await partition.save()
        await asyncio.gather(*(each.close() for each in self._partitions), return_exceptions=True)
        self._notify_if_state_changed()
        own_log, self._own_log = self._own_log, None
        if own_log is not None:
            await own_log.close()

    # --- the reader -----------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SubscribedEvent:
        """The next event; acknowledges the one before.

        Raises:
            InvalidInput: if another task handles an event of this subscription, or waits for one.
            JobledgerError: if the subscription cannot continue.
        """
        task = asyncio.current_task()
        if task is not self._task:
            self._refuse_second_reader()
            self._task = task
        partition = self._partition
        if partition is not None:
            if partition.complete():
                self._handled += 1
            if (now := lease_clock()) < self._turn_ends:
                event = partition.next_ready(now)
                if event is not None:
                    return self._hand_out(partition, event)
        self._enter(_Reader.WAITING)
        try:
            return await self._next()
        finally:
            if self._reader is _Reader.WAITING:
                self._reader = _Reader.IDLE

    async def run(self, handler: Handler) -> None:
        """Call `handler` with each event; one that fails is retried, and its job's later events wait for it.

        Raises:
            JobledgerError: if the subscription cannot continue.
            Exception: what the handler raised, if the subscription has no name.
        """
        async for event in self:
            self._enter(_Reader.IN_HANDLER)
            try:
                try:
                    await handler(event)
                except Exception as error:
                    if self._queue is None:
                        raise
                    await self.fail(event, error)
            except BaseException:
                partition = self._partition
                if partition is not None and partition.event is event:
                    partition.take_back()
                    self._enter(_Reader.IDLE)
                raise
            finally:
                if self._reader is _Reader.IN_HANDLER:
                    self._reader = _Reader.HANDED_OUT

    async def ack(self, event: SubscribedEvent) -> None:
        """See `SubscribedEvent.ack`."""
        partition = self._partition
        if partition is not None and event is partition.event:
            self._complete()
            self._enter(_Reader.IDLE)
            await partition.acknowledge()
            await partition.save()

    async def fail(self, event: SubscribedEvent, error: BaseException) -> None:
        """See `SubscribedEvent.fail`."""
        if self._queue is None:
            raise InvalidInput("only a subscription with a name retries failed events: give it a name")
        partition = self._partition
        if partition is not None and event is partition.event:
            await partition.fail(self._queue, error)
            self._enter(_Reader.IDLE)

    def _refuse_second_reader(self) -> None:
        """Requesting the next event acknowledges the one before: only the task that has it may do so."""
        task = self._task
        if task is None or task.done() or self._reader in (_Reader.CLOSED, _Reader.IDLE):
            return
        what = "waits for the next event" if self._reader is _Reader.WAITING else "handles an event"
        raise InvalidInput(
            f"another task ({task.get_name()}) {what} of this subscription: read it in one task, or open one"
            " subscription per task (with members or elastic they share the jobs); to continue in another"
            " task, acknowledge the event first: `await event.ack()`"
        )

    def _hand_out(self, partition: Partition, event: SubscribedEvent) -> SubscribedEvent:
        event.subscription = self
        self._partition = partition
        if self._reader is not _Reader.HANDED_OUT:
            self._enter(_Reader.HANDED_OUT)
        return event

    def _enter(self, reader: _Reader) -> None:
        """Change the reader's state, unless the subscription was closed in the meantime."""
        if self._reader is not _Reader.CLOSED:
            self._reader = reader

    @property
    def _event(self) -> SubscribedEvent | None:
        """The event that is handed out."""
        return self._partition.event if self._partition is not None else None

    def _complete(self) -> None:
        if self._partition is not None and self._partition.complete():
            self._handled += 1

    # --- the loop -------------------------------------------------------------------------------------------

    async def _next(self) -> SubscribedEvent:
        backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
        while True:
            self._changed.clear()
            self._raise_if_stopped()
            try:
                if lease_clock() >= self._turn_ends:
                    self._turn_ends = 0.0
                    await asyncio.sleep(0)  # lets other tasks run
                    await self._tend_between_events()
                event = await self._next_of_any()
            except LogUnavailable:
                self._is_up = False
                self._notify_if_state_changed()
                await backoff.sleep()
                continue
            self._is_up = True
            backoff.reset()
            if event is not None:
                return event
            self._notify_if_state_changed()
            await self._wait_for_change()

    async def _next_of_any(self) -> SubscribedEvent | None:
        """The next event; starts with the partition after the last one, so that each gets its turn."""
        partitions = self._partitions
        first = partitions.index(self._partition) + 1 if self._partition is not None else 0
        self._redelivered_first = not self._redelivered_first
        for partition in (*partitions[first:], *partitions[:first]):
            event = await partition.next(redelivered_first=self._redelivered_first)
            if event is not None:
                # A redelivered event ends the turn, so that the other partitions are not kept waiting.
                turn_seconds = 0.0 if partition.is_redelivering else SUBSCRIPTION_TURN_SECONDS
                self._turn_ends = lease_clock() + turn_seconds
                return self._hand_out(partition, event)
        for partition in partitions:
            await partition.settle()
        return None

    async def _tend_between_events(self) -> None:
        if self._to_release is not None:
            partition, self._to_release = self._to_release, None
            partition.release()
        now = lease_clock()
        if self._queue is not None and now >= self._refresh_at:
            self._refresh_at = now + RETRY_QUEUE_REFRESH_SECONDS
            await self._queue.refresh()

    async def _wait_for_change(self) -> None:
        """Wait for a change, or for the time of the next retry."""
        seconds = RETRY_QUEUE_REFRESH_SECONDS
        next_try = self._queue.next_try() if self._queue is not None else None
        if next_try is not None:
            until_try = (next_try - time.time_ns()) / NANOSECONDS_PER_SECOND
            seconds = min(seconds, max(RETRY_WAIT_SECONDS, until_try))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _raise_if_stopped(self) -> None:
        if self._reader is _Reader.CLOSED:
            raise InvalidInput("this subscription is closed; open it: `async with subscribe(…) as events`")
        for partition in self._partitions:
            if partition.error is not None:
                raise partition.error

    # --- sharing partitions ---------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Periodic work that does not wait for the handler."""
        while True:
            await asyncio.sleep(HOLD_CHECK_SECONDS)
            if self._queue is not None:
                due = {self._definition.part_of(job.job_id) for job in self._queue.due(time.time_ns())}
                for partition in self._partitions:
                    partition.set_claimed(claimed=partition.number in due)
            if self._balance is not None:
                self._rebalance(self._balance)

    def _rebalance(self, balance: Balance) -> None:
        held = sorted((each for each in self._partitions if each.is_held), key=lambda each: each.held_since)
        waiting = {partition.number: partition.others_waiting for partition in held}
        for _ in range(RELEASE_MAX_PARTITIONS):
            number = balance.release(waiting)
            if number is None:
                break
            del waiting[number]
            self._release(self._partitions[number])
        is_at_quota = balance.is_at_quota(waiting)
        for partition in self._partitions:
            partition.set_at_quota(at_quota=is_at_quota)

    def _release(self, partition: Partition) -> None:
        if partition.event is not None:
            self._to_release, self._turn_ends = partition, 0.0  # when its event is handled
        else:
            partition.release()
        self._changed.set()

    # --- what it shows --------------------------------------------------------------------------------------

    @property
    def state(self) -> SubscriptionState:  # noqa: PLR0911 - conditions in the order of their precedence
        """What it is doing now: the first that applies of the states below."""
        if self._reader is _Reader.CLOSED:
            return SubscriptionState.STOPPED
        states = {partition.state for partition in self._partitions}
        if PartitionState.STOPPED in states:
            return SubscriptionState.STOPPED
        if not self._is_up or PartitionState.DISCONNECTED in states:
            return SubscriptionState.RECONNECTING
        if PartitionState.STANDBY in states and states <= {PartitionState.STANDBY, PartitionState.EMPTY}:
            return SubscriptionState.STANDBY
        if states & {PartitionState.CATCHING_UP, PartitionState.UNCLAIMED}:
            return SubscriptionState.CATCHING_UP
        if self._queue is not None and self._queue.count(ParkedState.PARKED):
            return SubscriptionState.PARKED
        return SubscriptionState.LIVE

    @property
    def status(self) -> SubscriptionStatus:
        """What it is doing now, with its figures."""
        held = [partition for partition in self._partitions if partition.is_held]
        lagging = [partition for partition in held if partition.backlog]
        positions = [partition.position for partition in lagging]
        times = [partition.last_time for partition in lagging if partition.last_time]
        queue = self._queue
        return SubscriptionStatus(
            state=self.state,
            position=min(positions) if positions else max((each.position for each in held), default=0),
            gap=sum(partition.backlog for partition in lagging) + (self._event is not None),
            lag_seconds=max(0.0, (time.time_ns() - min(times)) / NANOSECONDS_PER_SECOND) if times else 0.0,
            handled=self._handled,
            retrying=queue.count(ParkedState.RETRYING) if queue is not None else 0,
            parked=queue.count(ParkedState.PARKED) if queue is not None else 0,
            partitions=self._definition.parts,
            held=tuple(partition.number + 1 for partition in held),
        )

    async def wait_state(
        self, *states: SubscriptionState, timeout_seconds: float = WAIT_DEFAULT_SECONDS
    ) -> None:
        """Wait until it is in one of these states; another task must read it meanwhile.

        Raises:
            WaitTimeout: if it did not reach one in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.state not in states:
                    self._state_changed.clear()
                    await self._state_changed.wait()
        except TimeoutError:
            wanted = " or ".join(states)
            raise WaitTimeout(
                f"the subscription is {self.state} and was not {wanted} within {timeout_seconds:g} s"
            ) from None

    def _on_change(self) -> None:
        self._changed.set()
        self._state_changed.set()

    def _notify_if_state_changed(self) -> None:
        state = self.state
        if state is not self._known_state:
            self._known_state = state
            self._state_changed.set()
