"""A subscription: one event at a time, over all partitions that this process holds.

    catching_up ──► live ──► reconnecting ──► catching_up …
         ▲  └─────────┴────► standby (others hold what there is) ──► catching_up
         └── opened          stopped (closed, or an error that only a person can mend)
    parked is live, but for jobs that wait for an operator

What is handled is acknowledged: when the next event is asked for, the one before is done. See DESIGN.md.
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
    ACKNOWLEDGE_EVENTS,
    ACKNOWLEDGE_SECONDS,
    LET_GO_PARTITIONS,
    RECORDS_LOOK_SECONDS,
    SUBSCRIPTION_TURN_SECONDS,
    WAIT_DEFAULT_SECONDS,
)
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.parked_jobs import ParkedState, SetAside, now_ns
from jobledger.projections.subscriptions.parking import Parking, done
from jobledger.projections.subscriptions.partition import Partition
from jobledger.projections.subscriptions.rebalance import Balance
from jobledger.store.lease import lease_clock
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput, JobledgerError, LogUnavailable
from jobledger.store.model.limits import HOLD_CHECK_SECONDS, RETRY_MAX_WAIT_SECONDS, RETRY_WAIT_SECONDS


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What `subscribe` makes when a subscription is entered.

    Attributes:
        lanes: one per partition that this process may hold.
        parts: how many partitions there are in all.
        setbacks: what becomes of events that fail; None: nothing, there is no name.
        balance: judges which partition to let go; None: partitions are not shared in this way.
        owned: a log to close in the end.
    """

    lanes: Sequence[Partition] = ()
    parts: int = 1
    setbacks: Parking | None = None
    balance: Balance | None = None
    owned: EventLog | None = None

    @property
    def aside(self) -> SetAside | None:
        """The jobs that are set aside; None: none can be."""
        return self.setbacks.aside if self.setbacks is not None else None


class SubscriptionState(enum.StrEnum):
    """Where a subscription is."""

    CATCHING_UP = "catching_up"  # handles what was there when it began, or came while it was away
    LIVE = "live"  # has handled all there was; handles what comes
    PARKED = "parked"  # the same, but for jobs that wait for an operator
    RECONNECTING = "reconnecting"  # the log can't be heard; tries again, for ever
    STANDBY = "standby"  # other processes have what there is of it; takes over when one is gone
    STOPPED = "stopped"  # closed, or can't go on: the loop over it raises why


class SubscriptionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription at one moment; numbers are of the partitions that this process holds.

    Attributes:
        state: what it is doing.
        position: the sequence up to which all is handled or set aside; 0: nothing yet.
        gap: events to come, as last heard; at most, with filters that the server does not know.
        lag_seconds: how old the last handled event is, while there are more to come; 0 when there are none.
        handled: events handled since it was opened, repeats among them.
        retrying: jobs set aside that are tried again by themselves.
        parked: jobs set aside that wait for an operator.
        partitions: that it has in all.
        held: the partitions that this process holds, from 1.
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


def state_of(lanes: Sequence[Partition], *, is_up: bool, aside: SetAside | None) -> SubscriptionState:
    """Where a subscription is that reads these lanes.

    The first that is so of stopped, reconnecting, standby, catching up, parked, live.

    Args:
        lanes: of this process.
        is_up: whether what was last read from the log, beside the lanes, could be read.
        aside: the jobs set aside.
    """
    if any(lane.source.error is not None for lane in lanes):
        return SubscriptionState.STOPPED
    if not is_up or not all(lane.source.connected for lane in lanes):
        return SubscriptionState.RECONNECTING
    held = [lane for lane in lanes if lane.source.held]
    # The server gives a partition away when it has an event for it: an empty one that nobody holds is as good
    # as held.
    free = [lane for lane in lanes if not lane.source.held and not lane.source.info.holder]
    has_more = any(_has_more(lane) for lane in free)
    if not held and not has_more and len(free) < len(lanes):
        return SubscriptionState.STANDBY
    if has_more or not all(lane.live for lane in held):
        return SubscriptionState.CATCHING_UP
    is_parked = aside is not None and aside.count(ParkedState.PARKED) > 0
    return SubscriptionState.PARKED if is_parked else SubscriptionState.LIVE


