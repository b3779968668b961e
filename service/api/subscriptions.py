"""Durable subscriptions: listing, creating and repairing them."""

from typing import Final

from jobledger.projections.subscriptions.admin import Part, SubscriptionInfo
from jobledger.projections.subscriptions.definition import Definition
from jobledger.projections.subscriptions.parking import ParkedJob, ParkedState
from jobledger.service.api.as_of import body_point
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import TEXT, limit
from jobledger.service.api.request import Request
from jobledger.service.cursor import format_cursor
from jobledger.service.limits import PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT
from jobledger.service.wire import paths, subscriptions as wire
from jobledger.service.wiring import Service
from jobledger.store.model.subjects import parse_subject
from jobledger.store.timestamps import format_rfc3339

_NAME: Final = Parameter("name", TEXT, "of the subscription", "path", required=True, errors=(404,))

operations = OperationGroup("Subscriptions")


@operations.declare(
    "GET", paths.SUBSCRIPTIONS, "listSubscriptions", Permission.OBSERVE, response=wire.SubscriptionList
)
async def list_subscriptions(request: Request[None]) -> wire.SubscriptionList:
    """List the durable subscriptions and their progress."""
    service = request.service
    return wire.SubscriptionList(
        [_subscription(service, each) for each in await service.subscriptions.list()]
    )


@operations.declare(
    "POST",
    paths.SUBSCRIPTIONS,
    "createSubscription",
    Permission.ADMIN,
    body=wire.SubscriptionRequest,
    refuses_unknown_fields=True,
    response=wire.SubscriptionAnswer,
    errors=(409,),
    example={"Name": "billing", "Types": ["state"], "States": ["Completed", "Failed"]},
)
async def create_subscription(request: Request[wire.SubscriptionRequest]) -> wire.SubscriptionAnswer:
    """Create a durable subscription, for a program that may not create it itself.

    Creates its definition and all its consumers; repeating the request changes nothing. The program opens it
    with the same name, filter, start and sharing.
    """
    body = request.body
    info = await request.service.subscriptions.create(
        body.name,
        namespace=body.namespace,
        job=body.job,
        types=body.types,
        states=body.states,
        labels=body.labels,
        start=body.start or "beginning",
        members=body.members,
        partitions=body.partitions,
        plain=body.plain,
    )
    return wire.SubscriptionAnswer(_subscription(request.service, info))


@operations.declare(
    "GET",
    paths.SUBSCRIPTION,
    "getSubscription",
    Permission.OBSERVE,
    (_NAME,),
    response=wire.SubscriptionAnswer,
)
async def get_subscription(request: Request[None]) -> wire.SubscriptionAnswer:
    """Get a durable subscription."""
    info = await request.service.subscriptions.show(request.values["name"])
    return wire.SubscriptionAnswer(_subscription(request.service, info))


@operations.declare(
    "GET",
    paths.SUBSCRIPTION_PARKED,
    "listParkedJobs",
    Permission.OBSERVE,
    (_NAME, limit(PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT, "jobs")),
    response=wire.ParkedList,
)
async def list_parked_jobs(request: Request[None]) -> wire.ParkedList:
    """List the jobs that a subscription has parked because handling one of their events failed."""
    service = request.service
    limit = request.query.limit(PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT)
    found = await service.subscriptions.parked(request.values["name"])
    shown = found[:limit]
    jobs = await service.view.statuses(job.job_id for job in shown)
    names = {job_id: status.name for job_id, status in jobs.items()}
    items = [_parked_job(service, job, names.get(job.job_id, "")) for job in shown]
    return wire.ParkedList(items, len(found))


@operations.declare(
    "POST",
    paths.SUBSCRIPTION_RETRY,
    "retryParkedJobs",
    Permission.ADMIN,
    (_NAME,),
    body=wire.RetryRequest,
    refuses_unknown_fields=True,
    response=wire.Changed,
    errors=(409,),
    example={"JobID": "j-cfc229d6-1c37-5cf0-a71d-0a1260047606"},
)
async def retry_parked_jobs(request: Request[wire.RetryRequest]) -> wire.Changed:
    """Handle a job's failed event again now, then its later events."""
    body, subscriptions = request.body, request.service.subscriptions
    return wire.Changed(
        await subscriptions.retry(request.values["name"], body.job_id, namespace=body.namespace)
    )


