"""Webhooks: adding, changing and testing them. A secret is shown once, when it is created."""

import asyncio
import time
from typing import Any, Final

import msgspec
import uuid_utils

from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.subscriptions.filters import EventFilter, parse_states, parse_types
from jobledger.service.api.as_of import body_point
from jobledger.service.api.events import document_of
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import STRICT, TEXT
from jobledger.service.api.request import Request
from jobledger.service.cursor import format_cursor
from jobledger.service.errors import WebhookExists
from jobledger.service.limits import WEBHOOK_LABELS_MAX_COUNT
from jobledger.service.webhooks.delivery import Attempt, Delivery, OutcomeKind, try_once
from jobledger.service.webhooks.message import MASK, Message, message_id, test_event
from jobledger.service.webhooks.records import Webhook, WebhookState
from jobledger.service.webhooks.registry import NewWebhook, Written
from jobledger.service.wire import paths, webhooks as wire
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import format_rfc3339

_STATES: Final = {"enabled": WebhookState.ENABLED, "paused": WebhookState.PAUSED}
_PAUSED_BY_ADMIN: Final = "paused by an admin"
_NAME: Final = Parameter("name", TEXT, "of the webhook", "path", required=True, errors=(404,))

operations = OperationGroup("Webhooks")


@operations.declare("GET", paths.WEBHOOKS, "listWebhooks", Permission.OBSERVE, response=wire.WebhookList)
async def list_webhooks(request: Request[None]) -> wire.WebhookList:
    """List the webhooks.

    Secrets are masked; the paths of URLs are shown to admins only.
    """
    service, is_admin = request.service, request.principal.is_admin
    webhooks = await service.webhooks.registry.all()
    return wire.WebhookList([_webhook(service, each, with_path=is_admin) for each in webhooks])


@operations.declare(
    "POST",
    paths.WEBHOOKS,
    "addWebhook",
    Permission.ADMIN,
    (STRICT,),
    body=wire.WebhookRequest,
    response=wire.WebhookAnswer,
    errors=(409,),
    example={"URL": "https://hooks.example.com/jobs", "Types": ["state"], "States": ["Failed"]},
)
async def add_webhook(request: Request[wire.WebhookRequest]) -> wire.WebhookAnswer:
    """Add a webhook: events are POSTed to a URL as CloudEvents, signed as in Standard Webhooks.

    A URL that leads to anything but the public Internet is refused, unless the setting `webhook_allow` names
    it. A generated secret is in this response and nowhere else.
    """
    service, body = request.service, request.body
    new = NewWebhook(
        url=body.url,
        name=body.name,
        secret=body.secret,
        types=parse_types(body.types),
        states=parse_states(body.states),
        namespace=body.namespace,
        labels=_labels(body.labels),
        after=await _after(service, body.after),
        created_by=request.principal.name,
    )
    return _answer(request, await service.webhooks.registry.add(new))


@operations.declare(
    "GET", paths.WEBHOOK, "getWebhook", Permission.OBSERVE, (_NAME,), response=wire.WebhookAnswer
)
async def get_webhook(request: Request[None]) -> wire.WebhookAnswer:
    """Get a webhook."""
    service, is_admin = request.service, request.principal.is_admin
    webhook = await service.webhooks.registry.get(request.values["name"])
    return wire.WebhookAnswer(_webhook(service, webhook, with_path=is_admin))


@operations.declare(
    "DELETE",
    paths.WEBHOOK,
    "deleteWebhook",
    Permission.ADMIN,
    (_NAME,),
    response=wire.WebhookAnswer,
    errors=(409,),
)
async def delete_webhook(request: Request[None]) -> wire.WebhookAnswer:
    """Delete a webhook, its position in the log, and its parked jobs."""
    service = request.service
    webhook = await service.webhooks.registry.remove(request.values["name"])
    return wire.WebhookAnswer(_webhook(service, webhook, with_path=True))


