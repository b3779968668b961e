"""The shapes of request bodies and answers, for `/openapi.json`: said once, as Structs, and made by nobody.

The service reads bodies with `store.reading` (keys in any case, every problem at once) and writes answers as
mappings; these Structs say what comes out of it. A test holds real answers against their schemas.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.service.api import (
    change_schemas,
    proof_schemas,
    seal_schemas,
    subscription_schemas,
    view_schemas,
)
from jobledger.service.api.version_schemas import (
    Blame,
    Change,
    Cursor,
    Nanoseconds,
    RevertRequest,
    Revision,
    Sequence,
    TagRequest,
    Tags,
    Version,
    VersionFacts,
    VersionName,
    VersionsDiff,
)
from jobledger.store.model.job import State, StateType
from jobledger.store.spec.spec import JOB_TYPES, NETWORK_TYPES, OPERATORS, JobSpec

NextToken = Annotated[str, Meta(description="pass it as `next_token`; empty: this was the last page")]
EventId = Annotated[str, Meta(description="the event's id; empty if nothing was to be changed or written")]
Warnings = Annotated[
    list[str] | None, Meta(description="what was ignored or changed in the request; null if nothing was")
]


class Job(JobSpec, frozen=True, kw_only=True):
    """A job: its spec as the user gave it, normalised, and what the ledger adds."""

    id: str = field(name="ID")
    state: State
    version: Version
    revision: Revision
    create_time: Nanoseconds
    modify_time: Nanoseconds
    quarantine: (
        Annotated[view_schemas.JobQuarantine, Meta(description="only of a job that is frozen")] | UnsetType
    ) = UNSET


class SubmitRequest(msgspec.Struct, rename="pascal"):
    """A job to create, or to give a new spec."""

    job: JobSpec
    force: Annotated[bool, Meta(description="a new version also if the spec is the present one")] = False
    reason: Annotated[str, Meta(description="why; kept in the event")] = ""


class DiffRequest(msgspec.Struct, rename="pascal"):
    """A spec to compare with the one that the job of its name has."""

    job: JobSpec


class StateRequest(msgspec.Struct, rename="pascal"):
    """The state that a job has come to."""

    state_type: Annotated[str, Meta(description="where it is; read in any case")]
    message: Annotated[str, Meta(description="for people")] = ""
    details: Annotated[dict[str, str], Meta(description="for machines")] = {}
    reason: Annotated[str, Meta(description="why; kept in the event")] = ""


class StopRequest(msgspec.Struct, rename="pascal"):
    """Why the job is stopped; the body may be left out, and the query's `reason` is as good."""

    reason: str = ""


class RerunRequest(msgspec.Struct, rename="pascal"):
    """What to run again."""

    job_version: Annotated[
        VersionName, Meta(description="the version whose spec to take, or its tag; 0: the latest")
    ] = 0
    reason: Annotated[str, Meta(description="why; kept in the event")] = ""
    namespace: Annotated[str, Meta(description="as the query's `namespace`")] = ""


class WriteAnswer(msgspec.Struct, rename="pascal"):
    """What a write did."""

    job_id: str = field(name="JobID")
    evaluation_id: EventId = field(name="EvaluationID")
    warnings: Warnings
    version: Version
    revision: Revision
    sequence: Sequence
    cursor: Cursor


class RerunAnswer(WriteAnswer, rename="pascal"):
    """What a rerun did."""

    job_version: Version


class DiffAnswer(msgspec.Struct, rename="pascal"):
    """How a spec differs from the present one."""

    diff: Annotated[str, Meta(description="a unified text diff; empty if nothing would change")]
    patch: Annotated[list[dict[str, Any]], Meta(description="RFC 6902, from the present spec to this one")]
    changes: list[Change]
    warnings: Warnings
    job_id: Annotated[str, Meta(description="empty for a new job without a name")] = field(name="JobID")
    version: Annotated[
        int, Meta(description="of the present spec; 0: with `compare=true`, there is no such job", ge=0)
    ]


class JobList(msgspec.Struct, rename="pascal"):
    """One page of jobs."""

    items: list[Job]
    next_token: NextToken
    sequence: Sequence
    cursor: Cursor


class Event(msgspec.Struct, rename="pascal"):
    """What Bacalhau's clients show of a history item."""

    topic: str
    message: str
    timestamp: Annotated[str, Meta(description="RFC 3339")]
    details: dict[str, str] | UnsetType = UNSET


