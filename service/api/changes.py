"""Which jobs changed between two points of the log, and how, by whom and why."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobledger.projections.as_of.changes import (
    ChangesPage,
    ChangesQuery,
    JobChange,
    change_of,
    changes_between,
)
from jobledger.service.api.as_of import check_pinned, point_of
from jobledger.service.api.capacity import client_of_request, queued, waiting
from jobledger.service.api.compare import changes_of
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import NEXT_TOKEN, POINT, TEXT, TEXTS, WAIT, limit
from jobledger.service.api.query import ALL_NAMESPACES
from jobledger.service.api.request import Request
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
from jobledger.service.wire import paths, versions as wire
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import format_rfc3339
from jobledger.store.yield_point import yield_point

Pair = tuple[bytes, bytes]

_AFTER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)

operations = OperationGroup("Reads")


@operations.declare(
    "GET",
    paths.CHANGES,
    "diffPoints",
    Permission.READ,
    (
        Parameter("from", POINT, "the first point, exclusive; required on the first page"),
        Parameter("to", POINT, "the second point, inclusive; default: the last event"),
        Parameter("namespace", TEXT, "only its jobs; absent, empty or `*`: all that the token may read"),
        Parameter(
            "job", TEXT, "only this job: its name, id, or the unique beginning of its id", errors=(404, 409)
        ),
        Parameter("labels", TEXTS, "a selector that the labels match at either point; repeatable"),
        limit(CHANGES_DEFAULT_LIMIT, CHANGES_MAX_LIMIT, "jobs"),
        NEXT_TOKEN,
        *WAIT,
    ),
    response=wire.Changes,
)
async def get_changes(request: Request[None]) -> wire.Changes:
    """List the jobs that changed between two points, and how.

    Ordered by creation: each with its version, revision and state at both points, the states between them,
    how its spec differs, and its events, with who and why. A next token keeps both points; send the filters
    again with it. A page may be short or empty without being the last: `NextToken` decides. With `job`, a
    point may also be a revision, such as `r3`.
    """
    service, query = request.service, request.query
    namespace = query.text("namespace")
    status: JobStatus | None = None
    namespaces = request.principal.visible
    if query.text("job"):
        where = "" if namespace == ALL_NAMESPACES else namespace
        status = (await request.find_job(query.text("job"), where)).status
    else:
        await request.await_position()
        if namespace and namespace != ALL_NAMESPACES:
            request.require(namespace)
            namespaces = frozenset((namespace,))
    first, second, after = await _points(request, status)
    between = ChangesQuery(
        first=first,
        second=second,
        namespaces=namespaces,
        selector=query.selector(),
        limit=query.limit(CHANGES_DEFAULT_LIMIT, CHANGES_MAX_LIMIT),
        after=after,
    )
    page = await _page(service, between, status)
    compared = await _compared(service, page.changes)
    token = str(page.after) if page.after is not None else ""
    return wire.Changes(
        _point(service, first),
        _point(service, second),
        [_job_changed(*each) for each in zip(page.changes, compared, strict=True)],
        pin(first, pin(second, token, service.stream_tag), service.stream_tag),
    )


async def _points(request: Request[None], status: JobStatus | None) -> tuple[int, int, int]:
    """The two points, and the job after which the page begins; a next token has all three."""
    service, text = request.service, request.query.text("next_token")
    if text:
        first, rest = unpin(text, service.stream_tag)
        second, after = unpin(rest, service.stream_tag)
        if first is None or second is None or not _AFTER.fullmatch(after) or int(after) > INT_MAX:
            raise InvalidInput(f"next_token must be one that this list returned, got {text!r:.60}")
        await check_pinned(service, max(first, second))
        return first, second, int(after)
    first = await point_of(request, "from", status=status)
    if first is None:
        raise InvalidInput("from is required: an age such as `from=2h`, a time, or a sequence")
    second = await point_of(request, "to", status=status)
    if second is None:
        second = (await service.log.info()).last_sequence
    if first > second:
        raise InvalidInput(f"from is the sequence {first}, which is after to, {second}; swap them")
    return first, second, 0


async def _page(service: Service, between: ChangesQuery, status: JobStatus | None) -> ChangesPage:
    if status is None:
        return await changes_between(
            service.log,
            service.view,
            service.asof.snapshots,
            between,
            client=client_of_request(),
            waiting=waiting,
            turn=lambda: queued(service.scans),  # many histories are read, some of them whole
        )
    if between.second > service.projector.sequence:
        with waiting():
            await service.projector.wait_for(between.second)
    job = await service.view.get_by_id(status.id)  # with all events up to the second point
    async with queued(service.scans):
        change = await change_of(service.log, job.status, between.first, between.second)
    return ChangesPage(changes=(change,) if change is not None else (), after=None)


async def _compared(service: Service, changes: Sequence[JobChange]) -> list[list[Edit] | None]:
    """How the specs differ; None where that would take too long. In a thread, as in `compare`."""
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
        await yield_point()  # outside of the turn, for which others wait
    return compared


def _compare_all(pairs: Sequence[Pair | None]) -> list[list[Edit] | None]:
    return [_edits(*pair) if pair is not None else [] for pair in pairs]


def _edits(before: bytes, after: bytes) -> list[Edit] | None:
    if max(len(before), len(after)) > DIFF_MAX_BYTES:
        return None
    return edits(msgspec.json.decode(before), msgspec.json.decode(after))


def _point(service: Service, sequence: int) -> wire.Point:
    return wire.Point(sequence, format_cursor(service.stream_tag, sequence))


def _job_changed(change: JobChange, compared: list[Edit] | None) -> wire.JobChanged:
    status, found = change.after.status, changes_of(compared or ())
    changed = wire.JobChanged(
        job_id=status.id,
        name=status.name,
        namespace=status.namespace,
        from_=_job_then(change.before) if change.before is not None else None,
        to=_job_then(change.after),
        states=list(change.states),
        changes=found[:CHANGES_SHOWN],
        more_changes=max(0, len(found) - CHANGES_SHOWN),
        is_compared=compared is not None,
        events=[_change_event(item) for item in change.items],
        more_events=change.events - len(change.items),
    )
    if change.matches is not None:
        changed.matches = change.matches
    return changed


def _job_then(job: Job) -> wire.JobThen:
    status = job.status
    return wire.JobThen(status.version, status.revision, status.state, dict(status.tags))


def _change_event(item: HistoryItem) -> wire.ChangeEvent:
    tag: dict[str, Any] = {"tag": item.tag, "tag_version": item.tag_version} if item.tag else {}
    return wire.ChangeEvent(
        sequence=item.sequence,
        time=format_rfc3339(item.time),
        event_id=item.event_id,
        event_type=item.type,
        version=item.version,
        revision=item.revision,
        state=item.state,
        actor=item.actor,
        reason=item.reason,
        **tag,
    )
