"""What can happen to a job, as CloudEvents 1.0 JSON documents.

This is a storage format. Type names and field names never change meaning, a new field has a default, readers
ignore unknown fields, and `tests/golden/` keeps the bytes of every event ever written.

`gc=False`: events hold no cycles, and a projector that catches up makes a million of them.
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
    version: Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]


class AcceptData(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """The sequence of an event of the job that is accepted as unreadable."""

    sequence: Annotated[int, msgspec.Meta(ge=1, le=INT_MAX)]


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
        name: the job's name, so that a reader of this event alone can show it; empty in events of earlier
            releases. The name that counts is in the spec that created the job.
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
    name: str = ""


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


class JobAccepted(_CloudEvent, frozen=True, kw_only=True, gc=False, tag="jobledger.job.accepted.v1"):
    """An operator accepts that an event of the job can't be read: the job goes on without it."""

    data: AcceptData


JobEvent = JobCreated | JobUpdated | JobStateChanged | JobTagged | JobAccepted
EventClass = type[JobCreated] | type[JobUpdated] | type[JobStateChanged] | type[JobTagged] | type[JobAccepted]
EventData = SpecData | StateData | TagData | AcceptData

EVENT_TYPES: tuple[EventClass, ...] = (JobCreated, JobUpdated, JobStateChanged, JobTagged, JobAccepted)


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


class NotUnderstood(msgspec.Struct, frozen=True, gc=False):
    """A record that is an event of its subject's job by its own words, and that this release can't read.

    It quarantines the job. Who may append to a job's subject may change the job, so this gives nobody power
    over a job of another namespace.

    Attributes:
        sequence: its position.
        namespace: the job's.
        job_id: the job.
        reason: what is wrong with it.
    """

    sequence: int
    namespace: str
    job_id: str
    reason: str


class Unreadable(msgspec.Struct, frozen=True):
    """A record that is not an event of a job. It is counted, and it changes nothing.

    Attributes:
        sequence: its position.
        job_id: the job of its subject; empty if the subject is not that of a job.
        reason: what is wrong with it.
        namespace: of its subject; empty as `job_id`.
    """

    sequence: int
    job_id: str
    reason: str
    namespace: str = ""


Read = Recorded | NotUnderstood | Unreadable
"""What a record of the log is to its reader."""


def job_named(read: Read) -> str:
    """The id of the job on whose subject a record is; empty if it is not on one."""
    return read.event.subject if isinstance(read, Recorded) else read.job_id


class _Claim(msgspec.Struct):
    """What makes a record a Jobledger event, whatever else it has. A later envelope may not name the job."""

    type: str
    namespace: str | None = None
    subject: str | None = None


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[JobEvent] = msgspec.json.Decoder(JobEvent)
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # not ours, not UTF-8, too deep
_KNOWN_TYPES = frozenset(event_type(cls) for cls in EVENT_TYPES)
_claim_decoder = msgspec.json.Decoder(_Claim)


def encode_event(event: JobEvent) -> bytes:
    """The event as it goes into the log."""
    return _encoder.encode(event)


def decode_event(payload: bytes) -> JobEvent:
    """The event that `encode_event` wrote.

    Raises:
        msgspec.DecodeError: if the payload is not one of our events.
    """
    return _decoder.decode(payload)


# Part of the fold's meaning: how deep a decoder can go depends on the caller's stack, and the fold must not.
# Validation stops long before (SPEC_MAX_DEPTH).
EVENT_MAX_DEPTH = 256
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)


def read_record(record: Record) -> Read:
    """The event of a record, or what the record is instead. Never raises: one bad message stops no reader.

    A record that claims to be an event of its subject's job, and can't be read, is `NotUnderstood`: a newer
    release wrote it, or something that has no meaning. Everything else is foreign: `Unreadable`.
    """
    payload = record.payload
    if is_too_deep(payload):
        return _unreadable(record, "not an event: nested too deeply")
    try:
        event = _decoder.decode(payload)
    except _NOT_DECODED as error:
        return _not_understood(record, str(error)) or _unreadable(record, f"not an event: {error}")
    # The very subject, shard and all: an event of the job anywhere else would be seen by readers of the whole
    # log, and not by those of the job.
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
    """Whether a JSON document is nested deeper than any event or spec."""
    if document.count(b"{") + document.count(b"[") <= EVENT_MAX_DEPTH:
        return False  # nearly always
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
