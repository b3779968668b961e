"""The events of the log over time; and the jobs over time, for callers who may not see all of the log."""

import time
from typing import Final

from jobledger.service.api.as_of import point_of
from jobledger.service.api.capacity import queued
from jobledger.service.api.jobs import list_namespaces
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import AT, NAMESPACE_FILTER, POINT, WAIT
from jobledger.service.api.request import Request
from jobledger.service.cursor import format_cursor
from jobledger.service.histogram import bucket_width
from jobledger.service.limits import HISTOGRAM_BUCKETS, HISTOGRAM_MAX_BUCKETS
from jobledger.service.wire import paths, view as wire
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339

_BUCKETS: Final = Parameter(
    "buckets",
    {"type": "integer", "minimum": 1, "maximum": HISTOGRAM_MAX_BUCKETS, "default": HISTOGRAM_BUCKETS},
    "at most this many intervals",
)

operations = OperationGroup("Reads")


@operations.declare(
    "GET",
    paths.HISTOGRAM,
    "histogram",
    Permission.OBSERVE,
    (
        Parameter("from", POINT, "the first event; default: the first event of the log"),
        Parameter("to", POINT, "the last event; default: the last event that the view reflects"),
        _BUCKETS,
        *WAIT,
    ),
    response=wire.Histogram,
)
async def get_histogram(request: Request[None]) -> wire.Histogram:
    """Count events over time.

    The events of all jobs, in intervals of equal width, oldest first, without gaps: the events of an item are
    those after `After`, up to `Sequence`. Widths are round, and intervals begin at multiples of them in UTC.
    """
    service, query = request.service, request.query
    await request.await_position()
    most = query.integer("buckets", HISTOGRAM_BUCKETS, least=1, most=HISTOGRAM_MAX_BUCKETS)
    info = await service.log.info()
    first, last = await point_of(request, "from"), await point_of(request, "to")
    first = max(1, info.first_sequence if first is None else first)
    last = min(service.projector.sequence, info.last_sequence) if last is None else last
    if last < first:
        if query.text("from") and query.text("to"):
            raise InvalidInput(f"from is the sequence {first}, which is after to, {last}; swap them")
        return wire.Histogram(0, [], wire.TimedPoint(0, "", format_cursor(service.stream_tag, 0)))
    async with queued(service.scans):
        found = await service.event_times.histogram(first, last, most)
    items = [
        wire.EventsBucket(format_rfc3339(each.time), each.after, each.sequence, each.sequence - each.after)
        for each in found.items
    ]
    return wire.Histogram(found.width_seconds, items, await _timed_point(service, last))


@operations.declare(
    "GET",
    paths.CREATED_COUNTS,
    "countCreatedJobs",
    Permission.READ,
    (NAMESPACE_FILTER, AT, _BUCKETS, *WAIT),
    response=wire.CreatedCounts,
)
async def count_created_jobs(request: Request[None]) -> wire.CreatedCounts:
    """Count the jobs that were created over time.

    Of the namespace, or of all that the token may read; from the first of them until now, in intervals of
    equal width, oldest first, without gaps. Counting an interval ends at a limit.
    """
    service, query = request.service, request.query
    await request.await_position()
    most = query.integer("buckets", HISTOGRAM_BUCKETS, least=1, most=HISTOGRAM_MAX_BUCKETS)
    namespaces = list_namespaces(request)
    point = await point_of(request)
    point = service.projector.sequence if point is None else point
    at = await _timed_point(service, point)
    async with queued(service.scans):
        start, end = await service.view.first_created(namespaces), time.time_ns()
        if start is None:
            return wire.CreatedCounts(0, [], at)
        end = max(start, end)
        seconds = bucket_width(start, end, most)
        width = seconds * NANOSECONDS_PER_SECOND
        edges = tuple(range(start // width * width, end // width * width + width + 1, width))
        counts = await service.view.created_counts(namespaces, edges)
    items = [
        wire.CreatedBucket(format_rfc3339(edge), found.count, found.is_exact)
        for edge, found in zip(edges, counts, strict=False)
    ]
    return wire.CreatedCounts(seconds, items, at)


async def _timed_point(service: Service, sequence: int) -> wire.TimedPoint:
    found = await service.event_times.time_of(sequence)
    return wire.TimedPoint(
        sequence, format_rfc3339(found) if found else "", format_cursor(service.stream_tag, sequence)
    )
