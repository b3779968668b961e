"""The time slider of the list: a histogram of the events of the log, and the point that the list shows."""

from typing import Any, Final, NamedTuple

import msgspec

from jobledger.service.api.request import Request
from jobledger.service.web.calls import call
from jobledger.service.web.list_state import ListState
from jobledger.service.wire.view import Histogram
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.timestamps import parse_rfc3339

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
        last: the last sequence of the log.
        at: the point of the list; `last` for the present.
        marker: where the point is in the picture.
        value: of the handle, of `steps`.
        times: for each bar the sequence before it and the time when it begins, in milliseconds, as JSON.
    """

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
    """The slider; None for callers who may not see the log as a whole, and without a log or events.

    The list does not wait for it: just after the start of a service with a large log, there is none.
    """
    if not request.principal.may_observe or request.service.event_times.is_preparing:
        return None
    try:
        found = await call(request, "histogram", answer=Histogram)
    except LogUnavailable:  # the list comes from the view
        return None
    if not found.items:
        return None
    last = found.to.sequence
    starts = [parse_rfc3339(each.time) or 0 for each in found.items]
    most = max(each.events for each in found.items)
    width = WIDTH / len(found.items)
    bars = [
        Bar(
            round(index * width, 2),
            round(max(1.0, width - 1), 2),
            round(max(_LEAST_HEIGHT, HEIGHT * (each.events / most) ** 0.5), 2) if each.events else 0.0,
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
