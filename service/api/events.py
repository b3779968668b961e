"""The live feed: `GET /api/v1/events`, as Server-Sent Events; and its events page by page.

Written with the raw ASGI `send`, one call for everything that is new: a slow reader delays only its own feed,
and a reader that disconnects is noticed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final

import msgspec

from jobledger.projections.subscriptions.filters import EventFilter, parse_types
from jobledger.service.access.principal import Principal
from jobledger.service.api.asgi import Receive, Scope, Send
from jobledger.service.api.capacity import queued
from jobledger.service.api.operation import Availability, OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import STATES, TEXT, TEXTS, WAIT, limit
from jobledger.service.api.query import ALL_NAMESPACES
from jobledger.service.api.request import Request
from jobledger.service.api.response import Stream
from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.service.errors import NotReady
from jobledger.service.feed.events import (
    Chunk,
    FeedEvent,
    close_text,
    event_text,
    greeting_text,
    heartbeat_text,
)
from jobledger.service.feed.hub import Cause, FeedConnection
from jobledger.service.limits import (
    EVENTS_DEFAULT_LIMIT,
    EVENTS_MAX_LIMIT,
    EVENTS_PAGE_BYTES,
    EVENTS_PAGE_READS,
    EVENTS_PAGE_SECONDS,
)
from jobledger.service.wire import paths, view as wire
from jobledger.service.wiring import Service
from jobledger.store.model.events import EVENT_TYPES, event_type

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # or nginx buffers events
)

_SELECTION: Final = (
    Parameter("namespace", TEXT, "only events of its jobs; absent or `*`: of all that the token may read"),
    Parameter(
        "job",
        TEXT,
        "only events of this job: its name in the namespace, id, or unique short id",
        errors=(404, 409),
    ),
    Parameter(
        "type",
        {
            "type": "array",
            "items": {"type": "string", "examples": [event_type(kind) for kind in EVENT_TYPES]},
        },
        "any of these types, also as `created`, `updated`, `state`, `tagged`, `accepted`; repeatable, or"
        " separated by commas",
    ),
    Parameter(
        "state",
        STATES,
        "only events that move the job into one of these states; tagging moves it nowhere",
    ),
    Parameter("labels", TEXTS, "a selector that the job matches before or after the event; repeatable"),
)

operations = OperationGroup("Live feed")


@operations.declare(
    "GET",
    paths.EVENTS,
    "events",
    Permission.READ,
    (
        *_SELECTION,
        Parameter("after", TEXT, "a cursor or a sequence; `0`: from the beginning; absent: from now on"),
        Parameter(
            "Last-Event-ID", TEXT, "as `after`, and overrides it; browsers send it automatically", "header"
        ),
        *WAIT,
    ),
    response="text/event-stream",
    availability=Availability.FEED,
)
async def follow_events(request: Request[None]) -> Stream:
    """Follow events as they happen.

    Server-Sent Events, for `EventSource` and everything else that reads lines. Each has `id:` (its cursor),
    `event:` (its type) and `data:` (the CloudEvent, with `name`, `sequence`, `revision`, `version`,
    `streamtime`, and `matches` if labels are given). A comment every 15 s keeps the connection alive, and one
    marks the end of the catch-up. Reconnect with the last `id` in `Last-Event-ID`, to any replica: no event
    is lost or repeated. Before the service ends a feed it sends `event: close` with the reason and the
    cursor.
    """
    selected = await feed_filter(request)
    text = request.header(b"last-event-id") or request.query.text("after")
    after = parse_cursor(text, request.service.stream_tag) if text else None
    return Feed(request.service, request.principal, selected, after)


@operations.declare(
    "GET",
    paths.EVENTS_PAGE,
    "listEvents",
    Permission.READ,
    (
        *_SELECTION,
        Parameter("after", TEXT, "a cursor or a sequence; default: from the beginning"),
        limit(EVENTS_DEFAULT_LIMIT, EVENTS_MAX_LIMIT, "events"),
        *WAIT,
    ),
    response=wire.EventPage,
    errors=(410,),
)
async def list_events(request: Request[None]) -> wire.EventPage:
    """List events, oldest first.

    The same events as the live feed, as one page. A page of rare events may have fewer than `limit`, or none,
    although more follow: continue with `after` set to its `Cursor` until that is the end of the log.
    """
    await request.await_position()
    hub, most = request.service.hub, request.query.limit(EVENTS_DEFAULT_LIMIT, EVENTS_MAX_LIMIT)
    selected, text = await feed_filter(request), request.query.text("after")
    after = parse_cursor(text, request.service.stream_tag) if text else 0
    found: list[FeedEvent] = []
    size, end = 0, hub.sequence
    async with (
        queued(request.service.scans),
        await hub.open(selected, after=after) as connection,
        ended_with(request.receive, connection),
    ):
        deadline = perf_counter() + EVENTS_PAGE_SECONDS
        for _ in range(EVENTS_PAGE_READS):
            if connection.sequence >= end or len(found) >= most or size >= EVENTS_PAGE_BYTES:
                break
            events = await connection.next_read()
            if events is None:
                raise NotReady(connection.reason)
            found += events
            size += sum(event.size_bytes for event in events)
            if perf_counter() >= deadline:
                break
        reached = found[most - 1].sequence if len(found) > most else connection.sequence
    items = [document_of(event, hub.stream_tag, hub.source) for event in found[:most]]
    return wire.EventPage(items, format_cursor(hub.stream_tag, reached), reached)  # type: ignore[arg-type]


def document_of(event: FeedEvent, tag: str, source: str) -> msgspec.Raw:
    """The CloudEvent in the text of an event, byte for byte."""
    return msgspec.Raw(event_text(event, tag, source).partition(b"\ndata: ")[2].removesuffix(b"\n\n"))


class Feed:
    """One feed as a response.

    Args:
        after: the sequence after which it begins; None: from now on.
        text_of: the text of events, which the client receives together.
        is_valid: whether the caller may still read; None: as long as the token is valid.
    """

    def __init__(
        self,
        service: Service,
        principal: Principal,
        feed_filter: EventFilter,
        after: int | None,
        *,
        text_of: Callable[[Chunk, str, str], bytes] = Chunk.text,
        is_valid: Callable[[], bool] | None = None,
    ) -> None:
        self._text_of = text_of
        self._is_valid = is_valid or (lambda: service.tokens.is_valid(principal))
        self._service = service
        self._principal = principal
        self._filter = feed_filter
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the feed ends. Errors of the request are raised before anything is sent."""
        service, principal = self._service, self._principal
        connection = await service.hub.open(
            self._filter,
            after=self._after,
            client=_client_of(principal, scope),
            is_valid=self._is_valid,
        )
        async with connection:
            service.metrics.feed_opened()
            try:
                async with ended_with(receive, connection), _cut_off_if_stuck(connection):
                    await self._write(connection, send)
            finally:
                service.metrics.feed_closed(connection.cause or Cause.GONE)

    async def _write(self, connection: FeedConnection, send: Send) -> None:
        hub = self._service.hub
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _send(send, greeting_text(hub.cursor(connection)))
        while (events := await connection.next()) is not None:
            if events:
                await _send(send, self._text_of(events, hub.stream_tag, hub.source))
                self._service.metrics.feed_sent(len(events))
            else:
                await _send(send, heartbeat_text(hub.cursor(connection)))
        if connection.cause is not Cause.GONE:
            await _send(send, close_text(connection.reason, hub.cursor(connection)), more=False)


