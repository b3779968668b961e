"""The live feed as an endless iterator: it finds its way back by itself and always knows where it is."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import msgspec

from jobledger.service.client.interruptions import PASSING, Interruptions
from jobledger.service.client.lean import httpx
from jobledger.service.client.transport import Transport
from jobledger.service.cursor import read_sequence
from jobledger.service.errors import CursorGone, RemoteError, Unauthorized
from jobledger.service.limits import CLIENT_FEED_SILENCE_SECONDS

_EVENTS: Final = "/api/v1/events"
_CLOSE: Final = "close"
_REVOKED: Final = "the token is no longer valid"  # the reason of such a close; a test compares
_HEARTBEAT: Final = re.compile(r"(?:^|\n): heartbeat ([0-9a-f]+-\d+)(?=\r?\n)")


class FeedEvent(msgspec.Struct, frozen=True):
    """One event of the feed.

    Attributes:
        cursor: where to go on from after it.
        wire: the CloudEvent with `sequence`, `version`, `revision` and `streamtime`.
        text: the same as JSON, as the service sent it.
    """

    cursor: str
    wire: dict[str, Any]
    text: str = ""

    @property
    def sequence(self) -> int:
        """Its position in the stream.

        Raises:
            RemoteError: if the service names none.
        """
        sequence = read_sequence(self.wire.get("sequence"))
        if sequence is None:
            raise RemoteError(f"the feed holds an event without a sequence (after {self.cursor})")
        return sequence


class Feed:
    """Events as they come, across lost connections.

    Attributes:
        cursor: the position from which it goes on; empty: now.
        is_accepted: whether the service took that position.

    Args:
        transport: to the service.
        query: the filters of the feed.
        after: the cursor to begin behind; "0" for the beginning, "" for now.
        tell: takes a line about what goes on (lost, reconnecting).
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        transport: Transport,
        query: Mapping[str, Any],
        *,
        after: str = "",
        tell: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cursor = after
        self.is_accepted = False
        self._transport = transport
        self._query = query
        self._tell = tell
        self._sleep = sleep
        self._interruptions = Interruptions(transport)
        self._until: int | None = None

    def events(self, *, until: int | None = None) -> Iterator[FeedEvent]:
        """Every event after the cursor, in order; each once.

        Args:
            until: the last sequence that is wanted: it ends once the service has told all up to there. None:
                it ends only by an error or by its caller.

        Raises:
            CursorGone: the cursor is of another stream, or of a part that is gone.
            Unauthorized: the token was revoked.
            JobledgerError: the feed is refused, never answered, or was out of reach too often in a row.
        """
        self._until = until
        while not self._has_told_all():
            try:
                yield from self._connection()
                why, wait = "the service closed the feed", self._interruptions.wait_seconds()
            except CursorGone:
                self.is_accepted = False
                raise
            except PASSING as error:
                why = str(error)
                wait = self._interruptions.wait_seconds(error)
            if self._has_told_all():
                return
            where = f"after {self.cursor}" if self.cursor else "from now"
            self._tell(f"{why}; going on {where} in {wait:g} s")
            self._sleep(wait)

    def _connection(self) -> Iterator[FeedEvent]:
        from httpx_sse import EventSource, SSEError  # only who follows needs it

        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        query = {**self._query, "after": self.cursor}
        with self._transport.opened(
            "GET", _EVENTS, query=query, headers=headers, timeout_seconds=CLIENT_FEED_SILENCE_SECONDS
        ) as response:
            self.is_accepted = True
            # It asks for the headers and the text only.
            source = EventSource(cast("httpx.Response", _Overheard(response, self._heard)))
            try:
                for event in source.iter_sse():
                    if not event.data:  # an id alone, or the end of a comment
                        continue
                    is_wanted = self._until is None or _sequence(event.id) <= self._until
                    self._heard(event.id)
                    if not is_wanted:
                        return
                    if event.event == _CLOSE:
                        if _decode(event.data).get("reason") == _REVOKED:
                            raise Unauthorized("the token was revoked, so the service closed the feed")
                        return
                    yield FeedEvent(self.cursor, _decode(event.data), event.data)
            except SSEError as error:
                raise RemoteError(f"{self._transport.url} does not answer with a feed: {error}") from None

    def _heard(self, cursor: str) -> bool:
        """The feed is alive, and is there; returns whether there is more to hear.

        A heartbeat may be heard after the events that came with it.
        """
        if self._until is not None and _sequence(cursor) > self._until:
            cursor = f"{cursor.rpartition('-')[0]}-{self._until}"  # what comes behind was not handed over
        if _sequence(cursor) > _sequence(self.cursor):
            self.cursor = cursor
        self._interruptions.over()
        return not self._has_told_all()

    def _has_told_all(self) -> bool:
        return self._until is not None and _sequence(self.cursor) >= self._until


class _Overheard:
    """A response whose heartbeats are heard, which a decoder of events drops as comments.

    Without them a feed that began at "now" would not know from where to go on before its first event.
    """

    def __init__(self, response: httpx.Response, hear: Callable[[str], bool]) -> None:
        self.headers = response.headers
        self._response = response
        self._hear = hear

    def iter_text(self) -> Iterator[str]:
        """The text as it comes. A heartbeat is heard if it comes in one piece, which is how it is sent."""
        for text in self._response.iter_text():
            yield text
            # Afterwards: the events before it in this piece have been handed over.
            if not all(self._hear(beat[1]) for beat in _HEARTBEAT.finditer(text)):
                return


def _sequence(cursor: str) -> int:
    """The position that a cursor names; -1 for none."""
    digits = cursor.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def _decode(data: str) -> dict[str, Any]:
    try:
        wire = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise RemoteError(f"the feed holds an event that is not JSON: {error}") from None
    if not isinstance(wire, dict):
        raise RemoteError("the feed holds an event that is no object")
    return wire
