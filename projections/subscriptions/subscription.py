"""A subscription: one event at a time, over all partitions that this process holds.

    catching_up ──► live ──► reconnecting ──► catching_up …
         ▲  └─────────┴────► standby (others hold what there is) ──► catching_up
         └── opened          stopped (closed, or an error that only a person can mend)
    parked is live, but for jobs that wait for an operator

What is handled is acknowledged: when the next event is asked for, the one before is done. See DESIGN.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self

from jobledger.projections.limits import (
    ACKNOWLEDGE_EVENTS,
    ACKNOWLEDGE_SECONDS,
    LET_GO_PARTITIONS,
    RECORDS_LOOK_SECONDS,
    SUBSCRIPTION_TURN_SECONDS,
)
from jobledger.projections.subscriptions.equipment import Equipment
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.observing import Observed
from jobledger.projections.subscriptions.parked_jobs import now_ns
from jobledger.projections.subscriptions.parking import done
from jobledger.projections.subscriptions.partition import Partition
from jobledger.projections.subscriptions.status import (
    SubscriptionState,
    SubscriptionStatus,
    state_of,
    status_of,
)
from jobledger.store.lease import lease_clock
from jobledger.store.model.errors import InvalidInput, JobledgerError, LogUnavailable
from jobledger.store.model.limits import HOLD_CHECK_SECONDS, RETRY_MAX_WAIT_SECONDS, RETRY_WAIT_SECONDS

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
