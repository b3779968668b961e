"""Versions of a job, how specs differ, and which jobs changed between two points. Pure."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.projections.subscriptions.filters import Match
from jobledger.service.wire.fields import (
    Actor,
    Cursor,
    EventTime,
    NextToken,
    Reason,
    Revision,
    Sequence,
    Tag,
    Version,
    Warnings,
)
from jobledger.service.wire.jobs import Job
from jobledger.store.model.job import State, StateType


class VersionFacts(msgspec.Struct, rename="pascal"):
    """The event that created a version, and the version's tags."""

    version: Version
    tags: list[Tag]
    time: EventTime
    sequence: Sequence
    event_id: str = field(name="EventID")
    event_type: str
    actor: Actor
    reason: Reason


class Versions(msgspec.Struct, rename="pascal"):
    """A job as it was with each of its specs, ascending."""

    items: list[Job]
    versions: list[VersionFacts]
    next_token: NextToken


class TagItem(msgspec.Struct, rename="pascal"):
    """A tag, and the version that it names."""

    tag: Tag
    job_version: Version


class Tags(msgspec.Struct, rename="pascal"):
    """The tags of a job, ordered by name."""

    job_id: str = field(name="JobID")
    items: list[TagItem]


class Change(msgspec.Struct, rename="pascal", omit_defaults=True):
    """One place where two specs differ."""

    change: Literal["added", "removed", "changed", "moved"]
    path: Annotated[str, Meta(description="such as `Tasks[0].Env.HOME`")]
    from_: Annotated[str, Meta(description="the previous place of a list element that moved")] = field(
        name="From", default=""
    )
    before: Annotated[Any, Meta(description="absent if it was added")] = UNSET
    after: Annotated[Any, Meta(description="absent if it was removed")] = UNSET


class VersionsDiff(msgspec.Struct, rename="pascal"):
    """How two versions of a spec differ."""

    job_id: str = field(name="JobID")
    from_: Version = field(name="From")
    to: Version
    diff: Annotated[str, Meta(description="a unified text diff; empty if they are equal")]
    patch: Annotated[list[dict[str, Any]], Meta(description="RFC 6902, from the one to the other")]
    changes: list[Change]


class DiffAnswer(msgspec.Struct, rename="pascal"):
    """How a spec differs from the current one."""

    diff: Annotated[str, Meta(description="a unified text diff; empty if nothing would change")]
    patch: Annotated[list[dict[str, Any]], Meta(description="RFC 6902, from the current spec to this one")]
    changes: list[Change]
    warnings: Warnings
    job_id: Annotated[str, Meta(description="empty for a new job without a name")] = field(name="JobID")
    version: Annotated[
        int, Meta(description="of the current spec; 0: with `compare=true`, if the job does not exist", ge=0)
    ]


class BlameItem(msgspec.Struct, rename="pascal"):
    """A field, and the event that set its value."""

    path: Annotated[str, Meta(description="such as `Tasks[0].Env.HOME`, `State.Message` or `Tags.golden`")]
    pointer: Annotated[str, Meta(description="the same as an RFC 6901 JSON Pointer")]
    value: Annotated[Any, Meta(description="a string, a number, or an empty list or object")]
    actor: Actor
    reason: Reason
    time: EventTime
    sequence: Sequence
    event_id: str = field(name="EventID")
    event_type: str
    version: Version
    revision: Revision


class Blame(msgspec.Struct, rename="pascal"):
    """Every field of a job as it was after one event, in document order."""

    job_id: str = field(name="JobID")
    version: Version
    revision: Revision
    sequence: Sequence
    cursor: Cursor
    items: list[BlameItem]


class Point(msgspec.Struct, rename="pascal"):
    """A point in the log: all events up to this sequence."""

    sequence: Sequence
    cursor: Cursor


class JobThen(msgspec.Struct, rename="pascal"):
    """A job at a point, without its spec."""

    version: Version
    revision: Revision
    state: State
    tags: dict[Tag, Version]


class ChangeEvent(msgspec.Struct, rename="pascal"):
    """One event of a job, with the job's state after it; the event of a tag names the tag."""

    sequence: Sequence
    time: EventTime
    event_id: str = field(name="EventID")
    event_type: str
    version: Version
    revision: Revision
    state: State | None
    actor: Actor
    reason: Reason
    tag: Annotated[str, Meta(description="the tag that was set or removed")] | UnsetType = UNSET
    tag_version: (
        Annotated[int, Meta(ge=0, description="the version that the tag names now; 0: it was removed")]
        | UnsetType
    ) = UNSET


class JobChanged(msgspec.Struct, rename="pascal"):
    """How a job changed between two points."""

    job_id: str = field(name="JobID")
    name: str
    namespace: str
    from_: Annotated[JobThen | None, Meta(description="at the first point; null if it did not exist yet")] = (
        field(name="From")
    )
    to: Annotated[JobThen, Meta(description="at the second point")]
    states: Annotated[list[StateType], Meta(description="the states it passed through, in order")]
    changes: Annotated[
        list[Change], Meta(description="how its spec differs; empty for a job that was created")
    ]
    more_changes: Annotated[int, Meta(ge=0, description="further differences that are not listed")]
    is_compared: Annotated[bool, Meta(description="false if its specs are too large to be compared")]
    events: Annotated[list[ChangeEvent], Meta(description="oldest first")]
    more_events: Annotated[int, Meta(ge=0, description="later events that are not listed")]
    matches: (
        Annotated[
            Match,
            Meta(
                description="with `labels`: the job matched at the first point (`before`), at the second"
                " (`after`), or at both"
            ),
        ]
        | UnsetType
    ) = UNSET


class Changes(msgspec.Struct, rename="pascal"):
    """One page of the jobs that changed. A page may be short or empty without being the last."""

    from_: Point = field(name="From")
    to: Point
    items: list[JobChanged]
    next_token: NextToken
