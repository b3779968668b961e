"""The live feed: `GET /api/v1/events`, as Server-Sent Events.

The answer is written on the raw ASGI `send`, one call for all that has come since the last: a reader that
takes nothing holds up its own feed only, and it is noticed when a reader goes away.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from litestar import get
from litestar.types import ASGIApp, Receive, Scope, Send

from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.subscriptions.filters import EventFilter, parse_types
from jobledger.service.access.principal import Principal
from jobledger.service.api.context import AnyRequest, find_job, principal_of, query_of, service_of
from jobledger.service.api.params import ALL_NAMESPACES, Query, header
from jobledger.service.cursor import parse_cursor
from jobledger.service.feed.events import close_text, event_text, greeting_text, heartbeat_text
from jobledger.service.feed.hub import Cause, FeedConnection
from jobledger.service.wiring import Service

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect events before it sends them on
)


@get("/api/v1/events")
async def follow_events(request: AnyRequest) -> ASGIApp:
    """Events as they happen, from a place on."""
    service, principal, query = service_of(request), principal_of(request), query_of(request)
    feed_filter = await _filter(request, query, principal)
    text = header(request.scope["headers"], b"last-event-id") or query.text("after")
    after = parse_cursor(text, service.mark) if text else None
    return _Stream(service, principal, feed_filter, after)


class _Stream:
    """One feed as an answer.

    Args:
        service: whose events.
        principal: who reads.
        feed_filter: what it lets through.
        after: the sequence behind which it begins; None: from now.
    """

    def __init__(
        self, service: Service, principal: Principal, feed_filter: EventFilter, after: int | None
    ) -> None:
        self._service = service
        self._principal = principal
        self._filter = feed_filter
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until it ends; what is wrong with the request is raised before anything is sent."""
        service, principal = self._service, self._principal
        connection = await service.hub.open(
            self._filter,
            after=self._after,
            client=_client_of(principal, scope),
            is_valid=lambda: service.tokens.is_valid(principal),
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
                await _send(send, b"".join([event_text(event, hub.mark, hub.source) for event in events]))
                self._service.metrics.feed_sent(len(events))
            else:
                await _send(send, heartbeat_text(hub.cursor(connection)))
        if connection.cause is not Cause.GONE:
            await _send(send, close_text(connection.reason, hub.cursor(connection)), more=False)


@asynccontextmanager
async def ended_with(receive: Receive, connection: FeedConnection) -> AsyncIterator[None]:
    """End a feed when its client goes away.

    Args:
        receive: of the request, whose body was read.
        connection: the feed that is read within this block.
    """

    async def wait_for_the_end() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        connection.end(Cause.GONE, "the client is gone")

    watcher = asyncio.create_task(wait_for_the_end())
    try:
        yield
    finally:
        watcher.cancel()


@asynccontextmanager
async def _cut_off_if_stuck(connection: FeedConnection) -> AsyncIterator[None]:
    """Leave this block when the client takes nothing for too long; the server then ends the connection."""
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
            raise  # somebody else wants this task to end
    finally:
        connection.on_stuck = None


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _client_of(principal: Principal, scope: Scope) -> str:
    """Who holds a feed, for the limits: a token, or an address in a service without tokens."""
    client = scope.get("client")
    return principal.token_id or (client[0] if client else "")


async def _filter(request: AnyRequest, query: Query, principal: Principal) -> EventFilter:
    asked = query.text("namespace")
    namespaces = principal.visible
    if asked and asked != ALL_NAMESPACES:
        principal.require_read(asked)
        namespaces = frozenset((asked,))
    job: tuple[str, str] | None = None
    if query.text("job"):
        status = (await find_job(request, query.text("job"), "" if asked == ALL_NAMESPACES else asked)).status
        job, namespaces = (status.namespace, status.id), None
    return EventFilter(
        namespaces=namespaces,
        job=job,
        types=parse_types(query.texts("type")),
        states=query.states(),
        selector=tuple(
            requirement for text in query.repeated("labels") for requirement in parse_selector(text)
        ),
    )


HANDLERS: Final[tuple[Any, ...]] = (follow_events,)
