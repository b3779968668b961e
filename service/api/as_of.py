"""The points in time of a request: `at`, `from` and `to`, and the next tokens that keep a point."""

import time
from typing import Any, Final

from jobledger.projections.as_of.job import did_not_exist, sequence_of_revision
from jobledger.service.api.capacity import queued
from jobledger.service.api.request import Request
from jobledger.service.point import (
    RevisionPoint,
    SequencePoint,
    TimePoint,
    parse_point,
    resolve_point,
    unpin,
)
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import Job, JobStatus

_AT: Final = "at"


async def body_point(service: Service, text: str, field: str) -> int:
    """The sequence of the point in a field of a body."""
    now = time.time_ns()
    point = parse_point(text, now=now, stream_tag=service.stream_tag, field=field)
    return await resolve_point(service.log, point, now=now, field=field)


async def point_of(request: Request[Any], field: str = _AT, *, status: JobStatus | None = None) -> int | None:
    """The sequence of the point that a parameter names; None if it is absent.

    With the status of the one job that the request is about, a revision is a point, too.

    Raises:
        InvalidInput: if it is not a point, or one in the future.
        JobNotFound: if the job does not have that revision, or did not exist yet at `at`.
        CursorGone: if it is in another stream.
        LogUnavailable: if the log does not respond.
    """
    service, text = request.service, request.query.text(field)
    if not text:
        return None
    now = time.time_ns()
    point = parse_point(
        text, now=now, stream_tag=service.stream_tag, field=field, revisions=status is not None
    )
    if isinstance(point, RevisionPoint) and status is not None:
        async with queued(service.scans):
            return await sequence_of_revision(service.log, status, point.revision)
    sequence = await resolve_point(service.log, point, now=now, field=field)
    if field == _AT and status is not None and sequence < status.created_sequence:
        raise did_not_exist(status, sequence, point.time if isinstance(point, TimePoint) else None)
    return sequence


async def page_point(request: Request[Any], *, status: JobStatus | None = None) -> tuple[int | None, str]:
    """The point of a page, and the rest of its token. A next token keeps the point that `at` set.

    Raises:
        InvalidInput: as `point_of`, or if `at` and the token contradict each other.
        JobledgerError: as `point_of`.
    """
    service, text, at = request.service, request.query.text("next_token"), request.query.text(_AT)
    pinned, token = unpin(text, service.stream_tag)
    await check_pinned(service, pinned)
    if pinned is None:
        if at and text:
            raise InvalidInput(
                f"next_token {text!r:.60} is of a list without `at`; pass the token of this list"
            )
        return await point_of(request, status=status), token
    if at:
        # A time or an age may resolve to another sequence by now; the first request decided.
        point = parse_point(
            at, now=time.time_ns(), stream_tag=service.stream_tag, field=_AT, revisions=status is not None
        )
        if isinstance(point, SequencePoint) and point.sequence != pinned:
            raise InvalidInput(
                f"next_token is of a list as of {pinned}, and at is {point.sequence}; omit one of them"
            )
    return pinned, token


async def job_at(request: Request[Any], present: Job, checkpoint: int) -> tuple[Job, int | None, str]:
    """A job as of the request's point, that point (None: the present), and the rest of the page's token.

    `checkpoint` is that of the view before it returned the present job.
    """
    point, token = await page_point(request, status=present.status)
    if point is None:
        return present, None, token
    return await past_of(request.service, present, point, checkpoint), point, token


async def past_of(service: Service, present: Job, point: int, checkpoint: int) -> Job:
    """A job as it was at a point; reads its history up to there.

    Raises:
        JobNotFound: if it did not exist yet.
        LogUnavailable: if the log cannot be read.
    """
    async with queued(service.scans):
        return await service.asof.job(present, point, checkpoint=checkpoint)


async def check_pinned(service: Service, point: int | None) -> None:
    """Refuse an invented next token: waiting for its point would block others.

    Raises:
        InvalidInput: if its point is beyond the end of the log.
        LogUnavailable: if the log does not respond.
    """
    if point is not None and point > service.projector.sequence:  # another replica may be ahead
        await resolve_point(service.log, SequencePoint(point), now=time.time_ns(), field="next_token")
