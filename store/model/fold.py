"""The fold: the meaning of the log, one event after another, as the status of a job.

The fold is total and has no clock: an event that makes no sense is an anomaly, which the caller counts, and
never an exception. `decide` refuses what must not happen; the two share no checks, so that none can move from
one to the other by accident.

    status ──► its next event ──┬─ fits ─────────────────────► the new status
                                ├─ makes no sense ───────────► Anomaly; the status is unchanged
                                └─ can't be read, or one
                                   before it is missing ─────► the same status with a Quarantine ("frozen")
    frozen ──► an event that accepts the last unread one ────► `Quarantine.beyond`, folded without them

Views store the reasons of anomalies and quarantines: changing such a text, like any other change of the
meaning, needs a new `PROJECTION_VERSION`.
"""

import re
from typing import Annotated, Literal, assert_never

import msgspec
from msgspec.structs import replace

from jobledger.store.model.events import (
    JobAccepted,
    JobCreated,
    JobEvent,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    NotUnderstood,
    Read,
    Recorded,
    SpecData,
    Unreadable,
    is_too_deep,
)
from jobledger.store.model.job import PENDING, Job, JobStatus, Quarantine, State, StateType, Unread
from jobledger.store.model.limits import (
    INT_MAX,
    INT_MIN,
    QUARANTINE_MAX_EVENTS,
    QUARANTINE_REASON_CHARACTERS,
    TAG_MAX_CHARACTERS,
    TAGS_MAX_COUNT,
)
from jobledger.store.model.subjects import is_identity

Int64 = Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)]

# A letter first: a tag is accepted wherever a version number is, and the two must not be confused.
_TAG = re.compile(rf"[A-Za-z][A-Za-z0-9._-]{{0,{TAG_MAX_CHARACTERS - 1}}}", re.ASCII)


