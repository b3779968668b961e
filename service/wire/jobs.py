"""Jobs: submissions, states, lists and histories. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.service.wire.fields import (
    Actor,
    Cursor,
    EventTime,
    NamespaceText,
    Nanoseconds,
    NextToken,
    Reason,
    ReasonText,
    Revision,
    Sequence,
    Version,
    VersionName,
    Warnings,
)
from jobledger.service.wire.view import JobQuarantine
from jobledger.store.model.job import State, StateType
from jobledger.store.spec.spec import JobSpec


class Job(JobSpec, frozen=True, kw_only=True):
    """A job: its normalized spec, and what the ledger adds."""

    id: str = field(name="ID")
    state: State
    version: Version
    revision: Revision
    create_time: Nanoseconds
    modify_time: Nanoseconds
    quarantine: Annotated[JobQuarantine, Meta(description="only of a job that is frozen")] | UnsetType = UNSET


class JobWrite(msgspec.Struct, rename="pascal", kw_only=True):
    """What every write of a job may contain."""

    reason: ReasonText = ""
    namespace: NamespaceText = ""


class SubmitRequest(JobWrite, rename="pascal", kw_only=True):
    """A job to create, or a new spec for a job."""

    job: JobSpec
    force: Annotated[bool, Meta(description="make a new version even if the spec is the current one")] = False


class DiffRequest(SubmitRequest, rename="pascal", kw_only=True):
    """A spec to compare with that of the job of its name: the body of a submission, but only `Job` counts."""


class StateRequest(JobWrite, rename="pascal", kw_only=True):
    """The new state of a job."""

    state_type: Annotated[
        str,
        Meta(
            description="the state; read case-insensitively",
            extra_json_schema={"enum": [*map(str, StateType)]},
        ),
    ]
    message: Annotated[str, Meta(description="for people")] = ""
    details: Annotated[dict[str, str], Meta(description="for programs")] = {}


class StopRequest(JobWrite, rename="pascal", kw_only=True):
    """Why. The body is optional; the query parameter `reason` does the same."""


class RerunRequest(JobWrite, rename="pascal", kw_only=True):
    """What to run again."""

    job_version: Annotated[
        VersionName, Meta(description="the version whose spec to use, or its tag; 0: the latest")
    ] = 0


class RevertRequest(JobWrite, rename="pascal", kw_only=True):
    """What to return to."""

    job_version: Annotated[VersionName, Meta(description="the version whose spec to use, or its tag")]


class TagRequest(JobWrite, rename="pascal", kw_only=True):
    """What the tag names."""

    job_version: Annotated[
        VersionName, Meta(description="a version, or another tag of it; 0: the latest")
    ] = 0


class AcceptRequest(JobWrite, rename="pascal", kw_only=True):
    """The event to accept as unreadable."""

    sequence: Annotated[int, Meta(ge=1, description="as in the job's `Quarantine.Unread`")]


class WriteAnswer(msgspec.Struct, rename="pascal"):
    """The result of a write."""

    job_id: str = field(name="JobID")
    evaluation_id: Annotated[str, Meta(description="the event's id; empty if nothing was written")] = field(
        name="EvaluationID"
    )
    warnings: Warnings
    version: Version
    revision: Revision
    sequence: Sequence
    cursor: Cursor


class RerunAnswer(WriteAnswer, rename="pascal"):
    """The result of a rerun."""

    job_version: Version


class JobList(msgspec.Struct, rename="pascal"):
    """One page of jobs."""

    items: list[Job]
    next_token: NextToken
    sequence: Sequence
    cursor: Cursor


class StateCount(msgspec.Struct, rename="pascal"):
    """How many jobs are in a state."""

    state: StateType
    count: Annotated[int, Meta(ge=0)]
    is_exact: Annotated[bool, Meta(description="false: there are at least this many")]


class JobCounts(msgspec.Struct, rename="pascal"):
    """How many jobs match the filters, by state; every state is listed."""

    items: list[StateCount]
    limit: Annotated[int, Meta(description="jobs of one state that are counted at most")]
    sequence: Sequence
    cursor: Cursor


class Event(msgspec.Struct, rename="pascal"):
    """What Bacalhau's clients show of a history item."""

    topic: str
    message: str
    timestamp: Annotated[str, Meta(description="RFC 3339")]
    details: dict[str, str] | UnsetType = UNSET


class HistoryItem(msgspec.Struct, rename="pascal"):
    """One event of a job, with the job's state after it."""

    seq_num: Annotated[int, Meta(ge=0, description="same as Revision")]
    type: Annotated[str, Meta(description="always JobLevel")]
    job_id: str = field(name="JobID")
    job_version: Annotated[int, Meta(ge=0)]
    event: Event
    time: EventTime
    sequence: Sequence
    revision: Annotated[int, Meta(ge=0)]
    event_id: str = field(name="EventID")
    event_type: str
    state: State | None
    actor: Actor
    reason: Reason
    tag: Annotated[str, Meta(description="the tag that was set or removed")] | UnsetType = UNSET
    tag_version: (
        Annotated[int, Meta(ge=0, description="the version that the tag names now; 0: it was removed")]
        | UnsetType
    ) = UNSET
    quarantine: (
        Annotated[str, Meta(description="why the job was in quarantine after it; absent: it was not")]
        | UnsetType
    ) = UNSET
    accepted_sequence: (
        Annotated[int, Meta(ge=1, description="the event that this one accepts as unreadable")] | UnsetType
    ) = UNSET
    cursor: Cursor | UnsetType = UNSET


class History(msgspec.Struct, rename="pascal"):
    """One page of a job's history, oldest first. The token of a live job is never empty: use it to poll."""

    items: list[HistoryItem]
    next_token: str


class NoItems(msgspec.Struct, rename="pascal"):
    """A list that is always empty: Jobledger does not store executions."""

    items: Annotated[list[dict[str, Any]], Meta(max_length=0)]
    next_token: Annotated[str, Meta(max_length=0)]


class JobAnswer(msgspec.Struct, rename="pascal"):
    """A job, and what `include` names."""

    job: Job
    history: History | UnsetType = UNSET
    executions: NoItems | UnsetType = UNSET
    sequence: Annotated[Sequence | UnsetType, Meta(description="the point, with `at`")] = UNSET
    cursor: Cursor | UnsetType = UNSET
