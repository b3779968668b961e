"""What may happen to a job: one command, one event, or none because it is already so.

Pure: a decision sees the job as the log has it and returns the event to append. It refuses by raising; it
never folds. The transition rule stands here and nowhere else: a job that is not terminal may go to any other
state; terminal is final, except that a new spec version re-opens the job.
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
    """Refuse a job that is frozen: what it is now is not known, so nothing can be decided.

    Raises:
        JobQuarantined: with the first event that can't be read, and why.
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
        JobNotFound: if there is no such job.
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
    """A new job with this normalised spec.

    Raises:
        JobExists: if its namespace and name are taken.
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
    """A new spec for a job that exists; None if it equals the current one after normalisation.

    Args:
        job: as the log has it.
        spec: the normalised new spec.
        job_id: for the error.
        force: make a new version of an equal spec, too: the job begins again.

    Raises:
        JobNotFound: if there is no such job.
    """
    if job is None:
        raise not_found(job_id)
    if not force and _same_spec(job.spec, spec):
        return None
    return Decision(JobUpdated, SpecData(msgspec.Raw(spec)))


def decide_apply(job: Job | None, spec: bytes, *, job_id: str, force: bool = False) -> Decision | None:
    """Create the job, or update it if it exists; None if it exists with this very spec (unless forced)."""
    if job is None:
        return decide_create(None, spec)
    return decide_update(job, spec, job_id=job_id, force=force)


def decide_rerun(job: Job | None, spec: bytes | None, *, job_id: str) -> Decision:
    """Begin a job again, as a new version with the spec of an earlier one (None: of the present one).

    Raises:
        JobNotFound: if there is no such job.
        JobNotRerunnable: if it is still to be begun.
    """
    if job is None:
        raise not_found(job_id)
    state_type = job.status.state.state_type
    if not (state_type.is_terminal or state_type is StateType.RUNNING):
        raise JobNotRerunnable(
            f"job {job_id} is {state_type} and cannot be rerun: it has not begun yet; wait until it runs or"
            " has ended, or stop it first"
        )
    return Decision(JobUpdated, SpecData(msgspec.Raw(job.spec if spec is None else spec), rerun=True))


def decide_state(job: Job | None, state: State, *, job_id: str) -> Decision | None:
    """A new state; None if the job already has this very state: type, message and details.

    Raises:
        JobNotFound: if there is no such job.
        JobTerminal: if the job has ended in a state that differs in any of them.
    """
    if job is None:
        raise not_found(job_id)
    current = job.status.state
    if current == state:
        return None
    if current.state_type.is_terminal:
        raise JobTerminal(
            f"job {job_id} is in terminal state {current.state_type} and cannot transition to"
            f" {state.state_type}; only a new spec or a rerun re-opens it"
        )
    return Decision(JobStateChanged, StateData(state))


def decide_stop(job: Job | None, reason: str, *, job_id: str) -> Decision | None:
    """Stop a job; None if it is stopped already, whatever reason was given then.

    Raises:
        JobNotFound: if there is no such job.
        JobTerminal: if the job has Completed or Failed: it can't be stopped any more.
    """
    if job is not None and job.status.state.state_type is StateType.STOPPED:
        return None
    return decide_state(job, State(StateType.STOPPED, reason), job_id=job_id)


def decide_tag(job: Job | None, tag: str, version: int, *, job_id: str) -> Decision | None:
    """Let a tag name a version; None if it does.

    Raises:
        JobNotFound: if there is no such job.
        VersionNotFound: if the job has no such version.
        TooManyTags: if it is a new one, and the job has as many as it may have.
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
            f"job {job_id} has {len(status.tags)} tags, and at most {TAGS_MAX_COUNT} are taken;"
            " remove one first"
        )
    return Decision(JobTagged, TagData(tag, version))


def decide_untag(job: Job | None, tag: str, *, job_id: str) -> Decision | None:
    """Take a tag away; None if there is none.

    Raises:
        JobNotFound: if there is no such job.
    """
    if job is None:
        raise not_found(job_id)
    return Decision(JobTagged, TagData(tag, 0)) if tag in job.status.tags else None


def check_revision(job: Job | None, expected_revision: int | None, *, job_id: str) -> None:
    """Hold a command to the revision that its caller read (None: any).

    Raises:
        RevisionMismatch: if the job is at another revision; a job that does not exist is at 0.
    """
    current = job.status.revision if job is not None else 0
    if expected_revision is not None and current != expected_revision:
        raise RevisionMismatch(
            f"job {job_id} has revision {current} but expected {expected_revision};"
            " read it again, and decide on what it is now",
            job_id=job_id,
            revision=current,
            sequence=job.status.sequence if job is not None else 0,
        )


def contention(job: Job | None, *, job_id: str) -> Contention:
    """The error for a command that lost the race too often."""
    return Contention(
        f"job {job_id}: {COMMAND_MAX_ATTEMPTS} attempts lost the race against other writers;"
        " nothing was written; try again later",
        job_id=job_id,
        revision=job.status.revision if job is not None else 0,
        sequence=job.status.sequence if job is not None else 0,
    )


def not_found(job_id: str) -> JobNotFound:
    """The error for a job that the log does not hold."""
    return JobNotFound(
        f"job not found: {job_id}; check the id (named_job_id gives that of a namespace and name)"
    )


def is_same_data(current: EventData, new: EventData) -> bool:
    """Whether two events carry the same; specs are compared by what they mean."""
    if isinstance(current, SpecData) and isinstance(new, SpecData):
        return current.rerun == new.rerun and _same_spec(bytes(current.spec), bytes(new.spec))
    return current == new


def _same_spec(current: bytes, new: bytes) -> bool:
    """Whether two normalised specs say the same.

    Equal bytes nearly always tell; another writer's order may differ.
    """
    if current == new:
        return True
    try:
        return encode_spec(decode_spec(current)) == new
    except msgspec.DecodeError:
        return False  # what another writer put there is no spec to us; a good one mends the job
