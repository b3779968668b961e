"""The shapes of bodies and answers about a job's versions, and what counts them; see `schemas`."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, field

from jobledger.store.model.limits import TAG_MAX_CHARACTERS

Nanoseconds = Annotated[int, Meta(description="Unix nanoseconds, UTC; the stream's time, not the writer's")]
Sequence = Annotated[int, Meta(ge=0, description="the position in the stream; `wait_for` takes it")]
Cursor = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{12}-[0-9]+$", description="the same position, with the stream it is of")
]
Version = Annotated[int, Meta(ge=1, description="1 when created, +1 with each new spec")]
Revision = Annotated[int, Meta(ge=1, description="1 when created, +1 with each new spec or state; the ETag")]
TAG_PATTERN: Final = rf"^[A-Za-z][A-Za-z0-9._-]{{0,{TAG_MAX_CHARACTERS - 1}}}$"
Tag = Annotated[str, Meta(pattern=TAG_PATTERN)]
VersionName = Annotated[int, Meta(ge=0)] | Tag


class RevertRequest(msgspec.Struct, rename="pascal"):
    """What to go back to."""

    job_version: Annotated[VersionName, Meta(description="the version whose spec to take, or its tag")]
    reason: Annotated[str, Meta(description="why; else the event says which version it was")] = ""
    namespace: Annotated[str, Meta(description="as the query's `namespace`")] = ""


class TagRequest(msgspec.Struct, rename="pascal"):
    """What the tag names."""

    job_version: Annotated[VersionName, Meta(description="a version, or its other tag; 0: the latest")] = 0
    reason: Annotated[str, Meta(description="why; kept in the event")] = ""
    namespace: Annotated[str, Meta(description="as the query's `namespace`")] = ""


class VersionFacts(msgspec.Struct, rename="pascal"):
    """The event that brought a version, and the version's tags."""

    version: Version
    tags: list[Tag]
    time: Annotated[str, Meta(description="RFC 3339; when the stream took the event")]
    sequence: Sequence
    event_id: str = field(name="EventID")
    event_type: str
    actor: Annotated[str, Meta(description="who; empty if nobody said")]
    reason: Annotated[str, Meta(description="why; empty if nobody said")]


class TagItem(msgspec.Struct, rename="pascal"):
    """A tag, and the version that it names."""

    tag: Tag
    job_version: Version


class Tags(msgspec.Struct, rename="pascal"):
    """A job's tags, in the order of their names."""

    job_id: str = field(name="JobID")
    items: list[TagItem]


class Change(msgspec.Struct, rename="pascal"):
    """One place where two specs differ."""

    change: Literal["added", "removed", "changed", "moved"]
    path: Annotated[str, Meta(description="as `Tasks[0].Env.HOME`")]
    from_: Annotated[str, Meta(description="where a list element that moved was before")] = field(
        name="From", default=""
    )
    before: Annotated[Any, Meta(description="absent if there was nothing")] = UNSET
    after: Annotated[Any, Meta(description="absent if there is nothing")] = UNSET


class VersionsDiff(msgspec.Struct, rename="pascal"):
    """How two versions of a spec differ."""

    job_id: str = field(name="JobID")
    from_: Version = field(name="From")
    to: Version
    diff: Annotated[str, Meta(description="a unified text diff; empty if they are equal")]
    patch: Annotated[list[dict[str, Any]], Meta(description="RFC 6902, from the one to the other")]
    changes: list[Change]


class BlameItem(msgspec.Struct, rename="pascal"):
    """A field, and the event since which it has its value."""

    path: Annotated[str, Meta(description="as `Tasks[0].Env.HOME`, `State.Message` or `Tags.golden`")]
    pointer: Annotated[str, Meta(description="the same, as RFC 6901 writes it")]
    value: Annotated[Any, Meta(description="a text, a number, or an empty list or object")]
    actor: Annotated[str, Meta(description="who; empty if nobody said")]
    reason: Annotated[str, Meta(description="why; empty if nobody said")]
    time: Annotated[str, Meta(description="RFC 3339; when the stream took the event")]
    sequence: Sequence
    event_id: str = field(name="EventID")
    event_type: str
    version: Version
    revision: Revision


class Blame(msgspec.Struct, rename="pascal"):
    """Every field of a job, in the order of the document, as it was after one event."""

    job_id: str = field(name="JobID")
    version: Version
    revision: Revision
    sequence: Sequence
    cursor: Cursor
    items: list[BlameItem]
