"""Webhooks. Pure."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.service.limits import WEBHOOK_OVERLAP_MAX_SECONDS, WEBHOOK_OVERLAP_SECONDS
from jobledger.service.wire.fields import Position, Time, Warnings
from jobledger.store.model.limits import INT_MAX

PointText = Annotated[
    str,
    Meta(description="after this point: a cursor, a sequence, `0`, an RFC 3339 time, or an age such as `2h`"),
]


class WebhookRequest(msgspec.Struct, rename="pascal"):
    """A webhook to add."""

    url: Annotated[
        str,
        Meta(description="where events are sent: https, unless the setting `webhook_allow` names the host"),
    ] = field(name="URL")
    name: Annotated[str, Meta(description="default: made from the host name")] = ""
    secret: Annotated[
        str, Meta(description="`whsec_…` to sign with; default: a new one, shown only in the response")
    ] = ""
    types: Annotated[
        list[str], Meta(description="only these event types, complete or short, such as `state`; empty: all")
    ] = []
    states: Annotated[list[str], Meta(description="only events after which the job is in one of these")] = []
    namespace: Annotated[str, Meta(description="only events of jobs in this namespace")] = ""
    labels: Annotated[
        list[str], Meta(description="selectors that the job matches before or after the event")
    ] = []
    after: PointText = ""


class WebhookStateRequest(msgspec.Struct, rename="pascal"):
    """Whether a webhook sends events."""

    state: Annotated[str, Meta(description="enabled or paused")]


class WebhookSecretRequest(msgspec.Struct, rename="pascal"):
    """A new secret."""

    secret: Annotated[str, Meta(description="`whsec_…`; default: a new one, shown only in the response")] = ""
    overlap_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=int(WEBHOOK_OVERLAP_MAX_SECONDS),
            description="how long the current secrets sign as well; default: one day",
        ),
    ] = int(WEBHOOK_OVERLAP_SECONDS)


class SecretShown(msgspec.Struct, rename="pascal"):
    """A secret, masked."""

    secret: str
    expires: Annotated[str | None, Meta(description="RFC 3339; null: never")]


class Webhook(msgspec.Struct, rename="pascal"):
    """A webhook."""

    name: str
    url: Annotated[str, Meta(description="without its path, unless the caller is an admin")] = field(
        name="URL"
    )
    state: Annotated[str, Meta(description="enabled, paused, or disabled: its target answered 410")]
    reason: Annotated[str, Meta(description="why it does not send")]
    types: list[str]
    states: list[str]
    namespace: str
    labels: list[str]
    after: Position
    secrets: list[SecretShown]
    created: Time
    created_by: str
    subscription: Annotated[str, Meta(description="the durable subscription that it delivers")]
    down: Annotated[bool, Meta(description="whether this replica knows its target to be failing")]
    problem: Annotated[str, Meta(description="why the last event was not accepted, if this replica knows")]


class WebhookAnswer(msgspec.Struct, rename="pascal"):
    """A webhook, and the secret that was created for it."""

    webhook: Webhook
    warnings: Warnings | UnsetType = UNSET
    secret: Annotated[str | UnsetType, Meta(description="shown only in this response")] = UNSET


class WebhookList(msgspec.Struct, rename="pascal"):
    """All webhooks, by name."""

    items: list[Webhook]


class RedeliverRequest(msgspec.Struct, rename="pascal"):
    """An event to send again."""

    sequence: Annotated[int, Meta(ge=1, le=INT_MAX, description="of the event")]


class WebhookAttempt(msgspec.Struct, rename="pascal"):
    """One attempt to deliver an event."""

    time: Annotated[str, Meta(description="RFC 3339, when it ended")]
    seconds: Annotated[float, Meta(description="how long it took")]
    attempt: Annotated[int, Meta(description="1 for the first attempt of this process for the event")]
    event_id: str = field(name="EventID")
    job_id: str = field(name="JobID")
    sequence: Annotated[int, Meta(description="of the event; 0: not known")]
    outcome: Annotated[str, Meta(description="taken, refused, failed (no response), or gone (410)")]
    status: Annotated[int | None, Meta(description="the target's HTTP status; null: no response")]
    problem: Annotated[str, Meta(description="why it was not taken")]


class WebhookAttempts(msgspec.Struct, rename="pascal"):
    """The latest attempts, newest first."""

    items: list[WebhookAttempt]


class WebhookTest(msgspec.Struct, rename="pascal"):
    """The result of a test event."""

    delivered: bool
    status: Annotated[int | None, Meta(description="the target's HTTP status; null: no response")]
    problem: str
    event_id: str = field(name="EventID")
    seconds: float
