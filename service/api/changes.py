"""`GET /api/v1/diff`: which jobs changed between two points of the log, and how, by whom and why."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from litestar import Response, get

from jobledger.projections.as_of.changes import (
    ChangesPage,
    ChangesQuery,
    JobChange,
    change_of,
    changes_between,
)
from jobledger.projections.query.selectors import parse_selector
from jobledger.service.api.answers import json_answer
from jobledger.service.api.asof import check_pinned, point_of
from jobledger.service.api.capacity import client_of_request, queued, waiting
from jobledger.service.api.compare import changes_wire
from jobledger.service.api.context import (
    AnyRequest,
    await_position,
    find_job,
    principal_of,
    query_of,
    service_of,
)
from jobledger.service.api.params import ALL_NAMESPACES, Query
from jobledger.service.cursor import format_cursor
from jobledger.service.limits import (
    CHANGES_COMPARED_AT_ONCE,
    CHANGES_DEFAULT_LIMIT,
    CHANGES_MAX_LIMIT,
    CHANGES_SHOWN,
    DIFF_MAX_BYTES,
)
from jobledger.service.point import pin, unpin
from jobledger.service.structural_diff import Edit, edits
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import format_rfc3339
from jobledger.store.yield_point import yield_point

Pair = tuple[bytes, bytes]


@get("/api/v1/diff")
async def get_changes(request: AnyRequest) -> Response[bytes]:
    """One page of the jobs that changed."""
    service, query, principal = service_of(request), query_of(request), principal_of(request)
    namespace = query.text("namespace")
    status: JobStatus | None = None
    namespaces = principal.visible
    if query.text("job"):
        where = "" if namespace == ALL_NAMESPACES else namespace
        status = (await find_job(request, query.text("job"), where)).status
    else:
        await await_position(service, query)
        if namespace and namespace != ALL_NAMESPACES:
            principal.require_read(namespace)
            namespaces = frozenset((namespace,))
    first, second, after = await _points(service, query, status)
    asked = ChangesQuery(
        first=first,
        second=second,
        namespaces=namespaces,
        selector=tuple(found for text in query.repeated("labels") for found in parse_selector(text)),
        limit=query.integer("limit", CHANGES_DEFAULT_LIMIT, most=CHANGES_MAX_LIMIT) or CHANGES_MAX_LIMIT,
        after=after,
    )
    page = await _page(service, asked, status)
    compared = await _compared(service, page.changes)
    token = str(page.after) if page.after is not None else ""
    return json_answer(
        {
            "From": _point_wire(service, first),
            "To": _point_wire(service, second),
            "Items": [_wire(*each) for each in zip(page.changes, compared, strict=True)],
            "NextToken": pin(first, pin(second, token, service.mark), service.mark),
        }
    )


async def _points(service: Service, query: Query, status: JobStatus | None) -> tuple[int, int, int]:
    """The two points, and the job behind which the page begins; a next token carries all three."""
    text = query.text("next_token")
    if text:
        first, rest = unpin(text, service.mark)
        second, after = unpin(rest, service.mark)
        if first is None or second is None or not after.isdecimal() or int(after) > INT_MAX:
            raise InvalidInput(f"next_token {text!r:.60} is not one of this list; pass it as it was given")
        await check_pinned(service, max(first, second))
        return first, second, int(after)
    first = await point_of(service, query, "from", status=status)
    if first is None:
        raise InvalidInput("from is missing: say since when, as `from=2h`, a time, or a sequence")
    second = await point_of(service, query, "to", status=status)
    if second is None:
        second = (await service.log.info()).last_sequence
    if first > second:
        raise InvalidInput(f"from is the sequence {first}, which is after to, {second}; swap them")
    return first, second, 0


async def _page(service: Service, asked: ChangesQuery, status: JobStatus | None) -> ChangesPage:
    if status is None:
        return await changes_between(
            service.log,
            service.view,
            service.asof.snapshots,
            asked,
            client=client_of_request(),
            waiting=waiting,
            turn=lambda: queued(service.scans),  # many histories are read, and some of them whole
        )
    if asked.second > service.projector.sequence:
        with waiting():
            await service.projector.wait_for(asked.second)
    job = await service.view.get_by_id(status.id)  # with all events up to the second point
    async with queued(service.scans):
        change = await change_of(service.log, job.status, asked.first, asked.second)
    return ChangesPage(changes=(change,) if change is not None else (), after=None)


async def _compared(service: Service, changes: Sequence[JobChange]) -> list[list[Edit] | None]:
    """How the specs differ; None where that would take too long. In a thread, as `compare` does."""
    pairs = [
        (change.before.spec, change.after.spec)
        if change.before is not None and change.before.spec != change.after.spec
        else None
        for change in changes
    ]
    if not any(pairs):
        return [[] for _ in pairs]
    compared: list[list[Edit] | None] = []
    for start in range(0, len(pairs), CHANGES_COMPARED_AT_ONCE):
        async with queued(service.comparing):
            some = pairs[start : start + CHANGES_COMPARED_AT_ONCE]
            compared += await asyncio.to_thread(_compare_all, some)
        await yield_point()  # not within the turn: others would wait for this pause
    return compared


def _compare_all(pairs: Sequence[Pair | None]) -> list[list[Edit] | None]:
    return [_edits(*pair) if pair is not None else [] for pair in pairs]


def _edits(before: bytes, after: bytes) -> list[Edit] | None:
    if max(len(before), len(after)) > DIFF_MAX_BYTES:
        return None
    return edits(msgspec.json.decode(before), msgspec.json.decode(after))


def _point_wire(service: Service, sequence: int) -> dict[str, Any]:
    return {"Sequence": sequence, "Cursor": format_cursor(service.mark, sequence)}


def _wire(change: JobChange, compared: list[Edit] | None) -> dict[str, Any]:
    status, found = change.after.status, changes_wire(compared or ())
    wire: dict[str, Any] = {
        "JobID": status.id,
        "Name": status.name,
        "Namespace": status.namespace,
        "From": _then(change.before) if change.before is not None else None,
        "To": _then(change.after),
        "States": change.states,
        "Changes": found[:CHANGES_SHOWN],
        "MoreChanges": max(0, len(found) - CHANGES_SHOWN),
        "IsCompared": compared is not None,
        "Events": [_event(item) for item in change.items],
        "MoreEvents": change.events - len(change.items),
    }
    if change.matches is not None:
        wire["Matches"] = change.matches
    return wire


def _then(job: Job) -> dict[str, Any]:
    status = job.status
    return {
        "Version": status.version,
        "Revision": status.revision,
        "State": msgspec.to_builtins(status.state),
        "Tags": status.tags,
    }


def _event(item: HistoryItem) -> dict[str, Any]:
    told: dict[str, Any] = {
        "Sequence": item.sequence,
        "Time": format_rfc3339(item.time),
        "EventID": item.event_id,
        "EventType": item.type,
        "Version": item.version,
        "Revision": item.revision,
        "State": msgspec.to_builtins(item.state),
        "Actor": item.actor,
        "Reason": item.reason,
    }
    if item.tag:
        told |= {"Tag": item.tag, "TagVersion": item.tag_version}
    return told


HANDLERS: Final[tuple[Any, ...]] = (get_changes,)
