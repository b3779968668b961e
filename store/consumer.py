"""Durable consumers of the log: the server keeps a position and delivers from there. A port.

`jetstream.consumer` implements it. One process at a time holds a consumer, the others wait for it. See
`projections/subscriptions/DESIGN.md`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from jobledger.store.model.errors import LogError
from jobledger.store.model.events import Record


class Delivery(Record, frozen=True, gc=False):
    """A record as a consumer delivers it.

    Attributes:
        token: acknowledges this record and all before it.
    """

    token: str = ""


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a consumer.

    Attributes:
        name: of the consumer.
        subjects: the filters; they do not overlap.
        after: the first event has a higher sequence.
        labels: metadata for people and other programs.
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
        labels: as given when it was created.
        created: RFC 3339.
        acknowledged: all events up to this sequence are handled.
        delivered: the last sequence delivered.
        unacknowledged: events delivered and not acknowledged.
        pending: events not yet delivered.
        waiting: pull requests of all processes that wait for events.
        holder: identifies the process that holds it; empty without one.
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
    """The reader of a consumer. Its methods only take note, and return at once."""

    def on_change(self) -> None:
        """Events can be taken, or a property of the consumer changed."""
        ...

    def on_reset(self, *, position: int, kept: bool) -> None:
        """Deliveries start again after a position; events taken before are void.

        Args:
            position: the sequence.
            kept: the consumer was held without interruption, so events handled since then were handled here.
        """
        ...


class DurableConsumer(Protocol):
    """One process's access to one consumer: waits until this process holds it, then delivers."""

    @property
    def lease_expires_at(self) -> float:
        """Events that were taken may be handled until then, by `lease_clock`; 0 while it is not held."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the log is reachable right now."""
        ...

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        ...

    @property
    def info(self) -> ConsumerInfo:
        """Its state, at most a few seconds old."""
        ...

    claim_idle: bool
    """Set by the reader: hold it even if it has no event to deliver."""

    at_quota: bool
    """Set by the reader: this process holds its share of consumers, so others that wait come first."""

    @property
    def others_waiting(self) -> int:
        """How many other processes wait for it; known only while it is held."""
        ...

    @property
    def error(self) -> LogError | None:
        """Why it stopped permanently; None while it works."""
        ...

    @property
    def buffered(self) -> int:
        """Events that can be taken."""
        ...

    @property
    def pending(self) -> int:
        """Events that the server has not sent yet, as last reported."""
        ...

    async def start(self, listener: ConsumerListener) -> None:
        """Starts to wait for it."""
        ...

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """Returns the next deliveries in order, without waiting; at least one if there are any."""
        ...

    async def replenish(self) -> None:
        """Requests as many events as there is room for; call it after `take`."""
        ...

    def mark_handled(self, delivery: Delivery) -> None:
        """Records that all events up to this one are handled; `acknowledge` sends it to the server."""
        ...

    async def acknowledge(self) -> None:
        """Sends to the server which events are handled, without waiting for its answer."""
        ...

    def release(self) -> None:
        """Acknowledges, gives it to another process, and waits for it again; nothing more is handled here."""
        ...

    async def close(self) -> None:
        """Acknowledges, gives it to another process, and stops."""
        ...


class Consumers(Protocol):
    """The durable consumers of a log."""

    async def create(self, spec: ConsumerSpec, *, note: str) -> ConsumerInfo:
        """Returns the consumer of that name, created if it is missing; an existing one keeps its labels.

        Args:
            spec: of the consumer.
            note: key of the entry that records a completed reset.

        Raises:
            LogNotPermitted: it is missing, and these credentials may not create it.
            LogUnfit: the existing one delivers something else.
        """
        ...

    def open(self, name: str, *, note: str, epoch: str, max_events: int, max_bytes: int) -> DurableConsumer:
        """Returns access to a consumer.

        Args:
            name: of the consumer.
            note: as for `create`.
            epoch: of the stream that it was created on.
            max_events: the most events that may be buffered here.
            max_bytes: the most bytes that may be buffered here; one large event may exceed it.
        """
        ...

    async def info(self, name: str) -> ConsumerInfo | None:
        """Returns a consumer as its leader has it; None without one."""
        ...

    async def list(self) -> Sequence[ConsumerInfo]:
        """Returns all durable consumers of the log that Jobledger created."""
        ...

    async def reset(self, name: str, *, after: int, note: str) -> None:
        """Makes it start again after a sequence, whichever process holds it; needs the right to create it."""
        ...

    async def reconcile(self, name: str, *, note: str) -> ConsumerInfo | None:
        """Like `info`, but first removes a requested reset that was completed."""
        ...

    async def delete(self, name: str) -> bool:
        """Deletes it; False if there was none."""
        ...
