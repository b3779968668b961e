"""What the view answers, besides jobs. Pure."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from jobledger.projections.limits import PAGE_MAX_BYTES
from jobledger.store.model.job import Job


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list.

    Attributes:
        jobs: in the order asked for.
        next_cursor: what to ask the next page with; None if there is none.
        sequence: the last event that the page reflects.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None
    sequence: int


class JobVersion(msgspec.Struct, frozen=True):
    """One version of a job's spec.

    Attributes:
        version: from 1.
        sequence: of the event that brought it.
        time: of that event, the stream's, Unix nanoseconds.
        spec: the normalised spec as JSON.
    """

    version: int
    sequence: int
    time: int
    spec: bytes


_Found = TypeVar("_Found")


def page_of(
    found: tuple[_Found, ...], size_of: Callable[[_Found], int], *, max_bytes: int = PAGE_MAX_BYTES
) -> tuple[_Found, ...]:
    """As many of these, from the first on, as fit into one page; at least one, if there is one."""
    size = 0
    for count, each in enumerate(found):
        size += size_of(each)
        if size > max_bytes and count:
            return found[:count]
    return found


def size_of_job(job: Job) -> int:
    """What a job adds to a page, in bytes, about."""
    return len(job.spec) + job.status.state.size


class Checkpoint(msgspec.Struct, frozen=True):
    """How far the view is.

    Attributes:
        epoch: names the log that it is made from; empty if it has not met one yet.
        sequence: the last event folded.
        anomalies: events so far that made no sense, in all.
    """

    epoch: str
    sequence: int
    anomalies: int


class Troubles(msgspec.Struct, frozen=True):
    """What of the log a view could not read.

    Attributes:
        quarantined: jobs that are frozen, also those of which nothing but the subject is known.
        damaged_events: sequences that are missing from the log, in all.
        holes: ranges of them.
        first_damaged: the first of them; 0: none.
        last_damaged: the last of them; 0: none.
    """

    quarantined: int = 0
    damaged_events: int = 0
    holes: int = 0
    first_damaged: int = 0
    last_damaged: int = 0
