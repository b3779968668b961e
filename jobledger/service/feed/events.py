"""One event of a feed, and the text that Server-Sent Events make of everything that a feed says. Pure."""

from typing import Final

import msgspec

from jobledger.projections.batch import Folded
from jobledger.service.position import format_cursor
from jobledger.store.events import event_type
from jobledger.store.job import JobStatus
from jobledger.store.values import rfc3339

_EXTRA_BYTES: Final = 1_000  # what an event takes beside its payload, about
_RECONNECT_MILLISECONDS: Final = 1_000

_encode: Final = msgspec.json.Encoder().encode


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
    """

    sequence: int
    type: str
    status: JobStatus
    time: int
    payload: bytes
    size_bytes: int
    text: bytes = b""


def feed_event(folded: Folded) -> FeedEvent:
    """What the projector folded, as feeds keep it."""
    record = folded.record
    size_bytes = _EXTRA_BYTES + len(record.payload)
    return FeedEvent(
        record.sequence, event_type(folded.event), folded.status, record.time, record.payload, size_bytes
    )


def event_text(event: FeedEvent, mark: str) -> bytes:
    """The event as it is sent; made once.

    Args:
        event: with its payload.
        mark: of the stream, for the cursor.
    """
    if not event.text:
        event.text = b"id: %b\nevent: %b\ndata: %b\n\n" % (
            format_cursor(mark, event.sequence).encode(),
            event.type.encode(),
            placed_event(event.payload, event.sequence, event.time, event.status),
        )
        event.payload = b""
    return event.text


def placed_event(payload: bytes, sequence: int, time: int, status: JobStatus) -> bytes:
    """A CloudEvent as it is told to others, on one line: with its place in the stream, as extensions.

    Args:
        payload: the event as its writer put it.
        sequence: its position.
        time: the stream's, Unix nanoseconds.
        status: of the job after it.
    """
    # Of equal keys the last counts (JSON.parse, msgspec, Python): the stream's word, not the writer's.
    return b'%b,"sequence":%d,"revision":%d,"version":%d,"streamtime":"%b"}' % (
        _one_line(payload)[:-1],
        sequence,
        status.revision,
        status.version,
        rfc3339(time).encode(),
    )


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
