"""A durable subscription as operators see it, from what the server knows. Pure."""

import enum

import msgspec

from jobledger.projections.limits import ADMIN_LIVE_SECONDS
from jobledger.projections.subscriptions.definition import Definition


class Attendance(enum.StrEnum):
    """What a subscription is doing, as the server knows it: the first of these that is so."""

    NO_CONSUMER = "unattended"  # nobody is there for some of it
    CATCHING_UP = "catching_up"  # all of it is read, and it is behind
    PARKED = "parked"  # live, but for jobs that wait for an operator
    LIVE = "live"  # all of it is read, and nothing waits for long


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one process at a time reads of a subscription.

    Attributes:
        name: of its consumer.
        position: the sequence up to which all is handled or set aside.
        gap: events that are not handled yet; with filters that the server does not know, at most.
        lag_seconds: age of the oldest of them.
        held: whether a process reads it.
        waiting: processes that wait to read it, at most.
    """

    name: str
    position: int = 0
    gap: int = 0
    lag_seconds: float = 0.0
    held: bool = False
    waiting: int = 0

    @property
    def attended(self) -> bool:
        """Whether a process is there for it: the server gives it to one only once it has an event for it."""
        return self.held or self.waiting > 0


class SubscriptionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A durable subscription as operators see it.

    Attributes:
        definition: what it is.
        parts: one, or one for each member or partition.
        retrying: jobs set aside that are tried again by themselves.
        parked: jobs set aside that wait for an operator.
    """

    definition: Definition
    parts: tuple[Part, ...]
    retrying: int = 0
    parked: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name

    @property
    def position(self) -> int:
        """The sequence up to which all is handled or set aside."""
        return min(part.position for part in self.parts)

    @property
    def gap(self) -> int:
        """Events that are not handled yet; with filters that the server does not know, at most."""
        gaps = [part.gap for part in self.parts]
        return max(gaps) if self.definition.members else sum(gaps)  # each member reads those of all

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest event that is not handled yet; 0 without any."""
        return max(part.lag_seconds for part in self.parts)

    @property
    def state(self) -> Attendance:
        """What it is doing."""
        if not all(part.attended for part in self.parts):
            return Attendance.NO_CONSUMER
        if self.lag_seconds >= ADMIN_LIVE_SECONDS:
            return Attendance.CATCHING_UP
        return Attendance.PARKED if self.parked else Attendance.LIVE
