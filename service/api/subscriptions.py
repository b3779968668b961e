"""Durable subscriptions: the routes that tell of them, and by which operators mend them."""

import time
from typing import Any, Final

from litestar import Response, delete, get, post, put
from litestar.params import FromPath

from jobledger.projections.subscriptions.admin import Part, SubscriptionInfo
from jobledger.projections.subscriptions.definition import Definition
from jobledger.projections.subscriptions.parking import ParkedJob, ParkedState
from jobledger.service.api.answers import json_answer
from jobledger.service.api.bodies import Body, flag_of, number_of, read_body, text_of, texts_of
from jobledger.service.api.context import AnyRequest, principal_of, query_of, service_of
from jobledger.service.cursor import format_cursor
from jobledger.service.limits import PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT
from jobledger.service.point import parse_point, resolve_point
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.subjects import parse_subject
from jobledger.store.timestamps import format_rfc3339

PATH: Final = "/api/v1/subscriptions"
_FIELDS: Final = {
    "create": (
        *("Name", "Namespace", "Job", "Types", "States", "Labels", "Start", "Members", "Partitions", "Plain"),
    ),
    "retry": ("JobID", "Namespace"),
    "skip": ("JobID", "Namespace"),
    "reset": ("After",),
}
Name = FromPath[str]


@get(PATH)
async def list_subscriptions(request: AnyRequest) -> Response[bytes]:
    """All durable subscriptions, by name."""
    principal_of(request).require_observe()
    service = service_of(request)
    found = await service.subscriptions.list()
    return json_answer({"Items": [_wire(service, info) for info in found]})


@post(PATH, status_code=200)
async def create_subscription(request: AnyRequest) -> Response[bytes]:
    """Create one, for a program that may not do it itself."""
    principal_of(request).require_admin()
    service, body = service_of(request), _read(request, "create")
    if not text_of(body, "Name"):
        raise InvalidInput('the body has no Name; send {"Name": "billing"}')
    info = await service.subscriptions.create(
        text_of(body, "Name"),
        namespace=text_of(body, "Namespace"),
        job=text_of(body, "Job"),
        types=texts_of(body, "Types"),
        states=texts_of(body, "States"),
        labels=text_of(body, "Labels"),
        start=text_of(body, "Start") or "beginning",
        members=number_of(body, "Members"),
        partitions=number_of(body, "Partitions"),
        plain=flag_of(body, "Plain"),
    )
    return json_answer({"Subscription": _wire(service, info)})


@get(f"{PATH}/{{name:str}}")
async def get_subscription(request: AnyRequest, name: Name) -> Response[bytes]:
    """One of them."""
    principal_of(request).require_observe()
    service = service_of(request)
    return json_answer({"Subscription": _wire(service, await service.subscriptions.show(name))})


@get(f"{PATH}/{{name:str}}/parked")
async def list_parked_jobs(request: AnyRequest, name: Name) -> Response[bytes]:
    """The jobs that it has set aside."""
    principal_of(request).require_observe()
    service = service_of(request)
    limit = query_of(request).integer("limit", PARKED_DEFAULT_LIMIT, most=PARKED_MAX_LIMIT)
    found = await service.subscriptions.parked(name)
    shown = found[: limit or PARKED_MAX_LIMIT]
    jobs = await service.view.statuses(job.job_id for job in shown)
    names = {job_id: status.name for job_id, status in jobs.items()}
    items = [_parked_wire(service, job, names.get(job.job_id, "")) for job in shown]
    return json_answer({"Items": items, "Total": len(found)})


@post(f"{PATH}/{{name:str}}/retry", status_code=200)
async def retry_parked_jobs(request: AnyRequest, name: Name) -> Response[bytes]:
    """Handle failed events again, now."""
    principal_of(request).require_admin()
    body = _read(request, "retry")
    job, namespace = text_of(body, "JobID"), text_of(body, "Namespace")
    jobs = await service_of(request).subscriptions.retry(name, job, namespace=namespace)
    return json_answer({"Jobs": jobs})