@operations.declare(
    "POST",
    paths.SUBSCRIPTION_SKIP,
    "skipParkedEvent",
    Permission.ADMIN,
    (_NAME,),
    body=wire.SkipRequest,
    refuses_unknown_fields=True,
    response=wire.Changed,
    errors=(409,),
    example={"JobID": "j-cfc229d6-1c37-5cf0-a71d-0a1260047606"},
)
async def skip_parked_event(request: Request[wire.SkipRequest]) -> wire.Changed:
    """Skip a job's failed event, and continue with its later events."""
    body, subscriptions = request.body, request.service.subscriptions
    return wire.Changed(
        await subscriptions.skip(request.values["name"], body.job_id, namespace=body.namespace)
    )


@operations.declare(
    "PUT",
    paths.SUBSCRIPTION_POSITION,
    "resetSubscription",
    Permission.ADMIN,
    (_NAME,),
    body=wire.ResetRequest,
    refuses_unknown_fields=True,
    response=wire.SubscriptionAnswer,
    errors=(409,),
    example={"After": "0"},
)
async def reset_subscription(request: Request[wire.ResetRequest]) -> wire.SubscriptionAnswer:
    """Restart a subscription after a point of the log.

    All events after that point are handled, again if they were before, and none up to it. Parked jobs restart
    there, too.
    """
    service = request.service
    after = await body_point(service, request.body.after, "After")
    info = await service.subscriptions.reset(request.values["name"], after=after)
    return wire.SubscriptionAnswer(_subscription(service, info))


@operations.declare(
    "DELETE",
    paths.SUBSCRIPTION,
    "deleteSubscription",
    Permission.ADMIN,
    (_NAME,),
    response=wire.Changed,
    errors=(409,),
)
async def delete_subscription(request: Request[None]) -> wire.Changed:
    """Delete a durable subscription: its position, and its parked jobs.

    That of a webhook is refused: delete the webhook.
    """
    service, name = request.service, request.values["name"]
    await service.webhooks.registry.refuse_if_delivered(name)
    return wire.Changed(await service.subscriptions.delete(name))


def _subscription(service: Service, info: SubscriptionInfo) -> wire.Subscription:
    definition = info.definition
    return wire.Subscription(
        name=info.name,
        state=str(info.state),
        gap=info.gap,
        lag_seconds=round(info.lag_seconds, 3),
        parked=info.parked,
        retrying=info.retrying,
        form=_form(definition),
        filter=_filter(definition),
        created=definition.created,
        partitions=[_partition(service, part) for part in info.parts],
    )


def _form(definition: Definition) -> str:
    if definition.plain:
        return "plain"
    if definition.partitions:
        return "elastic"
    return "members" if definition.members else "alone"


def _filter(definition: Definition) -> dict[str, object]:
    """The conditions of its filter; those that do not apply are omitted."""
    conditions = {
        "Namespace": definition.namespace,
        "Job": definition.job,
        "Types": list(definition.types),
        "States": list(definition.states),
        "Labels": definition.labels,
    }
    return {name: value for name, value in conditions.items() if value}


def _partition(service: Service, part: Part) -> wire.Partition:
    return wire.Partition(
        part.name, format_cursor(service.stream_tag, part.position), part.gap, part.held, part.waiting
    )


def _parked_job(service: Service, job: ParkedJob, name: str) -> wire.ParkedJob:
    subject = parse_subject(job.subject)
    is_retrying = job.state is ParkedState.RETRYING and job.next_try
    return wire.ParkedJob(
        job_id=job.job_id,
        name=name,
        namespace=subject.namespace if subject is not None else "",
        state=str(job.state),
        type=job.type,
        position=format_cursor(service.stream_tag, job.sequence),
        sequence=job.sequence,
        attempts=job.attempts,
        error=job.error,
        since=format_rfc3339(job.since),
        next_try=format_rfc3339(job.next_try) if is_retrying else None,
    )
