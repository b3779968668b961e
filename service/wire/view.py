"""Quarantine and damage: what of the log a view could not read. Pure."""

from typing import Annotated

import msgspec
from msgspec import Meta, field

from jobledger.service.wire.fields import NextToken


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
