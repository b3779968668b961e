"""The shapes of bodies and answers about webhooks and subscriptions; see `schemas`, which takes them in."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.projections.limits import SUBSCRIPTION_MEMBERS_MAX
from jobledger.service.limits import WEBHOOK_OVERLAP_MAX_SECONDS

Moment = Annotated[str, Meta(description="RFC 3339")]
Position = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{12}-[0-9]+$", description="a position in the stream, with the stream it is of"),
]
NamespaceText = Annotated[str, Meta(description="where a name is looked up; absent: the default one")]
DemoResult = Annotated[
    list[str] | None, Meta(description="what may not be as it was meant; null if nothing is")
]
PointText = Annotated[
    str, Meta(description="behind this point: a cursor, a sequence, `0`, an RFC 3339 time, or an age as `2h`")
]


class WebhookRequest(msgspec.Struct, rename="pascal"):
    """A webhook to add."""

    url: Annotated[
        str, Meta(description="where events are sent: https, unless `webhook_allow` names the host")
    ] = field(name="URL")
    name: Annotated[str, Meta(description="absent: made of the host's")] = ""
    secret: Annotated[str, Meta(description="`whsec_…` to sign with; absent: one is made, and told once")] = (
        ""
    )
    types: Annotated[
        list[str], Meta(description="only these event types, full or as `state`; empty: all")
    ] = []
    states: Annotated[list[str], Meta(description="only events that bring the job into one of these")] = []
    namespace: Annotated[str, Meta(description="only of its jobs")] = ""
    labels: Annotated[
        list[str], Meta(description="selectors that the job meets before or after the event")
    ] = []
    after: PointText = ""


class WebhookStateRequest(msgspec.Struct, rename="pascal"):
    """Whether a webhook sends."""

    state: Annotated[str, Meta(description="enabled or paused")]


class WebhookSecretRequest(msgspec.Struct, rename="pascal"):
    """A new secret."""

    secret: Annotated[str, Meta(description="`whsec_…`; absent: one is made, and told once")] = ""
    overlap_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=int(WEBHOOK_OVERLAP_MAX_SECONDS),
            description="for how long the present ones sign beside it; absent: a day",
        ),
    ] = 86_400


class SecretShown(msgspec.Struct, rename="pascal"):
    """A secret, masked."""

    secret: str
    expires: Annotated[str | None, Meta(description="RFC 3339; null: it does not")]


class Webhook(msgspec.Struct, rename="pascal"):
    """A webhook."""

    name: str
    url: Annotated[str, Meta(description="without its path for who is no admin")] = field(name="URL")
    state: Annotated[str, Meta(description="enabled, paused, or disabled: its target answered 410")]
    reason: Annotated[str, Meta(description="why it does not send")]
    types: list[str]
    states: list[str]
    namespace: str
    labels: list[str]
    after: Position
    secrets: list[SecretShown]
    created: Moment
    created_by: str
    subscription: Annotated[str, Meta(description="the durable subscription that it delivers")]
    down: Annotated[bool, Meta(description="whether its target takes nothing, as far as this replica knows")]
    problem: Annotated[
        str, Meta(description="why the last event was not taken, as far as this replica knows")
    ]


class WebhookAnswer(msgspec.Struct, rename="pascal"):
    """A webhook, and a secret that was made for it."""

    webhook: Webhook
    warnings: DemoResult | UnsetType = UNSET
    secret: Annotated[str | UnsetType, Meta(description="this is the only time that it is told")] = UNSET


class WebhookList(msgspec.Struct, rename="pascal"):
    """All webhooks, by name."""

    items: list[Webhook]


class WebhookTest(msgspec.Struct, rename="pascal"):
    """What became of a test event."""

    delivered: bool
    status: Annotated[int | None, Meta(description="of the target's answer; null: there was none")]
    problem: str
    event_id: str = field(name="EventID")
    seconds: float


class SubscriptionRequest(msgspec.Struct, rename="pascal"):
    """A durable subscription to create."""

    name: str
    namespace: Annotated[str, Meta(description="only events of its jobs")] = ""
    job: Annotated[str, Meta(description="only events of the job of this id")] = ""
    types: Annotated[list[str], Meta(description="only these event types, full or as `state`")] = []
    states: Annotated[list[str], Meta(description="only events that bring the job into one of these")] = []
    labels: Annotated[str, Meta(description="a selector that the job meets before or after the event")] = ""
    start: Annotated[
        str,
        Meta(description="`beginning`, `now`, or after a sequence, a cursor or an RFC 3339 time"),
    ] = "beginning"
    members: Annotated[
        int, Meta(ge=0, le=SUBSCRIPTION_MEMBERS_MAX, description="share it among so many; 0: one reader")
    ] = 0
    partitions: Annotated[
        int,
        Meta(ge=0, le=SUBSCRIPTION_MEMBERS_MAX, description="of an elastic group, usually 32; 0: none"),
    ] = 0
    plain: Annotated[
        bool, Meta(description="for a JetStream client without this library: explicit acknowledgements")
    ] = False


class RetryRequest(msgspec.Struct, rename="pascal"):
    """Which jobs to let go on."""

    job_id: Annotated[
        str, Meta(description="name, id, or the beginning of the id; absent: all that are set aside")
    ] = field(name="JobID", default="")
    namespace: NamespaceText = ""


class SkipRequest(msgspec.Struct, rename="pascal"):
    """Whose failed event to give up."""

    job_id: Annotated[str, Meta(description="name, id, or the beginning of the id")] = field(name="JobID")
    namespace: NamespaceText = ""


class ResetRequest(msgspec.Struct, rename="pascal"):
    """Where to begin anew."""

    after: PointText


class Partition(msgspec.Struct, rename="pascal"):
    """A part of a subscription that one process at a time reads."""

    name: Annotated[str, Meta(description="of its consumer in NATS")]
    position: Position
    gap: Annotated[int, Meta(description="events that are not handled yet")]
    held: Annotated[bool, Meta(description="whether a process reads it; one that had no event yet may wait")]
    waiting: Annotated[int, Meta(description="processes that wait for it")]


class Subscription(msgspec.Struct, rename="pascal"):
    """A durable subscription."""

    name: str
    state: Annotated[
        str,
        Meta(
            description="the first that is so of unattended (nobody is there for some of it), catching_up,"
            " parked (some jobs wait for an operator), live"
        ),
    ]
    gap: Annotated[int, Meta(description="events that are not handled yet, before types, states and labels")]
    lag_seconds: Annotated[float, Meta(description="age of the oldest of these")]
    parked: Annotated[int, Meta(description="jobs that wait for an operator")]
    retrying: Annotated[int, Meta(description="jobs whose event is tried again")]
    form: Annotated[str, Meta(description="alone, members, elastic, or plain")]
    filter: dict[str, Any]
    created: Moment
    partitions: list[Partition]


class SubscriptionList(msgspec.Struct, rename="pascal"):
    """All durable subscriptions, by name."""

    items: list[Subscription]


class SubscriptionAnswer(msgspec.Struct, rename="pascal"):
    """A durable subscription."""

    subscription: Subscription


class ParkedJob(msgspec.Struct, rename="pascal"):
    """A job that is set aside, because the handling of one of its events failed."""

    job_id: str = field(name="JobID")
    name: Annotated[str, Meta(description="of the job; empty if the view does not have it yet")]
    namespace: str
    state: Annotated[str, Meta(description="retrying or parked")]
    position: Annotated[Position, Meta(description="of the event")]
    sequence: int
    attempts: int
    error: Annotated[str, Meta(description="of the last try")]
    since: Moment
    next_try: Annotated[str | None, Meta(description="RFC 3339; null: none by itself")]


class ParkedList(msgspec.Struct, rename="pascal"):
    """Jobs that are set aside."""

    items: list[ParkedJob]
    total: Annotated[int, Meta(description="how many there are in all")]


class Changed(msgspec.Struct, rename="pascal"):
    """What an operator's command did."""

    jobs: Annotated[int, Meta(description="how many jobs it concerned")]


BODIES: Final = (
    WebhookRequest,
    WebhookStateRequest,
    WebhookSecretRequest,
    SubscriptionRequest,
    RetryRequest,
    SkipRequest,
    ResetRequest,
)
ANSWERS: Final = (
    WebhookAnswer,
    WebhookList,
    WebhookTest,
    SubscriptionList,
    SubscriptionAnswer,
    ParkedList,
    Changed,
)
