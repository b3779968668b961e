"""Events of the feed, their Server-Sent Events text, and the ring of the last events. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final, Self

import msgspec

from jobledger.projections.batch import Folded, NumberedEvent
from jobledger.projections.subscriptions.filters import Match
from jobledger.service.cursor import format_cursor, format_sequence
from jobledger.store.model.events import SOURCE, SpecData, event_type
from jobledger.store.model.job import JobStatus
from jobledger.store.timestamps import format_rfc3339

_EXTRA_BYTES: Final = 1_000  # approximate memory of an event without its payload
_RECONNECT_MILLISECONDS: Final = 1_000

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Extensions(msgspec.Struct, gc=False):
    """The extension attributes that are added to a delivered event."""

    name: str
    sequence: str
    revision: int
    version: int
    streamtime: str
    matches: Match | msgspec.UnsetType = msgspec.UNSET


_SOURCE_FIELD: Final = b'"source":' + _encode(SOURCE)
_EXTENSION_NAMES: Final = _Extensions.__struct_fields__


class _Delivered(msgspec.Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A delivered event: the fields that an event of this release has, as they are, then the extensions.

    Twice as fast to decode and encode as the fields of any event.
    """

    type: msgspec.Raw
    specversion: msgspec.Raw
    id: msgspec.Raw
    source: msgspec.Raw
    subject: msgspec.Raw
    time: msgspec.Raw
    datacontenttype: msgspec.Raw
    namespace: msgspec.Raw
    actor: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    reason: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    traceparent: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    previous: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw
    name: str = ""
    sequence: str = ""
    revision: int = 0
    version: int = 0
    streamtime: str = ""
    matches: Match | msgspec.UnsetType = msgspec.UNSET


_decode_delivered: Final = msgspec.json.Decoder(_Delivered).decode


class FeedEvent(msgspec.Struct):
    """An event with the job's status after it.

    Attributes:
        sequence: its position in the stream.
        type: CloudEvents type.
        status: of the job after the event.
        time: stream time, Unix nanoseconds.
        payload: the CloudEvent; empty after encoding to `text`.
        size_bytes: approximate memory.
        text: the encoded event, created when the first connection needs it.
        matches: whether the job matches the selector before or after the event; None without a selector.
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
        """Whether the event created the job."""
        return self.sequence == self.status.created_sequence

    @property
    def is_update(self) -> bool:
        """Whether the event changed the job's spec."""
        return self.sequence == self.status.spec_sequence and not self.is_creation


def feed_event(folded: Folded) -> FeedEvent:
    """Convert an event from the projector."""
    record = folded.record
    size_bytes = _EXTRA_BYTES + len(record.payload)
    return FeedEvent(
        record.sequence, event_type(folded.event), folded.status, record.time, record.payload, size_bytes
    )


def event_text(event: FeedEvent, tag: str, source: str) -> bytes:
    """The encoded event; cached in the event except for `matches`, which differs between connections."""
    if not event.text:
        event.text = b"id: %b\nevent: %b\ndata: %b\n\n" % (
            format_cursor(tag, event.sequence).encode(),
            event.type.encode(),
            deliverable_event(event.payload, event.sequence, event.time, event.status, source=source),
        )
        event.payload = b""
    if event.matches is None:
        return event.text
    return b'%b,"matches":"%b"}\n\n' % (event.text.removesuffix(b"}\n\n"), event.matches.encode())


def deliverable_line(numbered: NumberedEvent, *, source: str) -> bytes:
    """`deliverable_event` of an event that is decoded already.

    A payload that equals the encoded event (`is_exact`) has the fields of this release, in their order. Then
    the values are inserted in its bytes: a quote within a JSON string is escaped, so the first match of a key
    with its quotes is the key.
    """
    record, event, name = numbered.record, numbered.event, numbered.name
    revision, version = numbered.revision, numbered.version
    payload, sequence, time = record.payload, record.sequence, record.time
    if (
        not numbered.is_exact
        or event.source != SOURCE
        # A spec is not decoded, so `_one_line` may change it.
        or (
            isinstance(event.data, SpecData)
            and (not payload.isascii() or b"\n" in payload or b"\r" in payload)
        )
    ):
        added = _Extensions(name, format_sequence(sequence), revision, version, format_rfc3339(time))
        return _delivered(payload, added, source)
    kept = payload[:-1].replace(_SOURCE_FIELD, b'"source":' + _encode(source), 1)
    if event.name:
        kept = kept.replace(b',"name":%b,"data":' % _encode(event.name), b',"data":', 1)
    return b'%b,"name":%b,"sequence":"%020d","revision":%d,"version":%d,"streamtime":"%b"}' % (
        kept,
        _encode(name),
        sequence,
        revision,
        version,
        format_rfc3339(time).encode(),
    )


