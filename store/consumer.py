"""Durable consumers of the log: a place that the server keeps, and deliveries from there on. A port.

`jetstream.consumer` and `jetstream.consumers` implement it. One process at a time holds one, others
wait. See DESIGN.md in `projections/subscriptions`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from jobledger.store.model.errors import LogError
from jobledger.store.model.events import Record


class Delivery(Record, frozen=True, gc=False):
    """A record as a consumer delivers it.

    Attributes:
        token: acknowledges this one and all before it.
    """

    token: str = ""


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a consumer.

    Attributes:
        name: of the consumer.
        subjects: the filters; none overlaps another one.
        after: the place where it begins: the first event has a higher sequence.
        labels: for people and for other programs; kept beside it.
        plain: for a program in another language: each event is acknowledged by itself, one after the other.
    """

    name: str
    subjects: tuple[str, ...]
    after: int = 0
    labels: Mapping[str, str] = {}
    plain: bool = False


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer as the server describes it.

    Attributes:
        name: of the consumer.
        subjects: its filters.
        labels: as given when it was made.
        created: RFC 3339.
        acknowledged: the sequence up to which all is handled.
        delivered: the last sequence delivered.
        unacknowledged: events delivered and not acknowledged.
        pending: events not yet delivered.
        waiting: requests for events that wait; of all processes together.
        holder: names the process that holds it; empty if none does.
        reset_to: the sequence of a requested reset, until that request is removed; None without one.
    """

    name: str
    subjects: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    created: str = ""
    acknowledged: int = 0
    delivered: int = 0
    unacknowledged: int = 0
    pending: int = 0
    waiting: int = 0
    holder: str = ""
    reset_to: int | None = None


class ConsumerListener(Protocol):
    """Who reads a consumer; its methods take note, and return."""

    def news(self) -> None:
        """There is something to read, or something changed: look again."""
        ...

    def on_reset(self, *, place: int, kept: bool) -> None:
        """Deliveries begin anew behind a place; what was taken before counts no more.

        Args:
            place: the sequence.
            kept: whether it was held all the time: what was handled since the place was handled here.
        """
        ...


class DurableConsumer(Protocol):
    """One process's access to one consumer: it waits until it holds it, and then delivers."""

    @property
    def until(self) -> float:
        """Until when what was taken may be handled, by `lease_clock`; 0 while it is not held."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the log can be heard right now."""
        ...

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        ...

    @property
    def info(self) -> ConsumerInfo:
        """As it was last seen, at most a few seconds ago."""
        ...

    wanted: bool
    """Set by the reader: it is to be held even if it has no event to deliver."""

    at_quota: bool
    """Set by the reader: it has its share of consumers, and others who wait for this one are to have it."""

    @property
    def others_waiting(self) -> int:
        """How many other processes wait for it; known only while it is held."""
        ...

    @property
    def error(self) -> LogError | None:
        """Why it can't go on; None while it can."""
        ...

    @property
    def buffered(self) -> int:
        """Events that can be taken."""
        ...

    @property
    def pending(self) -> int:
        """Events that are still to come from the server, as last heard."""
        ...

    async def start(self, hearer: ConsumerListener) -> None:
        """Begin to wait for it."""
        ...

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """The next deliveries, in order, without waiting for any; at least one if there are."""
        ...

    async def replenish(self) -> None:
        """Ask the server for what there is room for; to be called after `take`."""
        ...

    def handled(self, delivery: Delivery) -> None:
        """All up to this one is handled; told to the server by `acknowledge`."""
        ...

    async def acknowledge(self) -> None:
        """Tell the server how far all is handled, without waiting for its answer."""
        ...

    def let_go(self) -> None:
        """Acknowledge, let another process have it, and wait for it again; nothing more is handled here."""
        ...

    async def close(self) -> None:
        """Acknowledge, let another process have it, and stop."""
        ...


class Consumers(Protocol):
    """The durable consumers of a log."""

    async def make(self, spec: ConsumerSpec, *, note: str) -> ConsumerInfo:
        """Return the consumer of that name, made if it is missing, whatever its labels are.

        Args:
            spec: of the consumer.
            note: key of the record in which a reset that was done is noted.

        Raises:
            LogNotPermitted: if it is missing, and these credentials may not create it.
            LogUnfit: if the one that exists delivers something else.
        """
        ...

    def open(self, name: str, *, note: str, epoch: str, max_events: int, max_bytes: int) -> DurableConsumer:
        """Access to a consumer of that name.

        Args:
            name: of the consumer.
            note: as of `make`.
            epoch: of the stream that it was made on.
            max_events: the most that may wait here to be taken.
            max_bytes: the same in bytes; one large event more may be there.
        """
        ...

    async def info(self, name: str) -> ConsumerInfo | None:
        """A consumer as its leader has it; None if there is none."""
        ...

    async def list(self) -> Sequence[ConsumerInfo]:
        """All durable consumers of the log that carry labels of ours."""
        ...

    async def reset(self, name: str, *, after: int, note: str) -> None:
        """Make it begin again after a sequence, whichever process holds it; needs the right to create it."""
        ...

    async def settle(self, name: str, *, note: str) -> ConsumerInfo | None:
        """As `info`; a requested reset that was done meanwhile is removed first."""
        ...

    async def delete(self, name: str) -> bool:
        """Delete it; False if there was none."""
        ...