@post(f"{PATH}/{{name:str}}/skip", status_code=200)
async def skip_parked_event(request: AnyRequest, name: Name) -> Response[bytes]:
    """Give up a job's failed event."""
    principal_of(request).require_admin()
    body = _read(request, "skip")
    job, namespace = text_of(body, "JobID"), text_of(body, "Namespace")
    jobs = await service_of(request).subscriptions.skip(name, job, namespace=namespace)
    return json_answer({"Jobs": jobs})


@put(f"{PATH}/{{name:str}}/position")
async def reset_subscription(request: AnyRequest, name: Name) -> Response[bytes]:
    """Make it begin anew behind a point."""
    principal_of(request).require_admin()
    service, body = service_of(request), _read(request, "reset")
    text, now = text_of(body, "After"), time.time_ns()
    if not text:
        raise InvalidInput('the body has no After; send {"After": "0"} to begin with the first event')
    point = parse_point(text, now=now, mark=service.mark, field="After")
    after = await resolve_point(service.log, point, now=now, field="After")
    return json_answer({"Subscription": _wire(service, await service.subscriptions.reset(name, after=after))})


@delete(f"{PATH}/{{name:str}}", status_code=200)
async def delete_subscription(request: AnyRequest, name: Name) -> Response[bytes]:
    """Delete it."""
    principal_of(request).require_admin()
    service = service_of(request)
    await service.webhooks.registry.refuse_if_delivered(name)
    return json_answer({"Jobs": await service.subscriptions.delete(name)})


def _read(request: AnyRequest, name: str) -> Body:
    """The body; a field that nobody knows is refused: the command would do something else than was meant."""
    body = read_body(request)
    if unknown := body.unknown(_FIELDS[name]):
        raise InvalidInput("; ".join(unknown))
    return body


def _wire(service: Service, info: SubscriptionInfo) -> dict[str, Any]:
    definition = info.definition
    return {
        "Name": info.name,
        "State": str(info.state),
        "Gap": info.gap,
        "LagSeconds": round(info.lag_seconds, 3),
        "Parked": info.parked,
        "Retrying": info.retrying,
        "Form": _form(definition),
        "Filter": _filter(definition),
        "Created": definition.created,
        "Partitions": [_part_wire(service, part) for part in info.parts],
    }


def _form(definition: Definition) -> str:
    if definition.plain:
        return "plain"
    if definition.partitions:
        return "elastic"
    return "members" if definition.members else "alone"


def _filter(definition: Definition) -> dict[str, object]:
    """What it asks for; what it does not ask is left out."""
    asked = {
        "Namespace": definition.namespace,
        "Job": definition.job,
        "Types": list(definition.types),
        "States": list(definition.states),
        "Labels": definition.labels,
    }
    return {name: value for name, value in asked.items() if value}


def _part_wire(service: Service, part: Part) -> dict[str, Any]:
    return {
        "Name": part.name,
        "Position": format_cursor(service.mark, part.position),
        "Gap": part.gap,
        "Held": part.held,
        "Waiting": part.waiting,
    }


def _parked_wire(service: Service, job: ParkedJob, name: str) -> dict[str, Any]:
    where = parse_subject(job.subject)
    return {
        "JobID": job.job_id,
        "Name": name,
        "Namespace": where.namespace if where is not None else "",
        "State": str(job.state),
        "Type": job.type,
        "Position": format_cursor(service.mark, job.sequence),
        "Sequence": job.sequence,
        "Attempts": job.attempts,
        "Error": job.error,
        "Since": format_rfc3339(job.since),
        "NextTry": format_rfc3339(job.next_try)
        if job.state is ParkedState.RETRYING and job.next_try
        else None,
    }


HANDLERS: Final[tuple[Any, ...]] = (
    list_subscriptions,
    create_subscription,
    get_subscription,
    list_parked_jobs,
    retry_parked_jobs,
    skip_parked_event,
    reset_subscription,
    delete_subscription,
)
