"""Types of fields that several bodies and responses share. Pure."""

from typing import Annotated, Final

from msgspec import Meta

from jobledger.store.model.limits import TAG_MAX_CHARACTERS

TAG_PATTERN: Final = rf"^[A-Za-z][A-Za-z0-9._-]{{0,{TAG_MAX_CHARACTERS - 1}}}$"
CURSOR_PATTERN: Final = r"^[0-9a-f]{12}-[0-9]+$"

Nanoseconds = Annotated[int, Meta(description="Unix nanoseconds, UTC; the stream's time, not the writer's")]
Sequence = Annotated[int, Meta(ge=0, description="the position in the stream; `wait_for` takes it")]
Cursor = Annotated[
    str, Meta(pattern=CURSOR_PATTERN, description="the same position, with the stream it belongs to")
]
Position = Annotated[
    str,
    Meta(pattern=CURSOR_PATTERN, description="a position in the stream, with the stream it belongs to"),
]
NextToken = Annotated[str, Meta(description="pass it as `next_token`; empty on the last page")]
Version = Annotated[int, Meta(ge=1, description="1 when created, +1 with each new spec")]
Revision = Annotated[int, Meta(ge=1, description="1 when created, +1 with each new spec or state; the ETag")]
Tag = Annotated[str, Meta(pattern=TAG_PATTERN)]
# A string of digits is read as a number, so the pattern describes and is not enforced.
VersionName = Annotated[int, Meta(ge=0)] | Annotated[str, Meta(extra_json_schema={"pattern": TAG_PATTERN})]
Time = Annotated[str, Meta(description="RFC 3339")]
EventTime = Annotated[str, Meta(description="RFC 3339; when the stream accepted the event")]
Actor = Annotated[str, Meta(description="who; empty if not given")]
Reason = Annotated[str, Meta(description="why; empty if not given")]
ReasonText = Annotated[str, Meta(description="why; kept in the event")]
NamespaceText = Annotated[str, Meta(description="the namespace of the name; default: `default`")]
Warnings = Annotated[
    list[str] | None,
    Meta(description="what was ignored or changed in the request; null if nothing was"),
]
