"""One event as a subscriber gets it."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from jobledger.projections.subscriptions.subscription import Subscription


class SubscribedEvent(msgspec.Struct, eq=False):
    """An event, with what the job became by it.

    Attributes:
        sequence: its position in the stream; by it repeats are known.
        time: the stream's, Unix nanoseconds.
        status: of the job right after it.
        event: as it was written: a CloudEvent.
        delivery: the record that it was read from.
        matches: when the job met the labels of the subscription: before the event, after it, or both; None
            if the subscription asks for no labels.
        attempt: 1, or more if its handler failed before.
        before: the job right before it, with `with_jobs`; None if it came to be by this event.
        after: the job right after it, with `with_jobs`.
        subscription: whose it is.
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
    subscription: "Subscription | None" = None

    @property
    def payload(self) -> bytes:
        """The CloudEvent as it stands in the log."""
        return self.delivery.payload

    @property
    def type(self) -> str:
        """The CloudEvents type: `jobledger.job.state.v1`, say."""
        return event_type(self.event)

    @property
    def id(self) -> str:
        """The event's id: a UUIDv7."""
        return self.event.id

    @property
    def job_id(self) -> str:
        """The job."""
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
        """The job's revision after it."""
        return self.status.revision

    @property
    def version(self) -> int:
        """The job's version after it."""
        return self.status.version

    @property
    def state(self) -> State:
        """The job's state after it."""
        return self.status.state

    @property
    def actor(self) -> str:
        """Who; empty if nobody said."""
        return self.event.actor

    @property
    def reason(self) -> str:
        """Why; empty if nobody said."""
        return self.event.reason

    @property
    def spec(self) -> bytes | None:
        """The new spec as JSON, of an event that sets one; `load_spec` and `Job` open it."""
        match self.event:
            case JobCreated(data=data) | JobUpdated(data=data):
                return bytes(data.spec)
            case JobStateChanged() | JobTagged() | JobAccepted():
                return None

    async def ack(self) -> None:
        """This event is handled: tell the server at once, instead of when the next one is asked for.

        Raises:
            LogUnavailable: if it could not be sent; the event may come again.
        """
        if self.subscription is not None:
            await self.subscription.done(self)

    async def fail(self, error: BaseException) -> None:
        """This event could not be handled: set its job aside, and try again later.

        Raises:
            InvalidInput: if the subscription has no name, and so nowhere to write that down.
        """
        if self.subscription is not None:
            await self.subscription.failed(self, error)
