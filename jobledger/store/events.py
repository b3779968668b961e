"""The four things that can happen to a job, as CloudEvents 1.0 JSON documents.

This is a storage format. Type names and field names never change meaning, a new field has a default, readers
ignore unknown fields, and `tests/golden/` keeps the bytes of every event ever written.

`gc=False`: events hold no cycles, and a projector that catches up makes a million of them.
"""

from typing import Annotated, Literal

import msgspec

from jobledger.store.errors import UnknownEventType
from jobledger.store.job import State
from jobledger.store.subjects import job_subject, parse_subject

SOURCE = "/jobledger"
TYPE_PREFIX = "jobledger."


class SpecData(msgspec.Struct, frozen=True, rename="pascal", gc=False, omit_defaults=True):
    """The whole normalised spec, left unread: most readers do not look inside.

    Attributes:
        spec: as JSON.
        rerun: whether a rerun was asked for; it changes nothing about the job, and histories name it.
    """

    spec: msgspec.Raw
    rerun: bool = False


class StateData(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """The whole new state."""

    state: State


class TagData(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """A tag, and the version that it names from now on; version 0 removes it."""

    tag: str
    version: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", gc=False):
    """The envelope: CloudEvents 1.0, structured mode; `namespace`, `actor`, `reason` are extensions.

    Attributes:
        id: a UUIDv7, also the message's `Nats-Msg-Id`.
        subject: the job's id.
        time: RFC 3339, the writer's clock; informative: the stream's time is the one that counts.
        namespace: the job's namespace.
        actor: who; empty if nobody said.
        reason: why; empty if nobody said.
        traceparent: W3C trace context of the command; empty if there was none.
        previous: the sequence of the record before this one on the job's subject, as the writer expected it
            and the log held it to; decimal; empty for the first. By it a reader sees that none was left out.
    """

    specversion: Literal["1.0"]
    id: str
    source: str
    subject: str
    time: str
    datacontenttype: Literal["application/json"]
    namespace: str
    actor: str = ""
    reason: str = ""
    traceparent: str = ""
    previous: str = ""


class JobCreated(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.created.v1"):
    """A job came to be, with this spec, Pending."""

    data: SpecData


class JobUpdated(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.updated.v1"):
    """The job has a new spec; it is Pending again, whatever it was."""

    data: SpecData


class JobStateChanged(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.state.v1"):
    """The job went to this state."""

    data: StateData


class JobTagged(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.tagged.v1"):
    """A name for one of the job's versions was set, moved or removed; the job itself stays as it is."""

    data: TagData


JobEvent = JobCreated | JobUpdated | JobStateChanged | JobTagged
EventClass = type[JobCreated] | type[JobUpdated] | type[JobStateChanged] | type[JobTagged]
EventData = SpecData | StateData | TagData

EVENT_TYPES: tuple[EventClass, ...] = (JobCreated, JobUpdated, JobStateChanged, JobTagged)


def event_type(event: JobEvent | type[JobEvent]) -> str:
    """The CloudEvents `type` of an event or of its class."""
    return str(event.__struct_config__.tag)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as the log keeps it.

    Attributes:
        sequence: position in the stream, from 1.
        time: the stream's own timestamp, Unix nanoseconds.
        subject: the NATS subject it was appended to.
        payload: the CloudEvent's bytes.
    """

    sequence: int
    time: int
    subject: str
    payload: bytes


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event with the place and time that the stream gave it."""

    sequence: int
    time: int
    event: JobEvent


class Unreadable(msgspec.Struct, frozen=True):
    """A record that is no event of ours. It is counted, and it changes nothing.

    Attributes:
        sequence: its position.
        job_id: the job whose subject it stands on; empty if the subject is not one of ours.
        reason: what is wrong with it.
    """

    sequence: int
    job_id: str
    reason: str


class _TypeOnly(msgspec.Struct):
    type: str


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[JobEvent] = msgspec.json.Decoder(JobEvent)
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # not ours, not UTF-8, too deep
_type_decoder = msgspec.json.Decoder(_TypeOnly)


def encode_event(event: JobEvent) -> bytes:
    """The event as it goes into the log."""
    return _encoder.encode(event)


def decode_event(payload: bytes) -> JobEvent:
    """The event that `encode_event` wrote.

    Raises:
        msgspec.DecodeError: if the payload is not one of our events.
    """
    return _decoder.decode(payload)


def read_record(record: Record) -> Recorded | Unreadable:
    """Make an event of what the log returned, and check that it speaks of the job whose subject it stands on.

    A record that is not an event of ours becomes `Unreadable` rather than an exception: one bad message must
    not stop every reader for ever, and its place in the log stays visible.

    Raises:
        UnknownEventType: for a type under `jobledger.` that this release does not know.
    """
    try:
        event = _decoder.decode(record.payload)
    except _NOT_DECODED as error:
        _refuse_unknown_type(record)
        return _unreadable(record, f"not an event: {str(error) or 'nested too deeply'}")
    # The very subject, shard and all: an event of the job anywhere else would be seen by readers of the whole
    # log, and not by those of the job.
    if record.subject != job_subject(event.namespace, event.subject):
        return _unreadable(record, f"the event names another job: {event.namespace}/{event.subject}")
    return Recorded(record.sequence, record.time, event)


def _unreadable(record: Record, reason: str) -> Unreadable:
    where = parse_subject(record.subject)
    return Unreadable(record.sequence, where.job_id if where else "", f"{reason} (on {record.subject})")


def _refuse_unknown_type(record: Record) -> None:
    try:
        kind = _type_decoder.decode(record.payload).type
    except _NOT_DECODED:
        return
    # Only where a job's writer can have put it: a message on any other subject stops nobody.
    ours = kind.startswith(TYPE_PREFIX) and parse_subject(record.subject) is not None
    if ours and kind not in {event_type(cls) for cls in EVENT_TYPES}:
        raise UnknownEventType(
            f"event {record.sequence} has the type {kind!r}, which this release does not know;"
            " a newer Jobledger wrote it: upgrade this one before it reads on"
        )