@operations.declare(
    "PUT",
    paths.WEBHOOK_STATE,
    "setWebhookState",
    Permission.ADMIN,
    (_NAME, STRICT),
    body=wire.WebhookStateRequest,
    response=wire.WebhookAnswer,
    errors=(409,),
    example={"State": "paused"},
)
async def set_webhook_state(request: Request[wire.WebhookStateRequest]) -> wire.WebhookAnswer:
    """Pause a webhook, or resume it from its position.

    Resuming also enables a webhook that was disabled because its target answered 410.
    """
    state = _STATES.get(request.body.state.lower())
    if state is None:
        raise InvalidInput(f"State must be one of {', '.join(_STATES)}, got {request.body.state!r:.60}")
    reason = "" if state is WebhookState.ENABLED else _PAUSED_BY_ADMIN
    webhook = await request.service.webhooks.registry.set_state(request.values["name"], state, reason)
    return _answer(request, Written(webhook))


@operations.declare(
    "PUT",
    paths.WEBHOOK_SECRET,
    "rotateWebhookSecret",
    Permission.ADMIN,
    (_NAME, STRICT),
    body=wire.WebhookSecretRequest,
    response=wire.WebhookAnswer,
    errors=(409,),
    example={"OverlapSeconds": 86400},
)
async def rotate_webhook_secret(request: Request[wire.WebhookSecretRequest]) -> wire.WebhookAnswer:
    """Sign with a new secret, and for some time with the current ones as well."""
    body, registry = request.body, request.service.webhooks.registry
    rotated = await registry.rotate(request.values["name"], body.secret, overlap_seconds=body.overlap_seconds)
    return _answer(request, rotated)


@operations.declare(
    "POST",
    paths.WEBHOOK_TEST,
    "testWebhook",
    Permission.ADMIN,
    (_NAME,),
    response=wire.WebhookTest,
    errors=(409,),
)
async def test_webhook(request: Request[None]) -> wire.WebhookTest:
    """Send a test event now, and report the result.

    The event's type is `jobledger.webhook.test.v1`; it is not in the log.
    """
    service, name = request.service, request.values["name"]
    webhook = await service.webhooks.registry.get(name)
    if webhook.locked:
        raise WebhookExists(f"events of the webhook {name} cannot be signed: {webhook.locked}")
    event_id = str(uuid_utils.uuid7())
    message = Message(event_id, "", test_event(name, event_id, time.time_ns(), service.hub.source))
    return await _sent(service, webhook, message)


@operations.declare(
    "GET",
    paths.WEBHOOK_DELIVERIES,
    "listDeliveries",
    Permission.OBSERVE,
    (_NAME,),
    response=wire.WebhookAttempts,
)
async def list_deliveries(request: Request[None]) -> wire.WebhookAttempts:
    """List the latest attempts to deliver events of a webhook.

    They are those of this replica since it started to deliver the webhook, at most 50, in memory.
    """
    service, name = request.service, request.values["name"]
    await service.webhooks.registry.get(name)
    delivery: Delivery | None = service.webhooks.deliverer.deliveries.get(name)
    attempts = delivery.attempts if delivery is not None else ()
    return wire.WebhookAttempts([_attempt(each) for each in reversed(attempts)])


