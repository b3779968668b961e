"""Durable subscriptions, and the jobs that they have parked. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from jobledger.projections.limits import SUBSCRIPTION_MEMBERS_MAX
from jobledger.service.wire.fields import NamespaceText, Position, Time
from jobledger.service.wire.webhooks import PointText


class SubscriptionRequest(msgspec.Struct, rename="pascal"):
    """A durable subscription to create."""

    name: str
    namespace: Annotated[str, Meta(description="only events of jobs in this namespace")] = ""
    job: Annotated[str, Meta(description="only events of the job with this id")] = ""
    types: Annotated[
        list[str], Meta(description="only these event types, complete or short, such as `state`")
    ] = []
    states: Annotated[list[str], Meta(description="only events after which the job is in one of these")] = []
    labels: Annotated[str, Meta(description="a selector that the job matches before or after the event")] = ""
    start: Annotated[
        str,
        Meta(description="`beginning`, `now`, or after a sequence, a cursor or an RFC 3339 time"),
    ] = "beginning"
    members: Annotated[
        int,
        Meta(ge=0, le=SUBSCRIPTION_MEMBERS_MAX, description="number of members that share it; 0: one reader"),
    ] = 0
    partitions: Annotated[
        int,
        Meta(ge=0, le=SUBSCRIPTION_MEMBERS_MAX, description="of an elastic group, usually 32; 0: none"),
    ] = 0
    plain: Annotated[
        bool, Meta(description="for a JetStream client without this library: explicit acknowledgements")
    ] = False


class RetryRequest(msgspec.Struct, rename="pascal"):
    """Which jobs to retry."""

    job_id: Annotated[
        str, Meta(description="name, id, or the beginning of the id; default: all parked jobs")
    ] = field(name="JobID", default="")
    namespace: NamespaceText = ""


class SkipRequest(msgspec.Struct, rename="pascal"):
    """The job whose failed event to skip."""

    job_id: Annotated[str, Meta(description="name, id, or the beginning of the id")] = field(name="JobID")
    namespace: NamespaceText = ""


class ResetRequest(msgspec.Struct, rename="pascal"):
    """Where to restart."""

    after: PointText


class Partition(msgspec.Struct, rename="pascal"):
    """A part of a subscription that one process at a time reads."""

    name: Annotated[str, Meta(description="of its consumer in NATS")]
    position: Position
    gap: Annotated[int, Meta(description="events that are not handled yet")]
    held: Annotated[
        bool, Meta(description="whether a process reads it; unknown before its first event, then false")
    ]
    waiting: Annotated[int, Meta(description="processes that wait for it")]


class Subscription(msgspec.Struct, rename="pascal"):
    """A durable subscription."""

    name: str
    state: Annotated[
        str,
        Meta(
            description="the first that applies: unattended (a part has no reader), catching_up, parked"
            " (some jobs wait for an operator), live"
        ),
    ]
    gap: Annotated[int, Meta(description="events not handled yet, before types, states and labels apply")]
    lag_seconds: Annotated[float, Meta(description="age of the oldest of these")]
    parked: Annotated[int, Meta(description="jobs that wait for an operator")]
    retrying: Annotated[int, Meta(description="jobs whose event is being retried")]
    form: Annotated[str, Meta(description="alone, members, elastic, or plain")]
    filter: dict[str, Any]
    created: Time
    partitions: list[Partition]


class SubscriptionList(msgspec.Struct, rename="pascal"):
    """All durable subscriptions, by name."""

    items: list[Subscription]


class SubscriptionAnswer(msgspec.Struct, rename="pascal"):
    """A durable subscription."""

    subscription: Subscription


class ParkedJob(msgspec.Struct, rename="pascal"):
    """A job that is parked because handling one of its events failed."""

    job_id: str = field(name="JobID")
    name: Annotated[str, Meta(description="of the job; empty if the view does not have it yet")]
    namespace: str
    state: Annotated[str, Meta(description="retrying or parked")]
    type: Annotated[str, Meta(description="of the event")]
    position: Annotated[Position, Meta(description="of the event")]
    sequence: int
    attempts: int
    error: Annotated[str, Meta(description="of the last attempt")]
    since: Time
    next_try: Annotated[str | None, Meta(description="RFC 3339; null: not retried automatically")]


class ParkedList(msgspec.Struct, rename="pascal"):
    """Parked jobs."""

    items: list[ParkedJob]
    total: Annotated[int, Meta(description="how many there are in total")]


class Changed(msgspec.Struct, rename="pascal"):
    """The result of an operator's command."""

    jobs: Annotated[int, Meta(description="number of jobs affected")]