def status_of(
    lanes: Sequence[Partition],
    *,
    state: SubscriptionState,
    parts: int,
    handled: int,
    current: tuple[Partition | None, SubscribedEvent | None],
    aside: SetAside | None,
) -> SubscriptionStatus:
    """A subscription at this moment.

    Args:
        lanes: of this process.
        state: where it is.
        parts: how many partitions there are in all.
        handled: events so far.
        current: the event that is being handled, and its lane.
        aside: the jobs set aside.
    """
    held = [lane for lane in lanes if lane.source.held]
    behind = [lane for lane in held if lane.source.pending or lane.waiting]
    places = [_place(lane, current) for lane in behind]
    gap = sum(lane.source.pending + lane.waiting for lane in behind)
    times = [lane.time for lane in behind if lane.time]
    return SubscriptionStatus(
        state=state,
        position=min(places) if places else max((_place(lane, current) for lane in held), default=0),
        gap=gap + (current[1] is not None),
        lag_seconds=max(0.0, (time.time_ns() - min(times)) / 1e9) if times else 0.0,
        handled=handled,
        retrying=aside.count(ParkedState.RETRYING) if aside is not None else 0,
        parked=aside.count(ParkedState.PARKED) if aside is not None else 0,
        partitions=parts,
        held=tuple(lane.number + 1 for lane in held),
    )


def _place(lane: Partition, current: tuple[Partition | None, SubscribedEvent | None]) -> int:
    is_handling = current[0] is lane and current[1] is not None
    return lane.position - 1 if is_handling else lane.position


def _has_more(lane: Partition) -> bool:
    info = lane.source.info
    return bool(info.pending or info.unacknowledged or not info.created)


