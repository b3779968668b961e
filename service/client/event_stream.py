"""The live feed as an endless iterator, which reconnects and keeps its position."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from jobledger.service.client.transport import TRANSIENT, Retries, Transport
from jobledger.service.cursor import read_sequence
from jobledger.service.errors import CursorGone, RemoteError, Unauthorized
from jobledger.service.limits import CLIENT_FEED_SILENCE_SECONDS
from jobledger.service.wire import paths

if TYPE_CHECKING:
    import httpx

_CLOSE: Final = "close"
_REVOKED: Final = "the token is no longer valid"  # the reason in the close event; a test compares
_HEARTBEAT: Final = re.compile(r"(?:^|\n): heartbeat ([0-9a-f]+-\d+)(?=\r?\n)")


class FeedEvent(msgspec.Struct, frozen=True):
    """One event of the feed.

    Attributes:
        cursor: the position to resume from after it.
        wire: the CloudEvent with `sequence`, `version`, `revision` and `streamtime`.
        text: the same as JSON, as received.
    """

    cursor: str
    wire: dict[str, Any]
    text: str = ""

    @property
    def sequence(self) -> int:
        """The position in the stream.

        Raises:
            RemoteError: the event has none.
        """
        sequence = read_sequence(self.wire.get("sequence"))
        if sequence is None:
            raise RemoteError(f"the feed contains an event without a sequence (after {self.cursor})")
        return sequence


class EventStream:
    """The events of the feed, across lost connections.

    Attributes:
        cursor: the position to resume from; empty: now.
        is_accepted: whether the service accepted that position.

    Args:
        transport: to the service.
        query: the filters of the feed.
        after: the cursor to start after; "0" for the beginning, "" for now.
        report: receives a line when the connection is lost and retried.
        sleep: waits this many seconds.
    """

    def __init__(
        self,
        transport: Transport,
        query: Mapping[str, Any],
        *,
        after: str = "",
        report: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cursor = after
        self.is_accepted = False
        self._transport = transport
        self._query = query
        self._report = report
        self._sleep = sleep
        self._retries = Retries(transport)
        self._until: int | None = None

    def events(self, *, until: int | None = None) -> Iterator[FeedEvent]:
        """Every event after the cursor, in order, each once.

        Args:
            until: end after the last event up to this sequence; None: endless.

        Raises:
            CursorGone: the cursor is of another stream, or of a part that was removed.
            Unauthorized: the token was revoked.
            JobledgerError: the feed was refused, never responded, or failed too often in a row.
        """
        self._until = until
        while not self._is_complete():
            try:
                yield from self._connection()
                why, wait = "the service closed the feed", self._retries.wait_seconds()
            except CursorGone:
                self.is_accepted = False
                raise
            except TRANSIENT as error:
                why = str(error)
                wait = self._retries.wait_seconds(error)
            if self._is_complete():
                return
            where = f"after {self.cursor}" if self.cursor else "from now"
            self._report(f"{why}; resuming {where} in {wait:.2g} s")
            self._sleep(wait)

    def _connection(self) -> Iterator[FeedEvent]:
        from httpx_sse import EventSource, SSEError  # only needed here

        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        query = {**self._query, "after": self.cursor}
        with self._transport.stream(
            "GET", paths.EVENTS, query=query, headers=headers, timeout_seconds=CLIENT_FEED_SILENCE_SECONDS
        ) as response:
            self.is_accepted = True
            # EventSource uses the headers and the text only.
            source = EventSource(cast("httpx.Response", _HeartbeatReader(response, self._advance)))
            try:
                for event in source.iter_sse():
                    if not event.data:  # an id alone, or the end of a comment
                        continue
                    is_within = self._until is None or _sequence(event.id) <= self._until
                    self._advance(event.id)
                    if not is_within:
                        return
                    if event.event == _CLOSE:
                        if _decode(event.data).get("reason") == _REVOKED:
                            raise Unauthorized("the token was revoked, so the service closed the feed")
                        return
                    yield FeedEvent(self.cursor, _decode(event.data), event.data)
            except SSEError as error:
                raise RemoteError(f"{self._transport.url} does not respond with a feed: {error}") from None

    def _advance(self, cursor: str) -> bool:
        """Move the cursor; returns whether more events are expected.

        A heartbeat may be processed after the events that arrived with it.
        """
        if self._until is not None and _sequence(cursor) > self._until:
            cursor = f"{cursor.rpartition('-')[0]}-{self._until}"  # later events were not yielded
        if _sequence(cursor) > _sequence(self.cursor):
            self.cursor = cursor
        self._retries.reset()
        return not self._is_complete()

    def _is_complete(self) -> bool:
        return self._until is not None and _sequence(self.cursor) >= self._until


class _HeartbeatReader:
    """Reads the heartbeats of a response, which the event decoder drops as comments.

    Without them, a feed that started at "now" would have no position to resume from before its first event.
    """

    def __init__(self, response: "httpx.Response", on_heartbeat: Callable[[str], bool]) -> None:
        self.headers = response.headers
        self._response = response
        self._on_heartbeat = on_heartbeat

    def iter_text(self) -> Iterator[str]:
        """The text in pieces. A heartbeat is recognized within one piece, as it is sent."""
        for text in self._response.iter_text():
            yield text
            # After the yield: the events before it in this piece were processed.
            if not all(self._on_heartbeat(beat[1]) for beat in _HEARTBEAT.finditer(text)):
                return


def _sequence(cursor: str) -> int:
    """The sequence in a cursor; -1 if it has none."""
    digits = cursor.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def _decode(data: str) -> dict[str, Any]:
    try:
        wire = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise RemoteError(f"the feed contains an event that is not JSON: {error}") from None
    if not isinstance(wire, dict):
        raise RemoteError("the feed contains an event that is not an object")
    return wire