class SpecHead(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """The fields of a spec that the fold checks and that views have columns for."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    namespace: Annotated[str, msgspec.Meta(min_length=1)]
    type: Literal["batch", "service", "daemon", "ops"]
    count: Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
    priority: Int64 = 0
    labels: dict[str, str] = {}


_head_decoder = msgspec.json.Decoder(SpecHead)
_whole_decoder = msgspec.json.Decoder()

# Values, because the hash of an Enum is Python code.
_TERMINAL = frozenset(each.value for each in StateType if each.is_terminal)
_SEQUENCE = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


class Anomaly(msgspec.Struct, frozen=True):
    """An event that makes no sense at its position, and changes nothing but the count of anomalies.

    Attributes:
        sequence: of the event.
        job_id: the job of its subject.
        reason: why it makes no sense.
    """

    sequence: int
    job_id: str
    reason: str


def is_tag(text: str) -> bool:
    """Return whether a text is a valid tag: a letter, then letters, digits and `._-`."""
    return _TAG.fullmatch(text) is not None


def spec_head(spec: msgspec.Raw | bytes) -> SpecHead:
    """Decode the head of a normalized spec.

    Raises:
        msgspec.DecodeError: if it is not a normalized spec.
    """
    return _head_decoder.decode(spec)


def fold(  # noqa: C901, PLR0911 - the most frequent case is inlined
    status: JobStatus | None, recorded: Read
) -> JobStatus | Anomaly:
    """Fold the next event of a job.

    An event at or before the sequence of the status was folded before: replaying it is harmless and returns
    the status unchanged. After an anomaly, continue with `after_anomaly`; `fold_on` does both.

    An event that can't be read, or that does not name the event before it, quarantines the job: its status
    stays the same until an operator accepts that event, or a release that can read it folds it again.

    Args:
        status: of the job; None before its first event.
        recorded: the next record on its subject.
    """
    expected = 0
    if status is not None:
        # `last_read`, inlined: every reader of the log folds every event.
        frozen = status.quarantine
        expected = frozen.last if frozen is not None else max(status.sequence, status.passed)
        if recorded.sequence <= expected:
            return status
        if frozen is None and type(recorded) is Recorded and type(recorded.event) is JobStateChanged:
            # Most events change the state: without the calls below, this takes half of the time.
            event = recorded.event
            if (
                event.namespace == status.namespace
                and status.state.state_type._value_ not in _TERMINAL
                and (not event.previous or event.previous == str(expected))
                and not status.is_lost
            ):
                return _with_state(status, event.data.state, recorded.sequence, recorded.time)
    if isinstance(recorded, Unreadable):
        return Anomaly(recorded.sequence, recorded.job_id, recorded.reason)
    namespace, job_id = _job_of(recorded)
    if status is not None and namespace != status.namespace:
        if not status.is_lost:
            # A writer with rights on another namespace used that namespace's subject with this id.
            return Anomaly(recorded.sequence, job_id, f"the job is not in namespace {namespace!r}")
        status, expected = None, 0  # a lost job of one namespace must not block the job of another
    if status is not None and status.quarantine is not None:
        return _fold_frozen(status, status.quarantine, recorded)
    if status is not None and status.is_lost:
        status = None  # all lost events are accepted: the job can be created
    unread: list[Unread] = []
    folded = _step(status, recorded, expected, unread)
    if not unread:
        return folded
    return _frozen(
        status if status is not None else lost(namespace, job_id),
        recorded,
        unread,
        _beyond(status, folded, recorded),
    )


def fold_on(status: JobStatus | None, recorded: Read) -> JobStatus | None:
    """Return the status after the next record on the job's subject, also if that is an anomaly."""
    folded = fold(status, recorded)
    return after_anomaly(status, recorded) if isinstance(folded, Anomaly) else folded


def after_anomaly(status: JobStatus | None, recorded: Read) -> JobStatus | None:
    """Return the status after an anomaly. The job's next event names it if it is on the job's subject."""
    if status is None or _job_of(recorded) != (status.namespace, status.id):
        return status
    quarantine = status.quarantine
    if quarantine is None:
        return _passing(status, recorded.sequence)
    beyond = quarantine.beyond
    after = replace(
        quarantine,
        last=recorded.sequence,
        beyond=_passing(beyond, recorded.sequence) if beyond is not None else None,
    )
    return replace(status, quarantine=after)


def last_read(status: JobStatus) -> int:
    """Return the last sequence of the job's subject that was folded or skipped."""
    if status.quarantine is not None:
        return status.quarantine.last
    return max(status.sequence, status.passed)


def fold_job(job: Job | None, recorded: Read) -> Job | Anomaly:
    """Fold the next event of a job with its spec; the spec of a lost job is empty. See `fold`."""
    before = job.status if job is not None else None
    folded = fold(before, recorded)
    if isinstance(folded, Anomaly):
        return folded
    if folded is before and job is not None:
        return job
    return _with_specs(job, folded, recorded)


def fold_job_on(job: Job | None, recorded: Read) -> Job | None:
    """Return the job after the next record on its subject. See `fold_on`."""
    folded = fold_job(job, recorded)
    if not isinstance(folded, Anomaly):
        return folded
    if job is None:
        return None
    status = after_anomaly(job.status, recorded)
    assert status is not None
    return job if status is job.status else replace(job, status=status)


def fold_appended(job: Job | None, event: JobEvent, sequence: int) -> Job | Anomaly:
    """Fold an event that was just appended: `fold_job` without the checks that a decision has made.

    The append was guarded by the sequence of the job that was decided on, and the spec is valid. So the link,
    the identity and the transition are right. The result equals that of `fold_job` at stream time 0, because
    an acknowledgement has no stream time.
    """
    status = job.status if job is not None else None
    if job is None or status is None:
        if isinstance(event, JobCreated):
            status = _new_status(event.namespace, event.subject, event.name, sequence, 0)
            return Job(status=status, spec=bytes(event.data.spec))
    elif status.quarantine is None and not status.is_lost:
        if isinstance(event, JobStateChanged):
            return Job(status=_with_state(status, event.data.state, sequence, 0), spec=job.spec)
        if isinstance(event, JobUpdated):
            return Job(status=_with_version(status, sequence, 0), spec=bytes(event.data.spec))
    return fold_job(job, Recorded(sequence, 0, event))


def _with_specs(job: Job | None, folded: JobStatus, recorded: Read) -> Job:
    brought = b""
    if isinstance(recorded, Recorded) and isinstance(recorded.event.data, SpecData):
        brought = bytes(recorded.event.data.spec)
    present = job.spec if job is not None and not folded.is_lost else b""
    was_frozen = job is not None and job.status.quarantine is not None
    beyond = (job.spec_beyond or job.spec) if job is not None else b""
    if folded.quarantine is None:
        if brought and folded.spec_sequence == recorded.sequence:
            return Job(status=folded, spec=brought)
        return Job(status=folded, spec=beyond if was_frozen and not folded.is_lost else present)
    shadow = folded.quarantine.beyond
    if shadow is not None and brought and shadow.spec_sequence == recorded.sequence:
        beyond = brought
    return Job(status=folded, spec=present, spec_beyond=b"" if beyond == present else beyond)


def _job_of(recorded: Read) -> tuple[str, str]:
    if isinstance(recorded, Recorded):
        return recorded.event.namespace, recorded.event.subject
    return recorded.namespace, recorded.job_id


def _step(
    status: JobStatus | None,
    recorded: Recorded | NotUnderstood,
    expected: int,
    unread: list[Unread],
) -> JobStatus | Anomaly:
    """Fold an event of a job that is not frozen; events that can't be used are added to `unread`."""
    if isinstance(recorded, NotUnderstood):
        unread.append(Unread(recorded.sequence, recorded.reason))
        return Anomaly(recorded.sequence, recorded.job_id, recorded.reason)
    event = recorded.event
    if event.previous:
        broken = _broken_link(recorded, event.previous, expected)
        if broken is not None:
            unread.append(broken)
            if broken.sequence == recorded.sequence:
                return Anomaly(recorded.sequence, event.subject, broken.reason)
    folded = _apply(status, recorded, event)
    if isinstance(folded, NotUnderstood):
        unread.append(Unread(folded.sequence, folded.reason))
        return Anomaly(recorded.sequence, event.subject, folded.reason)
    return folded


def _broken_link(recorded: Recorded, previous: str, expected: int) -> Unread | None:
    """Return what is wrong with the event that an event names as its predecessor; None if nothing is."""
    if previous == str(expected):
        return None
    named = int(previous) if _SEQUENCE.fullmatch(previous) else 0
    if named == 0 or not expected < named < recorded.sequence:
        before = f"and that is {expected}" if expected else "and there is none"
        reason = f"event {recorded.sequence} names {previous!r:.40} as the event before it, {before}"
        return Unread(recorded.sequence, reason)
    if not expected and isinstance(recorded.event, JobCreated):
        return None  # foreign records can precede a job; they are not in its status
    return Unread(
        named,
        f"event {named} is missing from the log: event {recorded.sequence} of the job names it as the one"
        " before it",
    )


def _apply(
    status: JobStatus | None, recorded: Recorded, event: JobEvent
) -> JobStatus | Anomaly | NotUnderstood:
    match event:  # the most frequent type first
        case JobStateChanged():
            return _state_changed(status, recorded, event)
        case JobCreated():
            return _created(status, recorded, event)
        case JobUpdated():
            return _updated(status, recorded, event)
        case JobTagged():
            return _tagged(status, recorded, event)
        case JobAccepted():
            reason = f"accepts event {event.data.sequence}, which does not quarantine the job"
            return Anomaly(recorded.sequence, event.subject, reason)
        case _:
            assert_never(event)


def _fold_frozen(
    status: JobStatus, quarantine: Quarantine, recorded: Recorded | NotUnderstood
) -> JobStatus | Anomaly:
    """Fold an event of a frozen job: the status stays the same, and `Quarantine.beyond` advances."""
    unread: list[Unread] = []
    beyond = quarantine.beyond
    folded = _step(beyond, recorded, quarantine.last, unread)
    accepted = _accepted_by(recorded, quarantine)
    if accepted is not None:
        left = tuple(each for each in quarantine.unread if each is not accepted)
        quarantine = replace(quarantine, unread=left)
        if beyond is not None:
            # As with a tag, no counter changes but the sequence.
            beyond = replace(beyond, sequence=recorded.sequence, passed=0)
        if not (left or unread or quarantine.overflows):
            return beyond if beyond is not None else lost(status.namespace, status.id, recorded.sequence)
        if not (left or unread):
            left = (Unread(accepted.sequence, f"more than {QUARANTINE_MAX_EVENTS} events can't be used"),)
            quarantine = replace(quarantine, unread=left)
    else:
        if isinstance(folded, Anomaly) and not unread:
            return folded
        beyond = _beyond(beyond, folded, recorded)
    known = {each.sequence for each in quarantine.unread}
    every = (*quarantine.unread, *(each for each in unread if each.sequence not in known))
    after = Quarantine(
        unread=every[:QUARANTINE_MAX_EVENTS],
        last=recorded.sequence,
        overflows=quarantine.overflows or len(every) > QUARANTINE_MAX_EVENTS,
        beyond=beyond,
    )
    return replace(status, quarantine=after)


def _accepted_by(recorded: Recorded | NotUnderstood, quarantine: Quarantine) -> Unread | None:
    if not (isinstance(recorded, Recorded) and isinstance(recorded.event, JobAccepted)):
        return None
    sequence = recorded.event.data.sequence
    return next((each for each in quarantine.unread if each.sequence == sequence), None)


def _frozen(
    status: JobStatus, recorded: Recorded | NotUnderstood, unread: list[Unread], beyond: JobStatus | None
) -> JobStatus:
    quarantine = Quarantine(unread=tuple(unread), last=recorded.sequence, beyond=beyond)
    return replace(status, quarantine=quarantine)


def _beyond(
    status: JobStatus | None, folded: JobStatus | Anomaly, recorded: Recorded | NotUnderstood
) -> JobStatus | None:
    """Return the status after an event, skipping an anomaly."""
    if not isinstance(folded, Anomaly):
        return folded
    return _passing(status, recorded.sequence) if status is not None else None


def _passing(status: JobStatus, sequence: int) -> JobStatus:
    return replace(status, passed=sequence)


def lost(namespace: str, job_id: str, passed: int = 0) -> JobStatus:
    """Return the status of a job without an event that creates it.

    Args:
        namespace: of its subject.
        job_id: of its subject.
        passed: the last record on its subject.
    """
    return JobStatus(
        id=job_id,
        namespace=namespace,
        name="",
        state=PENDING,
        version=0,
        revision=0,
        create_time=0,
        modify_time=0,
        created_sequence=0,
        spec_sequence=0,
        sequence=0,
        passed=passed,
    )


def _created(
    status: JobStatus | None, recorded: Recorded, event: JobCreated
) -> JobStatus | Anomaly | NotUnderstood:
    if status is not None:
        return Anomaly(recorded.sequence, event.subject, "created, but the job exists")
    head = head_of(recorded, event)
    if not isinstance(head, SpecHead):
        return head
    return _new_status(head.namespace, event.subject, head.name, recorded.sequence, recorded.time)


def _new_status(namespace: str, job_id: str, name: str, sequence: int, time: int) -> JobStatus:
    return JobStatus(
        id=job_id,
        namespace=namespace,
        name=name,
        state=PENDING,
        version=1,
        revision=1,
        create_time=time,
        modify_time=time,
        created_sequence=sequence,
        spec_sequence=sequence,
        sequence=sequence,
    )


def _updated(
    status: JobStatus | None, recorded: Recorded, event: JobUpdated
) -> JobStatus | Anomaly | NotUnderstood:
    if status is None:
        return Anomaly(recorded.sequence, event.subject, "updated, but there is no such job")
    head = head_of(recorded, event)
    if not isinstance(head, SpecHead):
        return head
    return _with_version(status, recorded.sequence, recorded.time)


def _with_version(status: JobStatus, sequence: int, time: int) -> JobStatus:
    return replace(
        status,
        state=PENDING,
        version=status.version + 1,
        revision=status.revision + 1,
        modify_time=max(status.modify_time, time),
        spec_sequence=sequence,
        sequence=sequence,
        passed=0,
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
    return _with_state(status, state, recorded.sequence, recorded.time)


def _with_state(status: JobStatus, state: State, sequence: int, time: int) -> JobStatus:
    return replace(
        status,
        state=state,
        revision=status.revision + 1,
        modify_time=max(status.modify_time, time),
        sequence=sequence,
        passed=0,
    )


def _tagged(status: JobStatus | None, recorded: Recorded, event: JobTagged) -> JobStatus | Anomaly:
    if status is None:
        return Anomaly(recorded.sequence, event.subject, "a tag, but there is no such job")
    tag, version = event.data.tag, event.data.version
    reason = _tag_problem(status, tag, version)
    if reason:
        return Anomaly(recorded.sequence, event.subject, reason)
    tags = {**status.tags, tag: version}
    if version == 0:
        del tags[tag]
    tags = dict(sorted(tags.items()))
    return replace(status, tags=tags, sequence=recorded.sequence, passed=0)


def _tag_problem(status: JobStatus, tag: str, version: int) -> str:
    """Return why a tag makes no sense for a job; empty if it does."""
    if not is_tag(tag):
        return f"{tag!r:.80} is no tag"
    if version == 0:
        return "" if tag in status.tags else f"the tag {tag} is removed, but there is none"
    if not 1 <= version <= status.version:
        return f"the tag {tag} names version {version!r:.40}, and the job has {status.version}"
    if tag not in status.tags and len(status.tags) >= TAGS_MAX_COUNT:
        return f"the tag {tag} is one too many: the job has {len(status.tags)}"
    return ""


def head_of(recorded: Recorded, event: JobCreated | JobUpdated) -> SpecHead | Anomaly | NotUnderstood:
    """Return the head of an event's spec, if the whole spec can be read and belongs to the event's job."""
    spec = bytes(event.data.spec)
    if is_too_deep(spec):
        return Anomaly(recorded.sequence, event.subject, "not a normalised spec: nested too deeply")
    try:
        head = spec_head(spec)
        # The head skips the other fields: without this, readers of the whole spec would fail later.
        _whole_decoder.decode(spec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"event {recorded.sequence} has a spec that can't be understood: {error}"
        return NotUnderstood(
            recorded.sequence, event.namespace, event.subject, reason[:QUARANTINE_REASON_CHARACTERS]
        )
    if head.namespace != event.namespace or not is_identity(head.namespace, head.name, event.subject):
        reason = f"the spec names another job ({head.namespace:.80}/{head.name:.80})"
        return Anomaly(recorded.sequence, event.subject, reason)
    return head
