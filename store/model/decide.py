"""The decisions: for one command on one job, the event to append, or None if nothing changes.

Pure: a decision gets the job as it is in the log and returns an event or raises; it never folds. The
transition rule is here only: a job that is not terminal may move to any other state; a terminal state is
final, except that a new spec version reopens the job.
"""

from typing import NamedTuple

import msgspec

from jobledger.store.model.errors import (
    Contention,
    JobExists,
    JobNotFound,
    JobNotQuarantined,
    JobNotRerunnable,
    JobQuarantined,
    JobTerminal,
    RevisionMismatch,
    TooManyTags,
    VersionNotFound,
)
from jobledger.store.model.events import (
    AcceptData,
    EventClass,
    EventData,
    JobAccepted,
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    SpecData,
    StateData,
    TagData,
)
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.limits import COMMAND_MAX_ATTEMPTS, TAGS_MAX_COUNT
from jobledger.store.spec.spec import decode_spec, encode_spec


class Decision(NamedTuple):
    """An event to append, without its envelope."""

    event: EventClass
    data: EventData


def check_not_quarantined(status: JobStatus) -> None:
    """Refuse a frozen job: its current state is unknown.

    Raises:
        JobQuarantined: with the first event that can't be read.
    """
    quarantine = status.quarantine
    if quarantine is not None:
        raise JobQuarantined(
            f"job {status.id} is quarantined since event {quarantine.sequence}: {quarantine.reason};"
            " upgrade if a newer release wrote it, restore the log if it is lost, or accept the event as"
            " unreadable"
            f" (`jobledger job accept-unreadable {status.id} --sequence {quarantine.sequence}`)",
            job_id=status.id,
            namespace=status.namespace,
            sequence=quarantine.sequence,
            cause=quarantine.reason,
        )


def decide_accept(job: Job | None, sequence: int, *, job_id: str) -> Decision:
    """Accept that an event which froze the job can't be read.

    Raises:
        JobNotFound: if the job does not exist.
        JobNotQuarantined: if that event does not freeze the job.
    """
    if job is None:
        raise not_found(job_id)
    quarantine = job.status.quarantine
    unread = [each.sequence for each in quarantine.unread] if quarantine is not None else []
    if sequence not in unread:
        what = f"it is quarantined by: {', '.join(map(str, unread))}" if unread else "it is not quarantined"
        raise JobNotQuarantined(f"event {sequence} does not quarantine job {job_id}; {what}")
    return Decision(JobAccepted, AcceptData(sequence))


def decide_create(job: Job | None, spec: bytes) -> Decision:
    """Create a job with a normalized spec.

    Raises:
        JobExists: if a job has its namespace and name.
    """
    if job is not None:
        status = job.status
        raise JobExists(
            f"job {status.name!r} already exists in namespace {status.namespace!r} as {status.id};"
            " use update or apply to change it",
            job_id=status.id,
        )
    return Decision(JobCreated, SpecData(msgspec.Raw(spec)))


def decide_update(job: Job | None, spec: bytes, *, job_id: str, force: bool = False) -> Decision | None:
    """Give a job a new normalized spec; None if it equals the current one, unless forced.

    Raises:
        JobNotFound: if the job does not exist.
    """
    if job is None:
        raise not_found(job_id)
    if not force and _same_spec(job.spec, spec):
        return None
    return Decision(JobUpdated, SpecData(msgspec.Raw(spec)))


def decide_apply(job: Job | None, spec: bytes, *, job_id: str, force: bool = False) -> Decision | None:
    """Create the job, or update it if it exists. See `decide_create` and `decide_update`."""
    if job is None:
        return decide_create(None, spec)
    return decide_update(job, spec, job_id=job_id, force=force)


def decide_rerun(job: Job | None, spec: bytes | None, *, job_id: str) -> Decision:
    """Start a job again, as a new version with the spec of an earlier one (None: the current one).

    Raises:
        JobNotFound: if the job does not exist.
        JobNotRerunnable: if it has not started.
    """
    if job is None:
        raise not_found(job_id)
    state_type = job.status.state.state_type
    if not state_type.has_started:
        raise JobNotRerunnable(
            f"job {job_id} is {state_type} and cannot be rerun: it has not started; wait until it is running"
            " or finished, or stop it first"
        )
    return Decision(JobUpdated, SpecData(msgspec.Raw(job.spec if spec is None else spec), rerun=True))


