"""What of the log a view could not read, and the events of the log over time. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from jobledger.service.wire.fields import Cursor, EventTime, NextToken, Sequence


class UnreadEvent(msgspec.Struct, rename="pascal"):
    """An event that cannot be read."""

    sequence: Annotated[int, Meta(ge=1, description="its position; the one to accept as unreadable")]
    reason: Annotated[str, Meta(description="what is wrong with it")]


class JobQuarantine(msgspec.Struct, rename="pascal"):
    """Why a job is frozen. The rest of the job is as it was before that event."""

    sequence: Annotated[int, Meta(ge=1, description="the event that froze it first")]
    reason: Annotated[str, Meta(description="why")]
    unread: Annotated[list[UnreadEvent], Meta(description="every event that froze it; at most 64")]


class QuarantinedJob(JobQuarantine, rename="pascal", kw_only=True):
    """A job in quarantine."""

    job_id: str = field(name="JobID")
    namespace: str
    name: Annotated[str, Meta(description="empty if no event that creates the job can be read")]
    overflows: Annotated[bool, Meta(description="whether more events froze it than are listed")]


class QuarantinedJobs(msgspec.Struct, rename="pascal"):
    """One page of the jobs in quarantine."""

    items: list[QuarantinedJob]
    next_token: NextToken


class DamagedRange(msgspec.Struct, rename="pascal"):
    """Events that the log no longer holds."""

    first: Annotated[int, Meta(ge=1)]
    last: Annotated[int, Meta(ge=1)]
    events: Annotated[int, Meta(ge=1, description="how many sequences")]
    jobs: Annotated[
        list[QuarantinedJob], Meta(description="the jobs known to miss one of them; at most 1,000")
    ]


class Damage(msgspec.Struct, rename="pascal"):
    """One page of the damage that this service's view found."""

    items: list[DamagedRange]
    next_token: NextToken
    events: Annotated[int, Meta(ge=0, description="missing sequences in total")]
    provable_up_to: Annotated[
        int, Meta(ge=0, description="the Merkle tree ends before the first missing event; 0: it is complete")
    ]


class Healed(msgspec.Struct, rename="pascal"):
    """The result of folding the quarantined jobs again."""

    jobs: Annotated[int, Meta(ge=0, description="jobs that were in quarantine")]
    changed: Annotated[int, Meta(ge=0, description="how many of them changed")]
    quarantined: Annotated[int, Meta(ge=0, description="how many of them are still in quarantine")]


class TimedPoint(msgspec.Struct, rename="pascal"):
    """A point in the log, and when the stream accepted its event."""

    sequence: Sequence
    time: Annotated[str, Meta(description="RFC 3339; empty at 0")]
    cursor: Cursor


class EventsBucket(msgspec.Struct, rename="pascal"):
    """The events of an interval of time."""

    time: EventTime
    after: Annotated[int, Meta(ge=0, description="the last event before it")]
    sequence: Annotated[int, Meta(ge=0, description="its last event; `After` if it has none")]
    events: Annotated[int, Meta(ge=0)]


class Histogram(msgspec.Struct, rename="pascal"):
    """The events of the log over time, oldest first."""

    seconds: Annotated[int, Meta(ge=0, description="the width of an interval; 0 without events")]
    items: list[EventsBucket]
    to: Annotated[TimedPoint, Meta(description="the last event that is counted")]


class CreatedBucket(msgspec.Struct, rename="pascal"):
    """The jobs that were created in an interval of time."""

    time: Annotated[str, Meta(description="RFC 3339; where it begins")]
    jobs: Annotated[int, Meta(ge=0)]
    is_exact: Annotated[bool, Meta(description="false: there are more")]


class CreatedCounts(msgspec.Struct, rename="pascal"):
    """The jobs that were created over time, oldest first."""

    seconds: Annotated[int, Meta(ge=0, description="the width of an interval; 0 without jobs")]
    items: list[CreatedBucket]
    at: Annotated[TimedPoint, Meta(description="the point `at`, or the last event that the view reflects")]


class EventPage(msgspec.Struct, rename="pascal"):
    """One page of events, oldest first."""

    items: Annotated[list[dict[str, Any]], Meta(description="CloudEvents, as the live feed delivers them")]
    cursor: Annotated[Cursor, Meta(description="pass it as `after` for the next page")]
    sequence: Sequence
