"""What a handler needs of its request: the service, who asks, and the job that is meant."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from litestar import Request
from litestar.params import FromPath

from jobledger.projections.errors import ViewError
from jobledger.projections.limits import WAIT_MAX_SECONDS
from jobledger.projections.view import is_short_id
from jobledger.service.access.principal import Principal
from jobledger.service.api.capacity import waiting
from jobledger.service.api.params import Query
from jobledger.service.cursor import parse_cursor
from jobledger.service.limits import WAIT_DEFAULT_SECONDS
from jobledger.service.wiring import Service
from jobledger.store.model.decide import check_not_quarantined
from jobledger.store.model.errors import InvalidInput, JobledgerError, JobNotFound, JobQuarantined
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.values import is_utf8

AnyRequest = Request[Any, Any, Any]
JobRef = FromPath[str]

ENCODED_SLASH: Final = "\0"
"""Stands for a slash within a segment of the path; the gate puts it there, and no name has a NUL."""


def service_of(request: AnyRequest) -> Service:
    """The service that the request was sent to."""
    service: Service = request.scope["state"]["service"]
    return service


def principal_of(request: AnyRequest) -> Principal:
    """Who asks; the gate has seen to it."""
    principal: Principal = request.scope["state"]["principal"]
    return principal


def query_of(request: AnyRequest) -> Query:
    """The query's parameters."""
    return Query(request.scope["query_string"])


async def await_position(service: Service, query: Query, timeout_seconds: float | None = None) -> None:
    """Wait until the view reflects `wait_for`, if that is asked, and what this process has acknowledged.

    Args:
        service: whose view.
        query: may have `wait_for`.
        timeout_seconds: how long to wait for it; None: as the query's `timeout` says.

    Raises:
        WaitTimeout: if `wait_for` is not reached within `timeout`.
        CursorGone: if it is a position of another stream.
        InvalidInput: if either can't be understood.
    """
    text = query.text("wait_for")
    if text:
        sequence = parse_cursor(text, service.mark, field="wait_for")
        if timeout_seconds is None:
            timeout_seconds = query.seconds("timeout", WAIT_DEFAULT_SECONDS, most=WAIT_MAX_SECONDS)
        if sequence > service.projector.sequence:
            with waiting():
                await service.projector.wait_for(sequence, timeout_seconds)
    await service.own_writes.visible()  # within a second, and nobody's to prolong: it stays in its work slot


async def find_job(request: AnyRequest, ref: str, namespace: str) -> Job:
    """The job that a request means, as the view has it, or the log if the view lacks what was answered here.

    Args:
        request: says who asks, and `wait_for`.
        ref: name, id or short id.
        namespace: where the name is looked up; empty for the default namespace.

    Raises:
        JobNotFound: if there is none, or none that may be seen.
        JobQuarantined: if it may be seen, and no event that creates it can be read.
        AmbiguousId: if it is the beginning of several ids.
        LogUnavailable: if the view lacks what was answered here of this job, and the log can't be read.
    """
    service, principal = service_of(request), principal_of(request)
    ref = with_slashes(ref)
    checkpoint = 0
    try:
        await await_position(service, query_of(request))
        checkpoint = service.projector.sequence
        job = await service.view.get(ref, namespace=namespace or None, visible=principal.visible)
    except ViewError as unreadable:
        return await _despite_view(request, ref, namespace, unreadable)
    except JobNotFound as not_found:
        lost = await _find_lost(service, principal, ref, namespace or DEFAULT_NAMESPACE)
        if lost is not None:
            check_not_quarantined(lost)
        if not (service.projector.trouble or service.own_writes.lacks_any(checkpoint)):
            raise
        return await _despite_view(request, ref, namespace, not_found)
    if service.own_writes.lacks(job.status.id, checkpoint):
        return await service.ledger.load(job.status.id, namespace=job.status.namespace)
    return job


async def _despite_view(request: AnyRequest, ref: str, namespace: str, error: JobledgerError) -> Job:
    """A job straight from the log, because the view can't be read or stays behind.

    Raises:
        JobledgerError: the error that was passed, if the log has no job of this name or full id.
    """
    service, principal = service_of(request), principal_of(request)
    where = namespace or DEFAULT_NAMESPACE
    not_found = JobNotFound(f"no job has the id, or (in namespace {where!r:.80}) the name {ref!r:.80}")
    try:
        return await _from_log(service, principal, ref, where, not_found)
    except JobNotFound:
        if is_short_id(ref):  # only the view can look for those
            raise error from None
        raise


async def find_job_to_change(request: AnyRequest, ref: str, namespace: str) -> Job:
    """The job that a write means; one that the view does not have yet is looked for in the log itself.

    So a write is never refused for a job that was created on another replica a moment ago.

    Raises:
        JobNotFound: if the log does not have it either, or it may not be seen.
        AmbiguousId: if it is the beginning of several ids.
        Forbidden: if it may be seen and not be changed.
    """
    principal, ref = principal_of(request), with_slashes(ref)
    try:
        job = await find_job(request, ref, namespace)
    except JobNotFound as not_found:
        job = await _from_log(service_of(request), principal, ref, namespace or DEFAULT_NAMESPACE, not_found)
    principal.require_write(job.status.namespace)
    return job


async def find_frozen_job(request: AnyRequest, ref: str, namespace: str) -> tuple[str, str]:
    """The id and namespace of the job that an acceptance means, also of one that only its subject names.

    Raises:
        JobNotFound: if it does not exist.
        AmbiguousId: if it is the beginning of several ids.
    """
    try:
        status = (await find_job_to_change(request, ref, namespace)).status
    except JobQuarantined as frozen:
        principal_of(request).require_write(frozen.namespace)
        return frozen.job_id, frozen.namespace
    return status.id, status.namespace


async def _find_lost(service: Service, principal: Principal, ref: str, namespace: str) -> JobStatus | None:
    """A job of which no creating event can be read, by its name or id, if it may be seen."""
    if not is_utf8(ref) or not is_utf8(namespace):
        return None
    for status in (await service.view.lost((named_job_id(namespace, ref), ref))).values():
        if status.quarantine is not None and principal.may_read(status.namespace):
            return status
    return None


def with_slashes(ref: str) -> str:
    """A name from the path as it was meant."""
    return ref.replace(ENCODED_SLASH, "/")


async def _from_log(
    service: Service, principal: Principal, ref: str, namespace: str, not_found: JobNotFound
) -> Job:
    """A job by its name or full id, in the namespaces that the asker may read.

    Other namespaces are not searched at all: how long that takes would tell whether a job exists there.

    Raises:
        JobNotFound: the error that was passed, if it does not exist.
        LogUnavailable: if the log can't be read.
    """
    try:
        if principal.may_read(namespace):
            with suppress(JobNotFound):
                return await service.ledger.load(named_job_id(namespace, ref), namespace=namespace)
        if principal.visible is None:
            return await service.ledger.load(ref)
        found = await asyncio.gather(
            *(service.ledger.load(ref, namespace=each) for each in sorted(principal.visible)),
            return_exceptions=True,
        )
    except (JobNotFound, InvalidInput):  # or the text can be no id
        raise not_found from None
    for each in found:
        if isinstance(each, Job):
            return each
    for error in found:
        if isinstance(error, BaseException) and not isinstance(error, JobNotFound | InvalidInput):
            raise error
    raise not_found
