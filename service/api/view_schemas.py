"""The shapes of answers about quarantine and damage."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, field


class UnreadEvent(msgspec.Struct, rename="pascal"):
    """An event that its readers can't use."""

    sequence: Annotated[int, Meta(ge=1, description="its position; the one to accept as unreadable")]
    reason: Annotated[str, Meta(description="what is wrong with it")]


class JobQuarantine(msgspec.Struct, rename="pascal"):
    """Why a job is frozen: all else of it is as it was before that event."""

    sequence: Annotated[int, Meta(ge=1, description="since which event")]
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
    next_token: Annotated[str, Meta(description="pass it as `next_token`; empty: this was the last page")]


class DamagedRange(msgspec.Struct, rename="pascal"):
    """Events that the log no longer holds."""

    first: Annotated[int, Meta(ge=1)]
    last: Annotated[int, Meta(ge=1)]
    events: Annotated[int, Meta(ge=1, description="how many sequences")]
    jobs: Annotated[
        list[QuarantinedJob], Meta(description="that are known to miss one of them; at most 1,000")
    ]


class Damage(msgspec.Struct, rename="pascal"):
    """One page of the damage that this service's view met."""

    items: list[DamagedRange]
    next_token: Annotated[str, Meta(description="pass it as `next_token`; empty: this was the last page")]
    events: Annotated[int, Meta(ge=0, description="missing sequences, in all")]
    provable_up_to: Annotated[
        int, Meta(ge=0, description="the Merkle tree ends before the first missing event; 0: it is whole")
    ]


class Healed(msgspec.Struct, rename="pascal"):
    """What folding the quarantined jobs again did."""

    jobs: Annotated[int, Meta(ge=0, description="that were in quarantine")]
    changed: Annotated[int, Meta(ge=0, description="of them, that came out otherwise")]
    quarantined: Annotated[int, Meta(ge=0, description="of them, that still are in quarantine")]


class AcceptRequest(msgspec.Struct, rename="pascal"):
    """The event that is accepted as unreadable."""

    sequence: Annotated[int, Meta(ge=1, description="as the job's `Quarantine.Unread` names it")]
    reason: Annotated[str, Meta(description="why; kept in the event")] = ""


BODIES: Final = (AcceptRequest,)
ANSWERS: Final = (QuarantinedJobs, Damage, Healed)
