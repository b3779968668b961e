"""What a subscription is doing, for people and for metrics."""

import enum
import time
from collections.abc import Sequence

import msgspec

from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.parked_jobs import SetAside
from jobledger.projections.subscriptions.partition import Partition
from jobledger.projections.subscriptions.retry import ParkedState


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
