"""Webhooks: the routes that add, change, test and tell them. Secrets go out once, when they are made."""

import asyncio
import time
from typing import Any, Final

import uuid_utils
from litestar import Response, delete, get, post, put
from litestar.params import FromPath

from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.subscriptions.filters import parse_states, parse_types
from jobledger.service.api.answers import json_answer
from jobledger.service.api.bodies import Body, number_of, read_body, text_of, texts_of
from jobledger.service.api.context import AnyRequest, principal_of, service_of
from jobledger.service.cursor import format_cursor
from jobledger.service.errors import WebhookExists
from jobledger.service.limits import WEBHOOK_LABELS_MAX_COUNT, WEBHOOK_OVERLAP_SECONDS
from jobledger.service.point import parse_point, resolve_point
from jobledger.service.webhooks.delivery import Delivery, Message, try_once
from jobledger.service.webhooks.message import MASK, test_event
from jobledger.service.webhooks.records import Webhook, WebhookState
from jobledger.service.webhooks.registry import NewWebhook, Written
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import format_rfc3339

PATH: Final = "/api/v1/webhooks"
_FIELDS: Final = {
    "addWebhook": ("URL", "Name", "Secret", "Types", "States", "Namespace", "Labels", "After"),
    "rotateWebhookSecret": ("Secret", "OverlapSeconds"),
    "setWebhookState": ("State",),
}
_STATES: Final = {"enabled": WebhookState.ENABLED, "paused": WebhookState.PAUSED}
_SAID: Final = "an admin said so"

Name = FromPath[str]


@get(PATH)
async def list_webhooks(request: AnyRequest) -> Response[bytes]:
    """All webhooks, by name."""
    service, principal = service_of(request), principal_of(request)
    principal.require_observe()
    webhooks = await service.webhooks.registry.all()
    return json_answer({"Items": [_wire(service, each, whole=_is_admin(request)) for each in webhooks]})


@post(PATH, status_code=200)
async def add_webhook(request: AnyRequest) -> Response[bytes]:
    """Add one."""
    principal_of(request).require_admin()
    service, body = service_of(request), read_body(request)
    new = NewWebhook(
        url=text_of(body, "URL"),
        name=text_of(body, "Name"),
        secret=text_of(body, "Secret"),
        types=parse_types(texts_of(body, "Types")),
        states=parse_states(texts_of(body, "States")),
        namespace=text_of(body, "Namespace"),
        labels=_labels(body),
        after=await _after(service, text_of(body, "After")),
        created_by=principal_of(request).name,
    )
    if not new.url:
        raise InvalidInput('the body has no URL; send {"URL": "https://…"}')
    return _told(service, body, "addWebhook", await service.webhooks.registry.add(new))


@get(f"{PATH}/{{name:str}}")
async def get_webhook(request: AnyRequest, name: Name) -> Response[bytes]:
    """One webhook."""
    principal_of(request).require_observe()
    service = service_of(request)
    webhook = await service.webhooks.registry.get(name)
    return json_answer({"Webhook": _wire(service, webhook, whole=_is_admin(request))})


@delete(f"{PATH}/{{name:str}}", status_code=200)
async def delete_webhook(request: AnyRequest, name: Name) -> Response[bytes]:
    """Remove one, its place in the log and its parked jobs."""
    principal_of(request).require_admin()
    service = service_of(request)
    return json_answer({"Webhook": _wire(service, await service.webhooks.registry.remove(name), whole=True)})


@put(f"{PATH}/{{name:str}}/state")
async def set_webhook_state(request: AnyRequest, name: Name) -> Response[bytes]:
    """Pause it, or let it send on."""
    principal_of(request).require_admin()
    service, body = service_of(request), read_body(request)
    state = _STATES.get(text_of(body, "State").lower())
    if state is None:
        raise InvalidInput(f"State is {text_of(body, 'State')!r:.60}; use one of {', '.join(_STATES)}")
    reason = "" if state is WebhookState.ENABLED else _SAID
    webhook = await service.webhooks.registry.set_state(name, state, reason)
    return _told(service, body, "setWebhookState", Written(webhook))