@operations.declare(
    "POST",
    paths.WEBHOOK_DELIVERIES,
    "redeliver",
    Permission.ADMIN,
    (_NAME,),
    body=wire.RedeliverRequest,
    refuses_unknown_fields=True,
    response=wire.WebhookTest,
    errors=(409,),
    example={"Sequence": 4711},
)
async def redeliver(request: Request[wire.RedeliverRequest]) -> wire.WebhookTest:
    """Send an event of the log to a webhook again now, once, and report the result.

    Neither the position of the webhook nor its parked jobs change; the receiver gets the event's id again.
    """
    service, name, sequence = request.service, request.values["name"], request.body.sequence
    webhook = await service.webhooks.registry.get(name)
    if webhook.locked:
        raise WebhookExists(f"events of the webhook {name} cannot be signed: {webhook.locked}")
    if sequence > service.hub.sequence:
        raise InvalidInput(f"Sequence {sequence} is beyond the end of the log, {service.hub.sequence}")
    async with await service.hub.open(EventFilter(), after=sequence - 1) as connection:
        events = await connection.next()
    event = events[0] if events else None
    if event is None or event.sequence != sequence:
        raise InvalidInput(f"there is no event with the sequence {sequence}")
    body = document_of(event, service.hub.stream_tag, service.hub.source)
    event_id = message_id(msgspec.json.decode(body)["id"], sequence)
    return await _sent(service, webhook, Message(event_id, event.status.id, bytes(body), sequence))


async def _sent(service: Service, webhook: Webhook, message: Message) -> wire.WebhookTest:
    clock = asyncio.get_running_loop().time
    start = clock()
    outcome = await try_once(service.webhooks.sender, webhook, message)
    return wire.WebhookTest(
        delivered=outcome.kind is OutcomeKind.TAKEN,
        status=outcome.answer.status if outcome.answer is not None else None,
        problem=outcome.problem,
        event_id=message.id,
        seconds=round(clock() - start, 3),
    )


def _attempt(attempt: Attempt) -> wire.WebhookAttempt:
    answer = attempt.outcome.answer
    return wire.WebhookAttempt(
        time=format_rfc3339(attempt.time),
        seconds=round(attempt.seconds, 3),
        attempt=attempt.number,
        event_id=attempt.message_id,
        job_id=attempt.job_id,
        sequence=attempt.sequence,
        outcome=str(attempt.outcome.kind),
        status=answer.status if answer is not None else None,
        problem=attempt.outcome.problem,
    )


def _labels(labels: list[str]) -> tuple[str, ...]:
    """Selectors as they were written, each checked."""
    if len(labels) > WEBHOOK_LABELS_MAX_COUNT:
        raise InvalidInput(
            f"Labels has {len(labels)} selectors; at most {WEBHOOK_LABELS_MAX_COUNT} are allowed"
        )
    for text in labels:
        parse_selector(text)
    return tuple(labels)


async def _after(service: Service, text: str) -> int:
    """The position of a new webhook; the end of the log by default."""
    if not text:
        return (await service.log.info()).last_sequence
    return await body_point(service, text, "After")


def _answer(request: Request[Any], written: Written) -> wire.WebhookAnswer:
    warnings = [*request.warnings, *written.warnings]
    answer = wire.WebhookAnswer(_webhook(request.service, written.webhook, with_path=True), warnings or None)
    if written.secret:
        answer.secret = written.secret
    return answer


def _webhook(service: Service, webhook: Webhook, *, with_path: bool) -> wire.Webhook:
    """A webhook; the path and query of its URL may be what protects the target."""
    delivery: Delivery | None = service.webhooks.deliverer.deliveries.get(webhook.name)
    return wire.Webhook(
        name=webhook.name,
        url=webhook.url if with_path else f"{webhook.target.shown}/…",
        state=str(webhook.state),
        reason=webhook.reason,
        types=list(webhook.types),
        states=[str(each) for each in webhook.states],
        namespace=webhook.namespace,
        labels=list(webhook.labels),
        after=format_cursor(service.stream_tag, webhook.after),
        secrets=[
            wire.SecretShown(MASK, format_rfc3339(secret.expires) if secret.expires else None)
            for secret in webhook.secrets
            if not secret.expires or secret.expires > time.time_ns()
        ],
        created=format_rfc3339(webhook.created),
        created_by=webhook.created_by,
        subscription=webhook.subscription,
        down=delivery is not None and delivery.endpoint.is_down,
        problem=webhook.locked or (delivery.endpoint.problem if delivery is not None else ""),
    )
