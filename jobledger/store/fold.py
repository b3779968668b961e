"""What the log means: one event after another, folded into a job's status.

The fold is total and has no clock: an event that makes no sense is an anomaly, counted by whoever folds, and
never an exception. What may happen is decided elsewhere (`decide`), and the two share no checks, so that none
can be moved from one to the other by accident.
"""

import re
from typing import Annotated, Literal, assert_never

import msgspec

from jobledger.store.events import (
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    Recorded,
    SpecData,
    Unreadable,
)
from jobledger.store.job import PENDING, Job, JobStatus
from jobledger.store.limits import TAG_MAX_CHARACTERS, TAGS_MAX_COUNT
from jobledger.store.subjects import is_identity

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


# A letter first: a tag can stand wherever a version's number can, and neither is taken for the other.
_TAG = re.compile(rf"[A-Za-z][A-Za-z0-9._-]{{0,{TAG_MAX_CHARACTERS - 1}}}", re.ASCII)


class SpecHead(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """The part of a spec that the fold checks and the view's columns hold; the rest is skipped."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    namespace: Annotated[str, msgspec.Meta(min_length=1)]
    type: Literal["batch", "service", "daemon", "ops"]
    count: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    priority: Int64 = 0
    labels: dict[str, str] = {}


_head_decoder = msgspec.json.Decoder(SpecHead)
_whole_decoder = msgspec.json.Decoder()

# Part of the fold's meaning: how deep a decoder can go depends on the caller's stack, and the fold must not.
# Validation stops long before (SPEC_MAX_DEPTH).
_FOLD_MAX_DEPTH = 256
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)


class Anomaly(msgspec.Struct, frozen=True):
    """An event that makes no sense where it stands: it changes nothing but the count of anomalies.

    Attributes:
        sequence: its position in the stream.
        job_id: the job whose subject it stands on.
        reason: why it makes no sense.
    """

    sequence: int
    job_id: str
    reason: str


def is_tag(text: str) -> bool:
    """Whether this can be the name of a version: a letter, then letters, digits and `._-`."""
    return _TAG.fullmatch(text) is not None


def spec_head(spec: msgspec.Raw | bytes) -> SpecHead:
    """The head of a normalised spec.

    Raises:
        msgspec.DecodeError: if this is no normalised spec.
    """
    return _head_decoder.decode(spec)


def fold(
    status: JobStatus | None, recorded: Recorded | Unreadable, *, trusted: bool = False
) -> JobStatus | Anomaly:
    """The status after one more event of the same job (None: no event yet), or the anomaly that it is.

    An event at or before the status's sequence was folded before: replaying is harmless and returns the
    status as is.

    Args:
        status: what is known of the job.
        recorded: its next event.
        trusted: this process made the event itself, of a spec that it has just judged.
    """
    if status is not None and recorded.sequence <= status.sequence:
        return status
    if isinstance(recorded, Unreadable):
        return Anomaly(recorded.sequence, recorded.job_id, recorded.reason)
    event = recorded.event
    if status is not None and event.namespace != status.namespace:
        # A writer with rights on another namespace put it on that namespace's subject of this id.
        return Anomaly(recorded.sequence, event.subject, f"the job is not in namespace {event.namespace!r}")
    match event:  # the most frequent first
        case JobStateChanged():
            folded = _state_changed(status, recorded, event)
        case JobCreated():
            folded = _created(status, recorded, event, trusted=trusted)
        case JobUpdated():
            folded = _updated(status, recorded, event, trusted=trusted)
        case JobTagged():
            folded = _tagged(status, recorded, event)
        case _:
            assert_never(event)
    return folded


def fold_job(job: Job | None, recorded: Recorded | Unreadable, *, trusted: bool = False) -> Job | Anomaly:
    """`fold`, for who wants the spec as well."""
    folded = fold(job.status if job is not None else None, recorded, trusted=trusted)
    if isinstance(folded, Anomaly):
        return folded
    if folded.spec_sequence == recorded.sequence and isinstance(recorded, Recorded):
        data = recorded.event.data
        if isinstance(data, SpecData):
            return Job(status=folded, spec=bytes(data.spec))
    assert job is not None  # a job's first event sets its spec
    return Job(status=folded, spec=job.spec)


def _created(
    status: JobStatus | None, recorded: Recorded, event: JobCreated, *, trusted: bool
) -> JobStatus | Anomaly:
    if status is not None:
        return Anomaly(recorded.sequence, event.subject, "created, but the job exists")
    head = _head_of(recorded, event, trusted=trusted)
    if isinstance(head, Anomaly):
        return head
    return JobStatus(
        id=event.subject,
        namespace=head.namespace,
        name=head.name,
        state=PENDING,
        version=1,
        revision=1,
        create_time=recorded.time,
        modify_time=recorded.time,
        created_sequence=recorded.sequence,
        spec_sequence=recorded.sequence,
        sequence=recorded.sequence,
    )


def _updated(
    status: JobStatus | None, recorded: Recorded, event: JobUpdated, *, trusted: bool
) -> JobStatus | Anomaly:
    if status is None:
        return Anomaly(recorded.sequence, event.subject, "updated, but there is no such job")
    head = _head_of(recorded, event, trusted=trusted)
    if isinstance(head, Anomaly):
        return head
    return JobStatus(
        id=status.id,
        namespace=status.namespace,
        name=status.name,
        state=PENDING,
        version=status.version + 1,
        revision=status.revision + 1,
        create_time=status.create_time,
        modify_time=max(status.modify_time, recorded.time),
        created_sequence=status.created_sequence,
        spec_sequence=recorded.sequence,
        sequence=recorded.sequence,
        tags=status.tags,
    )


def _state_changed(
    status: JobStatus | None, recorded: Recorded, event: JobStateChanged
) -> JobStatus | Anomaly:
    if status is None:
        return Anomaly(recorded.sequence, event.subject, "a state, but there is no such job")
    state = event.data.state
    if status.state.state_type.is_terminal:
        reason = f"{state.state_type} after {status.state.state_type}, which is final"
        return Anomaly(recorded.sequence, event.subject, reason)
    return JobStatus(
        id=status.id,
        namespace=status.namespace,
        name=status.name,
        state=state,
        version=status.version,
        revision=status.revision + 1,
        create_time=status.create_time,
        modify_time=max(status.modify_time, recorded.time),
        created_sequence=status.created_sequence,
        spec_sequence=status.spec_sequence,
        sequence=recorded.sequence,
        tags=status.tags,
    )


def _tagged(status: JobStatus | None, recorded: Recorded, event: JobTagged) -> JobStatus | Anomaly:
    """A tag that is set again to the version that it names is sensible, and changes but the sequence."""
    if status is None:
        return Anomaly(recorded.sequence, event.subject, "a tag, but there is no such job")
    tag, version = event.data.tag, event.data.version
    reason = _tag_problem(status, tag, version)
    if reason:
        return Anomaly(recorded.sequence, event.subject, reason)
    tags = {**status.tags, tag: version}
    if version == 0:
        del tags[tag]
    return msgspec.structs.replace(status, tags=dict(sorted(tags.items())), sequence=recorded.sequence)


def _tag_problem(status: JobStatus, tag: str, version: int) -> str:
    """Why a tag makes no sense for a job; empty if it does."""
    if not is_tag(tag):
        return f"{tag!r:.80} is no tag"
    if version == 0:
        return "" if tag in status.tags else f"the tag {tag} is removed, but there is none"
    if not 1 <= version <= status.version:
        return f"the tag {tag} names version {version!r:.40}, and the job has {status.version}"
    if tag not in status.tags and len(status.tags) >= TAGS_MAX_COUNT:
        return f"the tag {tag} is one too many: the job has {len(status.tags)}"
    return ""


def _head_of(recorded: Recorded, event: JobCreated | JobUpdated, *, trusted: bool) -> SpecHead | Anomaly:
    """The spec's head, if the spec can be read to its end and belongs to the job that the event names."""
    spec = bytes(event.data.spec)
    if trusted:
        return spec_head(spec)
    if _is_too_deep(spec):
        return Anomaly(recorded.sequence, event.subject, "not a normalised spec: nested too deeply")
    try:
        head = spec_head(spec)
        # The head skips the rest, whatever it holds: without this a reader of the job would stumble over it.
        _whole_decoder.decode(spec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Anomaly(recorded.sequence, event.subject, f"not a normalised spec: {error}")
    if head.namespace != event.namespace or not is_identity(head.namespace, head.name, event.subject):
        reason = f"the spec names another job ({head.namespace:.80}/{head.name:.80})"
        return Anomaly(recorded.sequence, event.subject, reason)
    return head


def _is_too_deep(spec: bytes) -> bool:
    if spec.count(b"{") + spec.count(b"[") <= _FOLD_MAX_DEPTH:
        return False  # nearly always
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(spec):
        token = found[0]
        if token in b"{[":
            depth += 1
            if depth > _FOLD_MAX_DEPTH:
                return True
        elif token in b"}]":
            depth -= 1
    return False