@asynccontextmanager
async def ended_with(receive: Receive, connection: FeedConnection) -> AsyncIterator[None]:
    """End the feed that is read within this block when its client disconnects."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        connection.end(Cause.GONE, "the client is gone")

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


@asynccontextmanager
async def _cut_off_if_stuck(connection: FeedConnection) -> AsyncIterator[None]:
    """Leave this block when the client reads nothing for too long; the server then closes the connection."""
    task = asyncio.current_task()
    assert task is not None
    stuck = False

    def cancel() -> None:
        nonlocal stuck
        if not stuck:
            stuck = True
            task.cancel()

    connection.on_stuck = cancel
    try:
        yield
    except asyncio.CancelledError:
        if not stuck or task.uncancel():
            raise  # cancelled by someone else
    finally:
        connection.on_stuck = None


def _send(send: Send, body: bytes, *, more: bool = True) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": body, "more_body": more})


def _client_of(principal: Principal, scope: Scope) -> str:
    """The owner of a feed, for its limits: a token, or an address if the service has no tokens."""
    client = scope.get("client")
    return principal.token_id or (client[0] if client else "")


async def feed_filter(request: Request[Any]) -> EventFilter:
    """The events that the query of a request selects, of those that the caller may read."""
    query, namespace, namespaces = request.query, request.query.text("namespace"), request.principal.visible
    if namespace and namespace != ALL_NAMESPACES:
        request.require(namespace)
        namespaces = frozenset((namespace,))
    job: tuple[str, str] | None = None
    if query.text("job"):
        where = "" if namespace == ALL_NAMESPACES else namespace
        status = (await request.find_job(query.text("job"), where)).status
        job, namespaces = (status.namespace, status.id), None
    return EventFilter(
        namespaces=namespaces,
        job=job,
        types=parse_types(query.texts("type")),
        states=query.states(),
        selector=query.selector(),
    )
