"""One event of a feed, and the text that Server-Sent Events make of everything that a feed says. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

import msgspec

from jobledger.projections.batch import Folded
from jobledger.projections.subscriptions.filters import Match
from jobledger.service.cursor import format_cursor, format_sequence
from jobledger.store.model.events import event_type
from jobledger.store.model.job import JobStatus
from jobledger.store.timestamps import format_rfc3339

_EXTRA_BYTES: Final = 1_000  # what an event takes beside its payload, about
_RECONNECT_MILLISECONDS: Final = 1_000

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Placed(msgspec.Struct, gc=False):
    """What a delivered event has besides what its writer put there."""

    name: str
    sequence: str
    revision: int
    version: int
    streamtime: str
    matches: Match | msgspec.UnsetType = msgspec.UNSET


_PLACED: Final = _Placed.__struct_fields__


class FeedEvent(msgspec.Struct):
    """An event, with what the job became by it.

    Attributes:
        sequence: its position in the stream.
        type: its CloudEvents type.
        status: of the job after it.
        time: the stream's, Unix nanoseconds.
        payload: the CloudEvent's bytes; empty once the event was written as text.
        size_bytes: what it takes in memory, about.
        text: the event as it is sent, made when the first reader needs it.
        matches: when the job met the labels that the feed asks for; None if it asks for none.
    """

    sequence: int
    type: str
    status: JobStatus
    time: int
    payload: bytes
    size_bytes: int
    text: bytes = b""
    matches: Match | None = None

    @property
    def is_creation(self) -> bool:
        """Whether it created the job."""
        return self.sequence == self.status.created_sequence

    @property
    def is_update(self) -> bool:
        """Whether it gave the job another spec."""
        return self.sequence == self.status.spec_sequence and not self.is_creation


def feed_event(folded: Folded) -> FeedEvent:
    """What the projector folded, as feeds keep it."""
    record = folded.record
    size_bytes = _EXTRA_BYTES + len(record.payload)
    return FeedEvent(
        record.sequence, event_type(folded.event), folded.status, record.time, record.payload, size_bytes
    )


def event_text(event: FeedEvent, mark: str, source: str) -> bytes:
    """The event as it is sent; made once, but for `matches`, which differs from feed to feed.

    Args:
        event: with its payload.
        mark: of the stream, for the cursor.
        source: what the CloudEvent names as its source.
    """
    if not event.text:
        event.text = b"id: %b\nevent: %b\ndata: %b\n\n" % (
            format_cursor(mark, event.sequence).encode(),
            event.type.encode(),
            placed_event(event.payload, event.sequence, event.time, event.status, source=source),
        )
        event.payload = b""
    if event.matches is None:
        return event.text
    return b'%b,"matches":"%b"}\n\n' % (event.text.removesuffix(b"}\n\n"), event.matches.encode())


def placed_event(
    payload: bytes, sequence: int, time: int, status: JobStatus, *, source: str, matches: Match | None = None
) -> bytes:
    """A CloudEvent as it is delivered, on one line: with the job's name and the event's place, as extensions.

    What the stream and the fold know replaces what the writer may have put there; no key comes twice.

    Args:
        payload: the event as its writer put it.
        sequence: its position.
        time: the stream's, Unix nanoseconds.
        status: of the job after it.
        source: the CloudEvents source of this installation.
        matches: when the job met the labels that are asked for; None: none are, and nothing is said.
    """
    fields = _decode(_one_line(payload))
    for key in _PLACED:
        fields.pop(key, None)
    fields["source"] = msgspec.Raw(_encode(source))
    placed = _encode(
        _Placed(
            status.name,
            format_sequence(sequence),
            status.revision,
            status.version,
            format_rfc3339(time),
            matches if matches is not None else msgspec.UNSET,
        )
    )
    return b"%b,%b" % (_encode(fields)[:-1], placed[1:])


def greeting_text(cursor: str) -> bytes:
    """What a feed begins with: how soon to come back when it breaks, and the first heartbeat."""
    return b"retry: %d\n%b" % (_RECONNECT_MILLISECONDS, heartbeat_text(cursor))


def heartbeat_text(cursor: str) -> bytes:
    """A comment that keeps the connection alive, and moves on the place of a reader whom nothing concerns.

    An `id` without data is no event: a browser's EventSource takes it as its last event ID and tells nobody.
    """
    return b": heartbeat %b\nid: %b\n\n" % (cursor.encode(), cursor.encode())


def close_text(reason: str, cursor: str) -> bytes:
    """The last thing that a feed says."""
    data = _encode({"reason": reason, "cursor": cursor})
    return b"id: %b\nevent: close\ndata: %b\n\n" % (cursor.encode(), data)


def _one_line(payload: bytes) -> bytes:
    """The payload's JSON object, ending in its brace; other writers may have laid it out in lines."""
    if not payload.isascii():
        payload = payload.decode("utf-8", "replace").encode()
    if b"\n" in payload or b"\r" in payload or payload[-1:] != b"}":
        return msgspec.json.format(payload, indent=-1)
    return payload


_SLACK: Final = 8  # the oldest are let go in portions of an eighth: removing them one by one is slow

_sequence: Final = attrgetter("sequence")


class Ring:
    """Events in order, bounded in number and in bytes; it always has all after `after`.

    Args:
        max_events: kept at most.
        max_bytes: of memory, about.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[FeedEvent] = []
        self._bytes = 0
        self.after = 0  # the last sequence that is not in here

    def restart(self, after: int) -> None:
        """Begin anew behind a sequence."""
        self._events, self._bytes, self.after = [], 0, after

    def extend(self, events: Iterable[FeedEvent]) -> None:
        """Take in the next events, and let go of the oldest if there are too many."""
        for event in events:
            self._events.append(event)
            self._bytes += event.size_bytes
        if len(self._events) <= self._max_events and self._bytes <= self._max_bytes:
            return
        count = max(0, len(self._events) - self._max_events + self._max_events // _SLACK)
        surplus = self._bytes - self._max_bytes
        freed = 0
        for index, event in enumerate(self._events):
            if index >= count and freed >= surplus:
                count = index
                break
            freed += event.size_bytes
        else:
            count = len(self._events)
        self.after = self._events[count - 1].sequence
        del self._events[:count]
        self._bytes -= freed

    def since(self, sequence: int) -> Iterator[FeedEvent]:
        """The events behind a sequence, oldest first; to be taken before anything else is awaited."""
        events = self._events
        for index in range(bisect_right(events, sequence, key=_sequence), len(events)):
            yield events[index]

    def __len__(self) -> int:
        return len(self._events)
