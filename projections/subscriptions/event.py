"""One event as a subscriber receives it."""

from typing import Protocol

import msgspec

from jobledger.projections.subscriptions.filters import Match
from jobledger.store.model.events import (
    JobAccepted,
    JobCreated,
    JobEvent,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    Record,
    event_type,
)
from jobledger.store.model.job import Job, JobStatus, State


class Acknowledger(Protocol):
    """The subscription that handed out an event."""

    async def ack(self, event: "SubscribedEvent") -> None:
        """See `SubscribedEvent.ack`."""
        ...

    async def fail(self, event: "SubscribedEvent", error: BaseException) -> None:
        """See `SubscribedEvent.fail`."""
        ...


class SubscribedEvent(msgspec.Struct, eq=False):
    """An event, with its job after it.

    Attributes:
        sequence: the event's position in the stream; identifies repeated deliveries.
        time: when the stream stored the event, Unix nanoseconds.
        status: the job's status right after the event.
        event: the CloudEvent as it was written.
        delivery: the record that the event was read from.
        matches: whether the job matched the subscription's label selector before the event, after it, or
            both; None for a subscription without a selector.
        attempt: 1 for the first attempt, one more after each failure.
        before: the job before the event, with `with_jobs`; None if the event created it.
        after: the job after the event, with `with_jobs`.
        subscription: the subscription that handed it out.
    """

    sequence: int
    time: int
    status: JobStatus
    event: JobEvent
    delivery: Record
    matches: Match | None = None
    attempt: int = 1
    before: Job | None = None
    after: Job | None = None
    subscription: Acknowledger | None = None

    @property
    def payload(self) -> bytes:
        """The CloudEvent's bytes as stored in the log."""
        return self.delivery.payload

    @property
    def type(self) -> str:
        """The CloudEvents type, for example `jobledger.job.state.v1`."""
        return event_type(self.event)

    @property
    def id(self) -> str:
        """The event's id, a UUIDv7."""
        return self.event.id

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.event.subject

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return self.event.namespace

    @property
    def name(self) -> str:
        """The job's name."""
        return self.status.name

    @property
    def revision(self) -> int:
        """The job's revision after the event."""
        return self.status.revision

    @property
    def version(self) -> int:
        """The job's version after the event."""
        return self.status.version

    @property
    def state(self) -> State:
        """The job's state after the event."""
        return self.status.state

    @property
    def actor(self) -> str:
        """Who submitted the command; empty if not given."""
        return self.event.actor

    @property
    def reason(self) -> str:
        """Why the command was submitted; empty if not given."""
        return self.event.reason

    @property
    def spec(self) -> bytes | None:
        """The new spec as JSON, for an event that sets one; `load_spec` and `Job` read it."""
        match self.event:
            case JobCreated(data=data) | JobUpdated(data=data):
                return bytes(data.spec)
            case JobStateChanged() | JobTagged() | JobAccepted():
                return None

    async def ack(self) -> None:
        """Acknowledge this event now, instead of when the next one is requested.

        Raises:
            LogUnavailable: if the acknowledgement could not be sent; the event may be delivered again.
        """
        if self.subscription is not None:
            await self.subscription.ack(self)

    async def fail(self, error: BaseException) -> None:
        """Report that this event could not be handled: its job is retried later, then parked.

        Raises:
            InvalidInput: if the subscription has no name, so that the failure cannot be recorded.
        """
        if self.subscription is not None:
            await self.subscription.fail(self, error)
