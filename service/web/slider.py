"""The time slider of the list: a histogram over time, and the point that the list shows.

The histogram counts the events of the log. For callers who may not see the log as a whole, it counts the jobs
that were created in their namespaces, and bars and slider name times instead of sequences.
"""

from typing import Any, Final, NamedTuple

import msgspec

from jobledger.projections.errors import AsOfBusy, ViewBusy
from jobledger.service.api.request import Request
from jobledger.service.errors import Forbidden, TooManyRequests
from jobledger.service.web.calls import call
from jobledger.service.web.list_state import ListState
from jobledger.service.wire.view import CreatedCounts, Histogram
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339, parse_rfc3339

WIDTH: Final = 1_000
HEIGHT: Final = 40
STEPS_PER_BAR: Final = 100
_LEAST_HEIGHT: Final = 2.0


class Bar(NamedTuple):
    """One interval: its place in the picture, how many events, and the list as of its end."""

    x: float
    width: float
    height: float
    events: int
    time: int
    sequence: int
    url: str


class Slider(NamedTuple):
    """What the slider shows.

    The handle is on the axis of the picture, which is time, so that it is below the bar that it is in.

    Attributes:
        noun: what the bars count.
        last: the last sequence of the log.
        at: the point of the list; `last` for the present.
        marker: where the point is in the picture.
        value: of the handle, of `steps`.
        times: for each bar the sequence before it and the time when it begins, in milliseconds, as JSON;
            empty if the slider names times.
    """

    noun: str
    bars: list[Bar]
    last: int
    at: int
    marker: float
    value: int
    steps: int
    start: int
    end: int
    times: str


async def slider_of(request: Request[Any], state: ListState, at: int) -> Slider | None:
    """The slider; None without a log, or without events that the caller may see.

    The list does not wait for it: just after the start of a service with a large log, there is none.
    """
    try:
        if not request.principal.may_observe:
            return await _slider_of_jobs(request, state, at)
        if request.service.event_times.is_preparing:
            return None
        found = await call(request, "histogram", answer=Histogram)
    except (LogUnavailable, Forbidden, TooManyRequests, ViewBusy, AsOfBusy):
        # The list comes from the view, explains a foreign namespace, and is worth more than its slider.
        return None
    return _slider_of_events(found, state, at) if found.items else None


async def _slider_of_jobs(request: Request[Any], state: ListState, at: int) -> Slider | None:
    query = {"namespace": state.namespace, "at": str(at)}
    found = await call(request, "countCreatedJobs", query, answer=CreatedCounts)
    if not found.items:
        return None
    starts = [parse_rfc3339(each.time) or 0 for each in found.items]
    step = found.seconds * NANOSECONDS_PER_SECOND
    most = max(each.jobs for each in found.items)
    width = WIDTH / len(starts)
    bars = [
        Bar(
            *_shape(index, width, each.jobs, most),
            each.jobs,
            start,
            0,
            state.url(at=format_rfc3339(start + step) if index + 1 < len(starts) else ""),
        )
        for index, (each, start) in enumerate(zip(found.items, starts, strict=True))
    ]
    end = starts[-1] + step
    time_ns = parse_rfc3339(found.at.time) or starts[0]
    part = min(1.0, max(0.0, (time_ns - starts[0]) / (end - starts[0])))
    marker = round(part * WIDTH, 2) if state.at else float(WIDTH)
    steps = len(bars) * STEPS_PER_BAR
    value = round(marker / WIDTH * steps)
    last = request.service.projector.sequence
    return Slider("job", bars, last, min(at, last), marker, value, steps, starts[0], end, "")


def _shape(index: int, width: float, count: int, most: int) -> tuple[float, float, float]:
    """Where a bar is, how wide and how high."""
    height = round(max(_LEAST_HEIGHT, HEIGHT * (count / most) ** 0.5), 2) if count else 0.0
    return round(index * width, 2), round(max(1.0, width - 1), 2), height


def _slider_of_events(found: Histogram, state: ListState, at: int) -> Slider:
    last = found.to.sequence
    starts = [parse_rfc3339(each.time) or 0 for each in found.items]
    most = max(each.events for each in found.items)
    width = WIDTH / len(found.items)
    bars = [
        Bar(
            *_shape(index, width, each.events, most),
            each.events,
            start,
            each.sequence,
            state.url(at=str(each.sequence)),
        )
        for index, (each, start) in enumerate(zip(found.items, starts, strict=True))
    ]
    times = [[each.after, start // 1_000_000] for each, start in zip(found.items, starts, strict=True)]
    marker = _place(found, at, width) if state.at else float(WIDTH)
    steps = len(bars) * STEPS_PER_BAR
    return Slider(
        "event",
        bars,
        last,
        min(at, last),
        marker,
        round(marker / WIDTH * steps),
        steps,
        starts[0],
        parse_rfc3339(found.to.time) or 0,
        msgspec.json.encode(times).decode(),
    )


def _place(found: Histogram, at: int, width: float) -> float:
    for index, each in enumerate(found.items):
        if at <= each.sequence:
            part = (at - each.after) / each.events if each.events else 1.0
            return round((index + part) * width, 2)
    return float(WIDTH)
