"""Telling again through a service, where the log itself is out of reach: its live feed, from a point on.

A feed begins behind a sequence. The one that a time comes to is found by looking at single events: their
times rise with their sequences, so each look halves what is left.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from jobledger.service.client.errors import nanoseconds_of
from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.service.errors import CursorGone
from jobledger.service.export.background_thread import BackgroundThread
from jobledger.service.export.query import Asked, Chunk, Range
from jobledger.service.limits import REPLAY_FEED_CHUNK_EVENTS
from jobledger.service.point import RevisionPoint, SequencePoint, TimePoint, parse_point
from jobledger.store.model.errors import InvalidInput

if TYPE_CHECKING:
    from jobledger.service.client.client import Client
    from jobledger.service.client.feed import FeedEvent


class FeedReplay:
    """One telling; made by `ask`.

    Attributes:
        range: where it begins and ends.
    """

    def __init__(self, client: "Client", asked: Asked, range_: Range, tell: Callable[[str], None]) -> None:
        self.range = range_
        self._client = client
        self._asked = asked
        self._tell = tell

    @classmethod
    def ask(cls, client: "Client", asked: Asked, *, now: int, tell: Callable[[str], None]) -> "FeedReplay":
        """Find out where it begins and ends; the end is that of the service's view as it is now, or sooner.

        Args:
            client: of the service.
            asked: which events; types by their full names, and one namespace, `*` or none.
            now: Unix nanoseconds, what ages count back from.
            tell: takes a line about what goes on (lost, reconnecting).

        Raises:
            InvalidInput: a point is none, or is not in the log yet.
            CursorGone: a position is of another stream, or beyond the end.
            JobledgerError: what the service says.
        """
        cursor = str(client.jobs({"limit": 1, "namespace": "*"}).wire.get("Cursor", ""))
        mark, _, last = cursor.rpartition("-")
        whole = Range(mark, 0, int(last))
        found = cls(client, asked, whole, tell)
        after = parse_cursor(asked.after, mark) if asked.after else 0
        if after > whole.end:
            raise CursorGone(f"after {asked.after} is beyond the end of the log, which is at {whole.end}")
        if asked.since:
            after = max(after, found._sequence(asked.since, "since", now, included=False))
        end = whole.end
        if asked.until:
            end = min(end, found._sequence(asked.until, "until", now, included=True))
        found.range = Range(mark, after, end)
        return found

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The events, in the order of the log. They are waited for in a thread of their own.

        Raises:
            JobledgerError: the feed is refused, or was out of reach a named number of times in a row.
        """
        chunks = self._chunks()
        with BackgroundThread() as beside:
            while (chunk := await beside.do(lambda: next(chunks, None))) is not None:
                yield chunk

    def _chunks(self) -> Generator[Chunk, None, None]:
        asked, end = self._asked, self.range.end
        query = {"namespace": asked.namespace, "job": asked.job, "type": sorted(asked.types)}
        documents: list[bytes] = []
        if self.range.after < end:
            for event in self._events(query, self.range.after, end):
                if asked.passes(event.wire.get("type", ""), event.wire.get("actor", "")):
                    documents.append(event.text.encode())
                if len(documents) == REPLAY_FEED_CHUNK_EVENTS:
                    reached = event.sequence
                    yield Chunk(documents, reached, read=reached)
                    documents = []
        yield Chunk(documents, end, read=end)

    def _events(self, query: dict[str, Any], after: int, until: int) -> "Generator[FeedEvent, None, None]":
        feed = self._client.feed(query, after=format_cursor(self.range.mark, after), tell=self._tell)
        yield from feed.events(until=until)

    def _sequence(self, text: str, field: str, now: int, *, included: bool) -> int:
        """The last sequence up to a point, or before it."""
        match parse_point(text, now=now, mark=self.range.mark, field=field):
            case SequencePoint(sequence):
                if sequence > self.range.end:
                    raise InvalidInput(
                        f"{field} is the sequence {sequence}, and the service is at {self.range.end};"
                        " use one up to that"
                    )
                return sequence if included else max(0, sequence - 1)
            case TimePoint(time):
                return self._sequence_at(time if included else time - 1)
            case RevisionPoint():  # not parsed here
                raise InvalidInput(f"{field} is a revision")

    def _sequence_at(self, time: int) -> int:
        """The last sequence at a time or before it; of those between, that nobody may see here, any."""
        low, high = 0, self.range.end
        while low < high:
            middle = (low + high) // 2
            with closing(self._events({"namespace": "*"}, middle, high)) as events:
                event = next(events, None)
            if event is None or nanoseconds_of(str(event.wire.get("streamtime"))) > time:
                high = middle
            else:
                low = event.sequence
        return low