class HistoryItem(msgspec.Struct, rename="pascal"):
    """One event of a job, with what the job became by it."""

    seq_num: Annotated[int, Meta(ge=0, description="as Revision")]
    type: Annotated[str, Meta(description="always JobLevel")]
    job_id: str = field(name="JobID")
    job_version: Annotated[int, Meta(ge=0)]
    event: Event
    time: Annotated[str, Meta(description="RFC 3339; when the stream took the event")]
    sequence: Sequence
    revision: Annotated[int, Meta(ge=0)]
    event_id: str = field(name="EventID")
    event_type: str
    state: State | None
    actor: Annotated[str, Meta(description="who; empty if nobody said")]
    reason: Annotated[str, Meta(description="why; empty if nobody said")]
    tag: Annotated[str, Meta(description="the tag that was set or removed")] | UnsetType = UNSET
    tag_version: (
        Annotated[int, Meta(ge=0, description="what the tag names since; 0: it was removed")] | UnsetType
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
    """One page of a job's history, oldest first. A live job's token is never empty: ask again with it."""

    items: list[HistoryItem]
    next_token: str


class Versions(msgspec.Struct, rename="pascal"):
    """A job as it was with each of its specs, ascending."""

    items: list[Job]
    versions: list[VersionFacts]
    next_token: NextToken


class NoItems(msgspec.Struct, rename="pascal"):
    """A list that is always empty: an orchestrator's executions are not kept here."""

    items: Annotated[list[dict[str, Any]], Meta(max_length=0)]
    next_token: Annotated[str, Meta(max_length=0)]


class JobAnswer(msgspec.Struct, rename="pascal"):
    """A job, and what was asked to be included."""

    job: Job
    history: History | UnsetType = UNSET
    executions: NoItems | UnsetType = UNSET
    sequence: Annotated[Sequence | UnsetType, Meta(description="the point, with `at`")] = UNSET
    cursor: Cursor | UnsetType = UNSET


class Alive(msgspec.Struct, rename="pascal"):
    """The process answers."""

    status: str


class AgentVersion(msgspec.Struct, rename="pascal"):
    """The release, in the shape that Bacalhau's clients read."""

    product: str
    major: str
    minor: str
    git_version: str
    git_commit: str
    build_date: str
    goos: str = field(name="GOOS")
    goarch: str = field(name="GOARCH")


class LoginMethod(msgspec.Struct):
    """A way to log in."""

    type: str
    params: dict[str, str]


class LoginMethods(msgspec.Struct, rename="pascal"):
    """The ways to log in, by name."""

    methods: dict[str, LoginMethod]


class Authentication(msgspec.Struct):
    """The result of logging in."""

    success: bool
    token: str


class LogIn(msgspec.Struct, rename="pascal"):
    """The result of logging in."""

    authentication: Authentication


class LoginConfiguration(msgspec.Struct, rename="pascal"):
    """Single sign-on: an empty configuration."""

    version: str
    config: Annotated[dict[str, str], Meta(max_length=0)]


class Fault(msgspec.Struct, rename="pascal"):
    """One thing that is wrong with a spec."""

    path: str
    message: str
    remedy: str | UnsetType = UNSET


class Problem(msgspec.Struct):
    """An RFC 9457 problem that also carries the fields of Bacalhau's errors.

    `Status`, Bacalhau's name of `status`, is in every problem too. It is not declared: generated clients do
    not compile with two fields whose names differ in case only.
    """

    type: Annotated[str, Meta(pattern="^urn:jobledger:problem:")]
    title: str
    status: int
    detail: str
    instance: str
    message: str = field(name="Message")
    request_id: str = field(name="RequestID")
    code: str = field(name="Code")
    component: str = field(name="Component")
    hint: str | UnsetType = field(name="Hint", default=UNSET)
    details: dict[str, str] | UnsetType = field(name="Details", default=UNSET)
    problems: list[Fault] | UnsetType = field(name="Problems", default=UNSET)
    revision: int | UnsetType = field(name="Revision", default=UNSET)
    sequence: int | UnsetType = field(name="Sequence", default=UNSET)
    missed: list[HistoryItem] | UnsetType = field(name="Missed", default=UNSET)
    candidates: list[str] | UnsetType = field(name="Candidates", default=UNSET)
    event_id: str | UnsetType = field(name="EventID", default=UNSET)
    job_id: str | UnsetType = field(name="JobID", default=UNSET)


# What `store.validation` holds a request to, as far as a schema can say it.
_COUNT: Final = {"minimum": 0}
RULES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "JobSpec": {"Type": {"enum": list(JOB_TYPES)}, "Tasks": {"minItems": 1}, "Count": _COUNT},
    "Task": {"Name": {"minLength": 1}},
    "Constraint": {"Key": {"minLength": 1}, "Operator": {"enum": list(OPERATORS)}},
    "Network": {"Type": {"enum": list(NETWORK_TYPES)}},
    "Timeouts": dict.fromkeys(("ExecutionTimeout", "QueueTimeout", "TotalTimeout"), _COUNT),
    "StateRequest": {"StateType": {"enum": [*map(str, StateType)]}},
}
NEEDED: Final = {
    "JobSpec": ("Type", "Tasks"),
    "Task": ("Name", "Engine"),
    "SpecConfig": ("Type",),
    "Constraint": ("Key", "Operator"),
    "InputSource": ("Source", "Target"),
    "ResultPath": ("Name", "Path"),
    "Port": ("Name",),
}
# Schemas whose objects have members that are not declared.
OPEN: Final = ("Problem",)
# Written by the service although the spec's own Struct may leave them out.
ALWAYS_IN_A_JOB: Final = ("Name", "Namespace", "Type", "Meta", "Labels", "Tasks")
BODIES: Final = (
    SubmitRequest,
    DiffRequest,
    StateRequest,
    StopRequest,
    RerunRequest,
    RevertRequest,
    TagRequest,
    *subscription_schemas.BODIES,
    *view_schemas.BODIES,
)
ANSWERS: Final = (
    WriteAnswer,
    RerunAnswer,
    DiffAnswer,
    JobList,
    History,
    Versions,
    Tags,
    VersionsDiff,
    Blame,
    NoItems,
    JobAnswer,
    Alive,
    AgentVersion,
    LoginMethods,
    LogIn,
    LoginConfiguration,
    Problem,
    *subscription_schemas.ANSWERS,
    *seal_schemas.ANSWERS,
    *proof_schemas.ANSWERS,
    *change_schemas.ANSWERS,
    *view_schemas.ANSWERS,
)