def decide_state(job: Job | None, state: State, *, job_id: str) -> Decision | None:
    """Change the state of a job; None if type, message and details are equal to the current ones.

    Raises:
        JobNotFound: if the job does not exist.
        JobTerminal: if the job is terminal.
    """
    if job is None:
        raise not_found(job_id)
    current = job.status.state
    if current == state:
        return None
    if current.state_type.is_terminal:
        raise JobTerminal(
            f"job {job_id} is in terminal state {current.state_type} and cannot transition to"
            f" {state.state_type}; only a new spec or a rerun reopens it"
        )
    return Decision(JobStateChanged, StateData(state))


def decide_stop(job: Job | None, reason: str, *, job_id: str) -> Decision | None:
    """Stop a job; None if it is already Stopped, for any reason.

    Raises:
        JobNotFound: if the job does not exist.
        JobTerminal: if the job is Completed or Failed.
    """
    if job is not None and job.status.state.state_type is StateType.STOPPED:
        return None
    return decide_state(job, State(StateType.STOPPED, reason), job_id=job_id)


def decide_tag(job: Job | None, tag: str, version: int, *, job_id: str) -> Decision | None:
    """Set a tag to a version; None if it already names that version.

    Raises:
        JobNotFound: if the job does not exist.
        VersionNotFound: if the job has no such version.
        TooManyTags: if the job has the maximum number of tags.
    """
    if job is None:
        raise not_found(job_id)
    status = job.status
    if not 1 <= version <= status.version:
        raise VersionNotFound(
            f"job {job_id} has no version {version!r:.40}: its versions are 1 to {status.version}"
        )
    if status.tags.get(tag) == version:
        return None
    if tag not in status.tags and len(status.tags) >= TAGS_MAX_COUNT:
        raise TooManyTags(
            f"job {job_id} has {len(status.tags)} tags, the maximum is {TAGS_MAX_COUNT}; remove one first"
        )
    return Decision(JobTagged, TagData(tag, version))


def decide_untag(job: Job | None, tag: str, *, job_id: str) -> Decision | None:
    """Remove a tag; None if the job does not have it.

    Raises:
        JobNotFound: if the job does not exist.
    """
    if job is None:
        raise not_found(job_id)
    return Decision(JobTagged, TagData(tag, 0)) if tag in job.status.tags else None


def check_revision(job: Job | None, expected_revision: int | None, *, job_id: str) -> None:
    """Check the revision that a command expects (None: any); a job that does not exist has revision 0.

    Raises:
        RevisionMismatch: if the job has another revision.
    """
    current = job.status.revision if job is not None else 0
    if expected_revision is not None and current != expected_revision:
        raise RevisionMismatch(
            f"job {job_id} has revision {current} but expected {expected_revision};"
            " read the job again and repeat the command with its current revision",
            job_id=job_id,
            revision=current,
            sequence=job.status.sequence if job is not None else 0,
        )


def contention(job: Job | None, *, job_id: str) -> Contention:
    """Return the error for a command that lost the race too often."""
    return Contention(
        f"job {job_id}: {COMMAND_MAX_ATTEMPTS} attempts lost the race against other writers;"
        " nothing was written; try again later",
        job_id=job_id,
        revision=job.status.revision if job is not None else 0,
        sequence=job.status.sequence if job is not None else 0,
    )


def not_found(job_id: str) -> JobNotFound:
    """Return the error for a job that is not in the log."""
    return JobNotFound(
        f"job not found: {job_id}; check the id (named_job_id returns the id of a namespace and name)"
    )


def is_same_data(current: EventData, new: EventData) -> bool:
    """Return whether two events have equal data; specs are compared by their meaning."""
    if isinstance(current, SpecData) and isinstance(new, SpecData):
        return current.rerun == new.rerun and _same_spec(bytes(current.spec), bytes(new.spec))
    return current == new


def _same_spec(current: bytes, new: bytes) -> bool:
    """Return whether two normalized specs are equal; another writer may order keys differently."""
    if current == new:
        return True
    try:
        return encode_spec(decode_spec(current)) == new
    except msgspec.DecodeError:
        return False  # another writer's invalid spec, which a valid one replaces