class Chunk(tuple[FeedEvent, ...]):  # noqa: SLOT001 - a tuple's subclass cannot have slots
    """Events that are sent together; shared by all connections that send the same.

    Attributes:
        reached: the sequence up to which it has all matching events.
    """

    reached: int
    _text: bytes

    def __new__(cls, events: Iterable[FeedEvent] = (), reached: int = 0) -> Self:
        """Create one; without events it is `NOTHING`, except for what it reached."""
        self = super().__new__(cls, events)
        self.reached, self._text = reached, b""
        return self

    def text(self, tag: str, source: str) -> bytes:
        """The encoded events, joined once."""
        if not self._text:
            self._text = b"".join([event_text(event, tag, source) for event in self])
        return self._text


NOTHING: Final = Chunk()


def deliverable_event(
    payload: bytes, sequence: int, time: int, status: JobStatus, *, source: str, matches: Match | None = None
) -> bytes:
    """A CloudEvent as delivered, on one line, with the job's name and the event's position as extensions.

    Values from the stream and the fold replace those of the writer, so no key occurs twice.
    """
    added = _Extensions(
        status.name,
        format_sequence(sequence),
        status.revision,
        status.version,
        format_rfc3339(time),
        matches if matches is not None else msgspec.UNSET,
    )
    return _delivered(payload, added, source)


def _delivered(payload: bytes, added: _Extensions, source: str) -> bytes:
    line = _one_line(payload)
    try:
        event = _decode_delivered(line)
    except msgspec.DecodeError:  # it has other fields: a writer in another language, or another release
        return _extended_foreign(line, source, added)
    event.source = msgspec.Raw(_encode(source))
    event.name = added.name
    event.sequence = added.sequence
    event.revision = added.revision
    event.version = added.version
    event.streamtime = added.streamtime
    event.matches = added.matches
    return _encode(event)


def _extended_foreign(line: bytes, source: str, added: _Extensions) -> bytes:
    """`deliverable_event` for a JSON object with any fields."""
    fields = _decode(line)
    for key in _EXTENSION_NAMES:
        fields.pop(key, None)
    fields["source"] = msgspec.Raw(_encode(source))
    return b"%b,%b" % (_encode(fields)[:-1], _encode(added)[1:])


def greeting_text(cursor: str) -> bytes:
    """The start of a stream: the reconnection delay and the first heartbeat."""
    return b"retry: %d\n%b" % (_RECONNECT_MILLISECONDS, heartbeat_text(cursor))


def heartbeat_text(cursor: str) -> bytes:
    """A comment that keeps the connection alive, and an `id` that advances the reader's position.

    An `id` without data sets the last event ID of a browser's EventSource and dispatches no event.
    """
    return b": heartbeat %b\nid: %b\n\n" % (cursor.encode(), cursor.encode())


def close_text(reason: str, cursor: str) -> bytes:
    """The last event of a stream."""
    data = _encode({"reason": reason, "cursor": cursor})
    return b"id: %b\nevent: close\ndata: %b\n\n" % (cursor.encode(), data)


def _one_line(payload: bytes) -> bytes:
    """The payload as one line that ends with a brace; other writers may have formatted it."""
    if not payload.isascii():
        payload = payload.decode("utf-8", "replace").encode()
    if b"\n" in payload or b"\r" in payload or payload[-1:] != b"}":
        return msgspec.json.format(payload, indent=-1)
    return payload


_SLACK: Final = 8  # the oldest eighth is removed at once, because removing single events is slow

_sequence: Final = attrgetter("sequence")


class Ring:
    """The last events, in order, stored once for all connections; contains all events after `after`."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[FeedEvent] = []
        self._bytes = 0
        self.after = 0  # all later events are in the ring

    def restart(self, after: int) -> None:
        """Discard all events and start after a sequence."""
        self._events, self._bytes, self.after = [], 0, after

    def extend(self, events: Iterable[FeedEvent]) -> None:
        """Append events, and remove the oldest if there are too many."""
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
        """The events after a sequence, oldest first; consume it without awaiting in between."""
        events = self._events
        for index in range(bisect_right(events, sequence, key=_sequence), len(events)):
            yield events[index]

    def __len__(self) -> int:
        return len(self._events)
