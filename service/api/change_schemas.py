"""The shapes of what changed between two points; see `schemas`."""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.projections.subscriptions.filters import Match
from jobledger.service.api.version_schemas import Change, Cursor, Revision, Sequence, Tag, Version
from jobledger.store.model.job import State, StateType

NextToken = Annotated[str, Meta(description="pass it as `next_token`; empty: this was the last page")]


class Point(msgspec.Struct, rename="pascal"):
    """A point in the log: all events up to this sequence."""

    sequence: Sequence
    cursor: Cursor


class JobThen(msgspec.Struct, rename="pascal"):
    """What a job was at a point; its spec is told by how it changed."""

    version: Version
    revision: Revision
    state: State
    tags: dict[Tag, Version]


class ChangeEvent(msgspec.Struct, rename="pascal"):
    """One event of a job, with what the job became by it; a tag's event names its tag."""

    sequence: Sequence
    time: Annotated[str, Meta(description="RFC 3339; when the stream took the event")]
    event_id: str = field(name="EventID")
    event_type: str
    version: Version
    revision: Revision
    state: State
    actor: Annotated[str, Meta(description="who; empty if nobody said")]
    reason: Annotated[str, Meta(description="why; empty if nobody said")]
    tag: Annotated[str, Meta(description="the tag that was set or removed")] | UnsetType = UNSET
    tag_version: (
        Annotated[int, Meta(ge=0, description="what the tag names since; 0: it was removed")] | UnsetType
    ) = UNSET


class JobChanged(msgspec.Struct, rename="pascal"):
    """What became of a job between two points."""

    job_id: str = field(name="JobID")
    name: str
    namespace: str
    from_: Annotated[JobThen | None, Meta(description="at the first point; null if it was created later")] = (
        field(name="From")
    )
    to: Annotated[JobThen, Meta(description="at the second point")]
    states: Annotated[list[StateType], Meta(description="that its events in between brought it to, in order")]
    changes: Annotated[
        list[Change], Meta(description="how its spec differs; empty for a job that was created")
    ]
    more_changes: Annotated[int, Meta(ge=0, description="places where it differs that are not told")]
    is_compared: Annotated[bool, Meta(description="false if its specs are too large to be compared")]
    events: Annotated[list[ChangeEvent], Meta(description="oldest first")]
    more_events: Annotated[int, Meta(ge=0, description="later ones that are not told")]
    matches: (
        Annotated[
            Match,
            Meta(
                description="where labels are asked for: the job met them at the first point (`before`), at"
                " the second one (`after`), or at both"
            ),
        ]
        | UnsetType
    ) = UNSET


class Changes(msgspec.Struct, rename="pascal"):
    """One page of the jobs that changed; it may be short, or empty, and not be the last."""

    from_: Point = field(name="From")
    to: Point
    items: list[JobChanged]
    next_token: NextToken


ANSWERS: Final = (Changes,)
