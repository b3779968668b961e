"""The stream of signals for live pages: which jobs changed, not how. The page fetches what it shows again."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from jobledger.service.api.events import Feed, feed_filter
from jobledger.service.api.operation import Availability
from jobledger.service.api.request import Request
from jobledger.service.api.response import Stream
from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.service.feed.events import Chunk
from jobledger.service.web.site import page
from jobledger.service.wire import paths

_encode: Final = msgspec.json.Encoder().encode


@page("GET", paths.UI_FEED, "uiFeed", availability=Availability.FEED)
async def follow_signals(request: Request[Any]) -> Stream:
    """Follow the jobs that the query selects."""
    return await session_feed(request, signals_text)


async def session_feed(
    request: Request[Any], text_of: Callable[[Chunk, str, str], bytes] = Chunk.text
) -> Stream:
    """The events that the query selects, as the API's feed has them; it ends with the session."""
    service, principal, session = request.service, request.principal, request.session
    request.exact_ids = True
    text = request.header(b"last-event-id") or request.query.text("after")
    after = parse_cursor(text, service.stream_tag) if text else None

    def is_valid() -> bool:
        if session:
            return service.sessions.is_valid(session, principal)
        return service.tokens.is_valid(principal)

    return Feed(service, principal, await feed_filter(request), after, text_of=text_of, is_valid=is_valid)


def signals_text(events: Chunk, tag: str, source: str) -> bytes:  # noqa: ARG001 - as for events
    """The jobs of some events as one message; its id is the cursor of the last of them."""
    jobs = list(dict.fromkeys(event.status.id for event in events))
    last = events[-1].sequence
    data = _encode({"sequence": last, "jobs": jobs})
    return b"id: %b\nevent: signal\ndata: %b\n\n" % (format_cursor(tag, last).encode(), data)
