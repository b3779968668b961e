"""The events of the log over time."""

from jobledger.service.api.as_of import point_of
from jobledger.service.api.capacity import queued
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import POINT, WAIT
from jobledger.service.api.request import Request
from jobledger.service.cursor import format_cursor
from jobledger.service.limits import HISTOGRAM_BUCKETS, HISTOGRAM_MAX_BUCKETS
from jobledger.service.wire import paths, view as wire
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import format_rfc3339

operations = OperationGroup("Reads")


@operations.declare(
    "GET",
    paths.HISTOGRAM,
    "histogram",
    Permission.OBSERVE,
    (
        Parameter("from", POINT, "the first event; default: the first event of the log"),
        Parameter("to", POINT, "the last event; default: the last event that the view reflects"),
        Parameter(
            "buckets",
            {
                "type": "integer",
                "minimum": 1,
                "maximum": HISTOGRAM_MAX_BUCKETS,
                "default": HISTOGRAM_BUCKETS,
            },
            "at most this many intervals",
        ),
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
    end = format_rfc3339(await service.event_times.time_of(last))
    return wire.Histogram(
        found.width_seconds,
        items,
        wire.TimedPoint(last, end, format_cursor(service.stream_tag, last)),
    )
