"""The points in time that requests name: `at`, `from` and `to`, and the next tokens that stay on a point."""

import time
from typing import Final

from jobledger.projections.as_of.job import did_not_exist, sequence_of_revision
from jobledger.service.api.capacity import queued
from jobledger.service.api.params import Query
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


async def point_of(
    service: Service, query: Query, field: str = _AT, *, status: JobStatus | None = None
) -> int | None:
    """The sequence of the point that a parameter names; None if it is absent.

    Args:
        service: whose log.
        query: has the parameter.
        field: its name.
        status: of the one job that is asked about, as the view has it, if it is one: then a revision of it is
            a point, too.

    Raises:
        InvalidInput: if it is no point, or one that is not there yet.
        JobNotFound: if the job has no such revision, or did not exist yet at the point that is `at`.
        CursorGone: if it is of another stream.
        LogUnavailable: if the log does not answer.
    """
    text = query.text(field)
    if not text:
        return None
    now = time.time_ns()
    point = parse_point(text, now=now, mark=service.mark, field=field, revisions=status is not None)
    if isinstance(point, RevisionPoint) and status is not None:
        async with queued(service.scans):
            return await sequence_of_revision(service.log, status, point.revision)
    sequence = await resolve_point(service.log, point, now=now, field=field)
    if field == _AT and status is not None and sequence < status.created_sequence:
        raise did_not_exist(status, sequence, point.time if isinstance(point, TimePoint) else None)
    return sequence


async def page_point(
    service: Service, query: Query, *, status: JobStatus | None = None
) -> tuple[int | None, str]:
    """The point of a page and where it begins. A next token stays on its point; `at` only says it first.

    Raises:
        InvalidInput: as `point_of`, or if `at` and the token are at odds.
        JobledgerError: as `point_of`.
    """
    text = query.text("next_token")
    pinned, token = unpin(text, service.mark)
    await check_pinned(service, pinned)
    at = query.text(_AT)
    if pinned is None:
        if at and text:
            raise InvalidInput(
                f"next_token {text!r:.60} is of a list without `at`; pass the one that this list gave"
            )
        return await point_of(service, query, status=status), token
    if at:
        # Times and ages lead to the same place only by chance: what counts is what they said first.
        point = parse_point(
            at, now=time.time_ns(), mark=service.mark, field=_AT, revisions=status is not None
        )
        if isinstance(point, SequencePoint) and point.sequence != pinned:
            raise InvalidInput(
                f"next_token is of a list as of {pinned}, and at says {point.sequence}; leave one of them out"
            )
    return pinned, token


async def job_at(
    service: Service, query: Query, present: Job, checkpoint: int
) -> tuple[Job, int | None, str]:
    """A job as of the point that its request names, that point (None: the present), and the page's beginning.

    Args:
        service: whose log.
        query: may have `at` and `next_token`.
        present: the job as the view has it.
        checkpoint: how far the view was before it was asked.

    Raises:
        JobNotFound: if it did not exist yet.
        JobledgerError: as `page_point`.
    """
    point, token = await page_point(service, query, status=present.status)
    if point is None:
        return present, None, token
    return await past_of(service, present, point, checkpoint), point, token


async def past_of(service: Service, present: Job, point: int, checkpoint: int) -> Job:
    """A job as it was at a point: it takes a read of its history up to there.

    Raises:
        JobNotFound: if it did not exist yet.
        LogUnavailable: if the log can't be read.
    """
    async with queued(service.scans):
        return await service.asof.job(present, point, checkpoint=checkpoint)


async def check_pinned(service: Service, point: int | None) -> None:
    """Refuse a next token that nobody gave: waiting for its point would keep others from their turn.

    Raises:
        InvalidInput: if the log has not come to its point.
        LogUnavailable: if the log does not answer.
    """
    if point is not None and point > service.projector.sequence:  # another replica may have come farther
        await resolve_point(service.log, SequencePoint(point), now=time.time_ns(), field="next_token")
