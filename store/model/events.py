"""The events of a job, as CloudEvents 1.0 JSON documents.

This is a storage format: type and field names never change their meaning, a new field has a default, readers
ignore unknown fields, and `tests/golden/` keeps the bytes of every event ever written. Views store the
reasons why a record can't be read, so changing such a text needs a new `PROJECTION_VERSION`.

`gc=False`: events have no reference cycles, and a projector that catches up creates millions of them.
"""

import re
from typing import Annotated, Literal

import msgspec

from jobledger.store.model.job import State
from jobledger.store.model.limits import INT_MAX, QUARANTINE_REASON_CHARACTERS
from jobledger.store.model.subjects import job_subject, parse_subject

SOURCE = "/jobledger"
TYPE_PREFIX = "jobledger."


class SpecData(msgspec.Struct, frozen=True, rename="pascal", gc=False, omit_defaults=True):
    """The whole normalized spec, not decoded: most readers do not need its fields.

    Attributes:
        spec: as JSON.
        rerun: whether the command was a rerun; for the history only.
    """

    spec: msgspec.Raw
    rerun: bool = False


class StateData(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """The whole new state."""

    state: State


class TagData(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """A tag and the version that it names; version 0 removes the tag."""

    tag: str
    version: Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]


class AcceptData(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """The sequence of the event that is accepted as unreadable."""

    sequence: Annotated[int, msgspec.Meta(ge=1, le=INT_MAX)]


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", gc=False):
    """The envelope: CloudEvents 1.0, structured mode; `namespace`, `actor`, `reason` are extensions.

    Attributes:
        id: a UUIDv7, also the message's `Nats-Msg-Id`.
        subject: the id of the job.
        time: RFC 3339, the writer's clock; informative, the stream time is authoritative.
        actor: who sent the command; empty if not given.
        reason: why; empty if not given.
        traceparent: W3C trace context of the command; empty if there was none.
        name: the name of the job, for readers of this event alone; empty in events of earlier releases. The
            spec that created the job is authoritative.
        previous: sequence of the record before this one on the job's subject, which the append expected;
            decimal, empty for the first. Readers detect a missing event by it.
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
    name: str = ""


class JobCreated(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.created.v1"):
    """The job was created with this spec, Pending."""

    data: SpecData


class JobUpdated(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.updated.v1"):
    """The job has a new spec and is Pending again."""

    data: SpecData


class JobStateChanged(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.state.v1"):
    """The state of the job changed."""

    data: StateData


class JobTagged(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.tagged.v1"):
    """A name of one of the job's versions was set, moved or removed; the job itself is unchanged."""

    data: TagData


class JobAccepted(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.accepted.v1"):
    """An operator accepted that an event of the job can't be read; the job continues without it."""

    data: AcceptData


JobEvent = JobCreated | JobUpdated | JobStateChanged | JobTagged | JobAccepted
EventClass = type[JobCreated] | type[JobUpdated] | type[JobStateChanged] | type[JobTagged] | type[JobAccepted]
EventData = SpecData | StateData | TagData | AcceptData

EVENT_TYPES: tuple[EventClass, ...] = (JobCreated, JobUpdated, JobStateChanged, JobTagged, JobAccepted)


def event_type(event: JobEvent | type[JobEvent]) -> str:
    """Return the CloudEvents `type` of an event or of its class."""
    return str(event.__struct_config__.tag)


class Record(msgspec.Struct, frozen=True, gc=False):
    """A message of the log.

    Attributes:
        sequence: in the stream, from 1.
        time: stream time, Unix nanoseconds.
        subject: the NATS subject.
        payload: the CloudEvent.
    """

    sequence: int
    time: int
    subject: str
    payload: bytes


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event with its sequence and stream time."""

    sequence: int
    time: int
    event: JobEvent


class NotUnderstood(msgspec.Struct, frozen=True, gc=False):
    """A record that claims to be an event of the job on whose subject it is, and that can't be read.

    It quarantines the job. This gives a writer no power over other jobs: a writer with the right to append to
    a subject can change that job anyway.
    """

    sequence: int
    namespace: str
    job_id: str
    reason: str


class Unreadable(msgspec.Struct, frozen=True):
    """A record that is not an event of a job: counted, without any effect.

    Attributes:
        job_id: the job of its subject; empty if it is not the subject of a job.
        namespace: of its subject; empty in the same case.
    """

    sequence: int
    job_id: str
    reason: str
    namespace: str = ""


Read = Recorded | NotUnderstood | Unreadable
"""A record of the log after decoding."""


def job_named(read: Read) -> str:
    """Return the id of the job on whose subject a record is; empty if it is not the subject of a job."""
    return read.event.subject if isinstance(read, Recorded) else read.job_id


class _Claim(msgspec.Struct):
    """The fields that identify a Jobledger event. The envelope of a later release may not name the job."""

    type: str
    namespace: str | None = None
    subject: str | None = None


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[JobEvent] = msgspec.json.Decoder(JobEvent)
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # not ours, not UTF-8, too deep
_KNOWN_TYPES = frozenset(event_type(cls) for cls in EVENT_TYPES)
_claim_decoder = msgspec.json.Decoder(_Claim)


def encode_event(event: JobEvent) -> bytes:
    """Return the payload of an event."""
    return _encoder.encode(event)


def decode_event(payload: bytes) -> JobEvent:
    """Return the event of a payload.

    Raises:
        msgspec.DecodeError: if it is not a Jobledger event.
    """
    return _decoder.decode(payload)


# Part of the fold's meaning. The depth that the decoder reaches depends on the caller's stack, and the result
# of the fold must not. Validation refuses far less depth (SPEC_MAX_DEPTH).
EVENT_MAX_DEPTH = 256
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)


def read_record(record: Record) -> Read:
    """Decode a record. Never raises: one bad message must not stop a reader.

    A record that claims to be an event of its subject's job and can't be read is `NotUnderstood`: invalid, or
    written by a newer release. Any other record without an event is foreign: `Unreadable`.
    """
    payload = record.payload
    if is_too_deep(payload):
        return _unreadable(record, "not an event: nested too deeply")
    try:
        event = _decoder.decode(payload)
    except _NOT_DECODED as error:
        return _not_understood(record, str(error)) or _unreadable(record, f"not an event: {error}")
    # The exact subject with its shard: readers of the whole log would see an event of the job on any other
    # subject, and readers of the job would not.
    if record.subject != job_subject(event.namespace, event.subject):
        return _unreadable(record, f"the event names another job: {event.namespace}/{event.subject}")
    return Recorded(record.sequence, record.time, event)


def _unreadable(record: Record, reason: str) -> Unreadable:
    where = parse_subject(record.subject)
    text = f"{reason} (on {record.subject})"
    if where is None:
        return Unreadable(record.sequence, "", text)
    return Unreadable(record.sequence, where.job_id, text, where.namespace)


def _not_understood(record: Record, error: str) -> NotUnderstood | None:
    try:
        claim = _claim_decoder.decode(record.payload)
    except _NOT_DECODED:
        return None
    where = parse_subject(record.subject)
    if where is None or not claim.type.startswith(TYPE_PREFIX):
        return None
    if claim.namespace not in {None, where.namespace} or claim.subject not in {None, where.job_id}:
        return None
    if claim.type in _KNOWN_TYPES:
        reason = f"event {record.sequence} ({claim.type}) can't be understood: {error}"
    else:
        reason = (
            f"event {record.sequence} has the type {claim.type!r:.100}, which this release does not know;"
            " a newer Jobledger wrote it: upgrade this one"
        )
    return NotUnderstood(
        record.sequence, where.namespace, where.job_id, reason[:QUARANTINE_REASON_CHARACTERS]
    )


def is_too_deep(document: bytes) -> bool:
    """Return whether a JSON document is nested deeper than EVENT_MAX_DEPTH."""
    if document.count(b"{") + document.count(b"[") <= EVENT_MAX_DEPTH:
        return False  # the usual case
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(document):
        token = found[0]
        if token in b"{[":
            depth += 1
            if depth > EVENT_MAX_DEPTH:
                return True
        elif token in b"}]":
            depth -= 1
    return False
