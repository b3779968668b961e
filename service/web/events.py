"""The events of the log: a page of them to read, and the live tail after it."""

from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from jobledger.service.api.operation import Availability
from jobledger.service.api.query import Query
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response, Stream
from jobledger.service.cursor import parse_cursor
from jobledger.service.errors import CursorGone, Forbidden
from jobledger.service.limits import UI_EVENTS_ROWS
from jobledger.service.web.calls import call
from jobledger.service.web.feed import session_feed
from jobledger.service.web.site import page, render, words_of
from jobledger.service.web.texts import whole_number
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.events import EVENT_TYPES, event_type
from jobledger.store.model.job import StateType
from jobledger.store.timestamps import parse_rfc3339

_PAGE: Final = 100  # sequences of the log that a page covers
TYPES: Final = {event_type(each).split(".")[2]: event_type(each) for each in EVENT_TYPES}
"""The types by their short names."""


class EventsState(NamedTuple):
    """What the URL of the page says; `after` is empty for the newest events."""

    job: str = ""
    namespace: str = ""
    types: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    labels: str = ""
    after: str = ""

    def selection(self) -> list[tuple[str, str]]:
        """The filters, as parameters of the API, of the feed and of this page."""
        pairs = [("job", self.job), ("namespace", self.namespace), ("labels", self.labels)]
        pairs += [("type", each) for each in self.types] + [("state", each) for each in self.states]
        return [(name, value) for name, value in pairs if value]

    def url(self, after: str = "") -> str:
        """The page with these filters, from another point."""
        query = [*self.selection(), *([("after", after)] if after else [])]
        return f"{paths.UI_EVENTS}?{urlencode(query)}" if query else paths.UI_EVENTS


class Row(NamedTuple):
    """An event of the table; `text` is the CloudEvent as it is."""

    event: dict[str, Any]
    sequence: int
    time_ns: int
    kind: str
    state: str
    text: str


class _Page(msgspec.Struct, rename="pascal"):
    items: list[msgspec.Raw]
    cursor: str
    sequence: int


@page("GET", paths.UI_EVENTS, "uiEvents", nav="Events")
async def show_events(request: Request[Any]) -> Response:
    """The events after a point, newest first; scripts add those that follow."""
    state, problem, status = read_state(request.query), "", 200
    end = request.service.projector.sequence
    found = _Page([], "", end)
    try:
        found = await _after(request, state, end)
    except (InvalidInput, Forbidden, JobNotFound, CursorGone) as error:  # shown next to the filters
        problem, status = words_of(error), 400
    rows = [_row(each) for each in reversed(found.items)]
    return render(
        request,
        "events.html",
        status=status,
        state=state,
        rows=rows,
        found=found,
        end=end,
        problem=problem,
        types=TYPES,
        all_states=[str(each) for each in StateType],
        namespaces=sorted(request.principal.visible or ()),
        older=_older(state, end),
        feed_url=f"{paths.UI_EVENTS_FEED}?{urlencode([*state.selection(), ('after', found.cursor)])}",
        api_url=f"{paths.EVENTS_PAGE}?{urlencode([*state.selection(), ('after', state.after)])}",
        most_rows=UI_EVENTS_ROWS,
    )


@page("GET", paths.UI_EVENTS_FEED, "uiEventsFeed", availability=Availability.FEED)
async def follow_events(request: Request[Any]) -> Stream:
    """Follow the events that the query selects, each as the API delivers it."""
    return await session_feed(request)


def read_state(query: Query) -> EventsState:
    """What the URL of a request says."""
    return EventsState(
        query.text("job").strip(),
        query.text("namespace").strip(),
        tuple(each for each in query.texts("type") if each in TYPES),
        tuple(query.texts("state")),
        query.text("labels").strip(),
        query.text("after").strip(),
    )


def window(state: EventsState) -> int:
    """How many sequences a page covers: more if most of them are not shown."""
    return UI_EVENTS_ROWS if state.selection() else _PAGE


async def _after(request: Request[Any], state: EventsState, end: int) -> _Page:
    after = state.after or str(max(0, end - window(state)))
    if state.after and parse_cursor(after, request.service.stream_tag) > end:
        raise InvalidInput(f"sequence {after} is beyond the end of the log (last sequence: {end})")
    query = [*state.selection(), ("after", after), ("limit", str(window(state)))]
    return await call(request, "listEvents", query, answer=_Page)


def _row(raw: msgspec.Raw) -> Row:
    text = bytes(raw).decode("utf-8", "replace")
    event: dict[str, Any] = msgspec.json.decode(raw)
    state = event["data"].get("State", {}).get("StateType", "")
    time_ns = parse_rfc3339(event["streamtime"]) or 0
    return Row(event, int(event["sequence"]), time_ns, event["type"].split(".")[2], state, text)


def _older(state: EventsState, end: int) -> str:
    """The page before this one; empty at the beginning of the log."""
    after = whole_number(state.after.rpartition("-")[2])
    first = end - window(state) if after is None else after
    return state.url(str(max(0, first - window(state)))) if first > 0 else ""