@put(f"{PATH}/{{name:str}}/secret")
async def rotate_webhook_secret(request: AnyRequest, name: Name) -> Response[bytes]:
    """Sign with a new secret, and for a while with the present ones, too."""
    principal_of(request).require_admin()
    service, body = service_of(request), read_body(request)
    absent = body.get("OverlapSeconds") is None
    seconds = WEBHOOK_OVERLAP_SECONDS if absent else number_of(body, "OverlapSeconds")
    rotated = await service.webhooks.registry.rotate(name, text_of(body, "Secret"), overlap_seconds=seconds)
    return _told(service, body, "rotateWebhookSecret", rotated)


@post(f"{PATH}/{{name:str}}/test", status_code=200)
async def test_webhook(request: AnyRequest, name: Name) -> Response[bytes]:
    """Send an event that says nothing, now, and tell what became of it."""
    principal_of(request).require_admin()
    service = service_of(request)
    webhook = await service.webhooks.registry.get(name)
    if webhook.locked:
        raise WebhookExists(f"the webhook {name} can't be signed for: {webhook.locked}")
    event_id = str(uuid_utils.uuid7())
    message = Message(event_id, "", test_event(name, event_id, time.time_ns(), service.hub.source))
    clock = asyncio.get_running_loop().time
    began = clock()
    outcome = await try_once(service.webhooks.sender, webhook, message)
    return json_answer(
        {
            "Delivered": outcome.word == "taken",
            "Status": outcome.answer.status if outcome.answer is not None else None,
            "Problem": outcome.problem,
            "EventID": event_id,
            "Seconds": round(clock() - began, 3),
        }
    )


def _labels(body: Body) -> tuple[str, ...]:
    """Selectors as they were written; each is one."""
    labels = texts_of(body, "Labels")
    if len(labels) > WEBHOOK_LABELS_MAX_COUNT:
        raise InvalidInput(
            f"Labels has {len(labels)} selectors; at most {WEBHOOK_LABELS_MAX_COUNT} are taken"
        )
    for text in labels:
        parse_selector(text)
    return tuple(labels)


async def _after(service: Service, text: str) -> int:
    """Where it begins; behind all that there is, if nobody says."""
    if not text:
        return (await service.log.info()).last_sequence
    now = time.time_ns()
    point = parse_point(text, now=now, mark=service.mark, field="After")
    return await resolve_point(service.log, point, now=now, field="After")


def _is_admin(request: AnyRequest) -> bool:
    return principal_of(request).is_admin


def _told(service: Service, body: Body, name: str, written: Written) -> Response[bytes]:
    warnings = [*body.unknown(_FIELDS[name]), *written.warnings]
    answer: dict[str, Any] = {
        "Webhook": _wire(service, written.webhook, whole=True),
        "Warnings": warnings or None,
    }
    if written.secret:
        answer["Secret"] = written.secret
    return json_answer(answer)


def _wire(service: Service, webhook: Webhook, *, whole: bool) -> dict[str, Any]:
    """A webhook as it is told.

    Args:
        service: that tells.
        webhook: as it is kept.
        whole: with the path and query of the URL, which may be what protects the target.
    """
    target = webhook.target
    delivery: Delivery | None = service.webhooks.deliverer.deliveries.get(webhook.name)
    return {
        "Name": webhook.name,
        "URL": webhook.url if whole else f"{target.shown}/…",
        "State": str(webhook.state),
        "Reason": webhook.reason,
        "Types": list(webhook.types),
        "States": list(webhook.states),
        "Namespace": webhook.namespace,
        "Labels": list(webhook.labels),
        "After": format_cursor(service.mark, webhook.after),
        "Secrets": [
            {"Secret": MASK, "Expires": format_rfc3339(secret.expires) if secret.expires else None}
            for secret in webhook.secrets
            if not secret.expires or secret.expires > time.time_ns()
        ],
        "Created": format_rfc3339(webhook.created),
        "CreatedBy": webhook.created_by,
        "Subscription": webhook.subscription,
        "Down": delivery is not None and delivery.endpoint.is_down,
        "Problem": webhook.locked or (delivery.endpoint.problem if delivery is not None else ""),
    }


HANDLERS: Final[tuple[Any, ...]] = (
    list_webhooks,
    add_webhook,
    get_webhook,
    delete_webhook,
    set_webhook_state,
    rotate_webhook_secret,
    test_webhook,
)