class Observed:
    """Something with a state that others wait for."""

    def __init__(self) -> None:
        self._news = asyncio.Event()  # for who reads
        self._changed = asyncio.Event()  # for who waits
        self._known = SubscriptionState.STOPPED

    @property
    def state(self) -> SubscriptionState:
        """Where it is."""
        raise NotImplementedError

    async def wait_state(
        self, *states: SubscriptionState, timeout_seconds: float = WAIT_DEFAULT_SECONDS
    ) -> None:
        """Wait until it is in one of these states; somebody else must be reading it meanwhile.

        Raises:
            WaitTimeout: if it is not in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.state not in states:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            wanted = " or ".join(states)
            raise WaitTimeout(
                f"the subscription is {self.state} and was not {wanted} within {timeout_seconds:g} s"
            ) from None

    def news(self) -> None:
        """There is something to look at."""
        self._news.set()
        self._changed.set()

    def _tell(self) -> None:
        state = self.state
        if state is not self._known:
            self._known = state
            self._changed.set()


_SECOND = 1_000_000_000
Handler = Callable[[SubscribedEvent], Awaitable[object]]


class Subscription(Observed):
    """Events of a log, one after the other; made by `subscribe`, used as `async with … as events`."""

    def __init__(self, equip: Callable[["Subscription"], Awaitable[Equipment]]) -> None:
        super().__init__()
        self._equip = equip
        self._equipment = Equipment()
        self._lanes: Sequence[Partition] = ()
        self._tending: asyncio.Task[None] | None = None
        self._lane: Partition | None = None  # of the event that is being handled, or was last
        self._current: SubscribedEvent | None = None
        self._came = (0, 0)  # its lane's turn and holding then
        self._is_handling = False  # a handler of `run` has it, and may be cut off
        self._turn_ends = 0.0
        self._look_at = 0.0
        self._replays_first = False
        self._handled = 0
        self._held: list[Partition] = []  # in the order in which they came
        self._letting_go: Partition | None = None
        self._is_up = True
        self._is_open = False
        self._reader: asyncio.Task[object] | None = None  # waits for the next event, or was given the last
        self._is_asking = False

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise InvalidInput("this subscription is open; use it as it is, or make another one")
        self._is_open = True
        self._lane = self._current = self._reader = None
        try:
            self._equipment = await self._equip(self)
            self._lanes = self._equipment.lanes
            for lane in self._lanes:
                await lane.source.start(lane)
        except BaseException:
            await self._close()
            raise
        self._tell()
        self._tending = asyncio.create_task(self._tend())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._is_handling:
            self._finish()
        await self._close()

    async def _close(self) -> None:
        self._current, self._is_open = None, False
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        if self._equipment.setbacks is not None:
            for lane in self._lanes:
                with suppress(JobledgerError):
                    await self._equipment.setbacks.save(lane)
        await asyncio.gather(*(lane.source.close() for lane in self._lanes), return_exceptions=True)
        for lane in self._lanes:
            lane.ready.clear()
        self._tell()
        if self._equipment.owned is not None:
            await self._equipment.owned.close()

    # --- events ---------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SubscribedEvent:
        """The next event; the one before is done.

        Raises:
            InvalidInput: if another task has an event of it that is not done, or waits for one.
            JobledgerError: if the subscription can't go on.
        """
        task = asyncio.current_task()
        if task is not self._reader:
            self._refuse_second_reader()
            self._reader = task
        if self._current is not None:
            self._finish()
        lane = self._lane
        if lane is not None and (now := lease_clock()) < self._turn_ends and now < lane.source.until:
            event = lane.pop()
            if event is not None:
                return self._hand_out(lane, event)
        self._is_asking = True
        try:
            return await self._next()
        finally:
            self._is_asking = False

    def _refuse_second_reader(self) -> None:
        """Asking for the next event acknowledges the one before: only the task that has it may do so."""
        reader = self._reader
        if reader is None or reader.done():
            return
        if self._is_asking or self._current is not None:
            what = "waits for the next event" if self._is_asking else "handles an event"
            raise InvalidInput(
                f"another task ({reader.get_name()}) {what} of this subscription: let one task read it, or"
                " open one subscription for each (with members or elastic they share the jobs); to go on in"
                " another task, acknowledge the event first: `await event.ack()`"
            )

    async def run(self, handler: Handler) -> None:
        """Hand each event to `handler`; one that fails is tried again, and its job's later ones wait for it.

        Raises:
            JobledgerError: if the subscription can't go on.
            Exception: what the handler raised, if the subscription has no name.
        """
        async for event in self:
            self._is_handling = True
            try:
                try:
                    await handler(event)
                except Exception as error:
                    if self._equipment.setbacks is None:
                        raise
                    await self.failed(event, error)
            except BaseException:  # cut off: it is not done, and comes again
                if self._lane is not None and event is self._current:
                    self._current = None
                    self._lane.take_back(event, self._came)
                raise
            finally:
                self._is_handling = False

    async def done(self, event: SubscribedEvent) -> None:
        """See `SubscribedEvent.ack`."""
        lane, setbacks = self._lane, self._equipment.setbacks
        if event is self._current and lane is not None:
            self._finish()
            await lane.source.acknowledge()
            if setbacks is not None:
                await setbacks.save(lane)

    async def failed(self, event: SubscribedEvent, error: BaseException) -> None:
        """See `SubscribedEvent.fail`."""
        setbacks, lane = self._equipment.setbacks, self._lane
        if setbacks is None:
            raise InvalidInput("only a subscription with a name can set a job aside: give it one")
        if event is not self._current or lane is None:
            return
        if lane.holding != self._came[1]:
            self._current = None  # whoever has it now handles the event again
            return
        replayed = lane.replay is not None and lane.replay.handed is event
        if await setbacks.failed(lane, event, error) and not replayed and lane.turn == self._came[0]:
            lane.done(event)
        self._current = None

    def _finish(self) -> None:
        """The event that was handed out last is done."""
        event, lane = self._current, self._lane
        if event is None or lane is None:
            return
        self._current = None
        self._handled += 1
        replay = lane.replay
        if replay is not None and replay.handed is event:
            done(replay, event)
        elif lane.turn == self._came[0] and event.delivery is not None:
            lane.done(event)

    # --- what is next ---------------------------------------------------------------------------------------

    async def _next(self) -> SubscribedEvent:
        wait_seconds = RETRY_WAIT_SECONDS
        while True:
            self._news.clear()
            self._check()
            try:
                if lease_clock() >= self._turn_ends:
                    self._turn_ends = 0.0
                    await asyncio.sleep(0)  # let others have their turn
                    await self._look()
                event = await self._pick()
            except LogUnavailable:
                self._is_up = False
                self._tell()
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, RETRY_MAX_WAIT_SECONDS)
                continue
            self._is_up = True
            wait_seconds = RETRY_WAIT_SECONDS
            if event is not None:
                return event
            self._tell()
            await self._wait()

    async def _pick(self) -> SubscribedEvent | None:
        """The next event of the next lane that has one; acknowledges on the way."""
        lanes = self._lanes
        first = lanes.index(self._lane) + 1 if self._lane is not None else 0
        self._replays_first = not self._replays_first
        for lane in (*lanes[first:], *lanes[:first]):
            await self._acknowledge_if_due(lane)
            now = lease_clock()
            if now >= lane.source.until:
                continue
            for replays in (self._replays_first, not self._replays_first):
                if not replays and (lane.is_idle or now < lane.not_before):
                    continue
                event = await (self._from_replay(lane) if replays else self._from_lane(lane))
                if event is not None:
                    return event
        for lane in lanes:
            await lane.source.acknowledge()
            lane.handled = 0
            if lane.source.held and not (lane.source.pending or lane.waiting):
                lane.live = True
        return None

    async def _from_lane(self, lane: Partition) -> SubscribedEvent | None:
        # The lease is looked at right before an event is handed out: nothing is awaited in between.
        while lease_clock() < lane.source.until:
            event = lane.pop()
            if event is not None:
                self._turn_ends = lease_clock() + SUBSCRIPTION_TURN_SECONDS
                return self._hand_out(lane, event)
            if not await lane.prepare():
                return None
            await self._acknowledge_if_due(lane)
        return None

    async def _from_replay(self, lane: Partition) -> SubscribedEvent | None:
        setbacks = self._equipment.setbacks
        if setbacks is None or not setbacks.aside.jobs:
            return None
        event = await setbacks.next(lane)
        if event is None:
            return None
        if lease_clock() >= lane.source.until:
            lane.replay = None  # begun again, from what is written down
            return None
        self._turn_ends = 0.0
        return self._hand_out(lane, event)

    def _hand_out(self, lane: Partition, event: SubscribedEvent) -> SubscribedEvent:
        event.subscription = self
        self._lane, self._current, self._came = lane, event, (lane.turn, lane.holding)
        return event

    async def _acknowledge_if_due(self, lane: Partition) -> None:
        if not lane.handled:
            return
        now = lease_clock()
        if lane.handled >= ACKNOWLEDGE_EVENTS or now - lane.acknowledged_at >= ACKNOWLEDGE_SECONDS:
            lane.handled, lane.acknowledged_at = 0, now
            await lane.source.acknowledge()

    async def _look(self) -> None:
        """Let go what is to be let go, and hear of what operators wrote, now and then."""
        if self._letting_go is not None:
            lane, self._letting_go = self._letting_go, None
            lane.source.let_go()
        now = lease_clock()
        if self._equipment.setbacks is not None and now >= self._look_at:
            self._look_at = now + RECORDS_LOOK_SECONDS
            await self._equipment.setbacks.aside.refresh()

    async def _wait(self) -> None:
        """Wait for news, or for the time of the next try."""
        seconds = RECORDS_LOOK_SECONDS
        if self._equipment.setbacks is not None:
            next_try = self._equipment.setbacks.aside.next_try()
            if next_try is not None:
                seconds = min(seconds, max(RETRY_WAIT_SECONDS, (next_try - now_ns()) / _SECOND))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _check(self) -> None:
        if not self._is_open:
            raise InvalidInput("this subscription is closed; open it: `async with subscribe(…) as events`")
        for lane in self._lanes:
            if lane.source.error is not None:
                raise lane.source.error

    # --- what it is doing -----------------------------------------------------------------------------------

    @property
    def status(self) -> SubscriptionStatus:
        """What it is doing now."""
        return status_of(
            self._lanes,
            state=self.state,
            parts=self._equipment.parts,
            handled=self._handled,
            current=(self._lane, self._current),
            aside=self._equipment.aside,
        )

    @property
    def state(self) -> SubscriptionState:
        """Where it is."""
        if not self._is_open:
            return SubscriptionState.STOPPED
        return state_of(self._lanes, is_up=self._is_up, aside=self._equipment.aside)

    async def _tend(self) -> None:
        """What goes on while a handler takes its time: the share of the partitions."""
        while True:
            await asyncio.sleep(HOLD_CHECK_SECONDS)
            self._held = [lane for lane in self._held if lane.source.held]
            self._held += [lane for lane in self._lanes if lane.source.held and lane not in self._held]
            if self._equipment.setbacks is not None:
                self._equipment.setbacks.want(self._lanes)
            balance = self._equipment.balance
            if balance is None:
                continue
            waiting = {lane.number: lane.source.others_waiting for lane in self._held}
            for _ in range(LET_GO_PARTITIONS):
                number = balance.let_go(waiting)
                if number is None:
                    break
                del waiting[number]
                self._let_go(self._lanes[number])
            is_sated = balance.is_sated(waiting)
            for lane in self._lanes:
                lane.source.at_quota = is_sated

    def _let_go(self, lane: Partition) -> None:
        if lane is self._lane and self._current is not None:
            self._letting_go, self._turn_ends = lane, 0.0  # when its event is done
        else:
            lane.source.let_go()
        self._news.set()
