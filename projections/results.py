"""Results of view queries. Pure."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from jobledger.projections.limits import PAGE_MAX_BYTES
from jobledger.store.model.job import Job


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list.

    Attributes:
        jobs: in list order.
        next_cursor: the cursor of the next page; None on the last page.
        sequence: the last event that the page reflects.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None
    sequence: int


class StateCount(msgspec.Struct, frozen=True):
    """The number of jobs in a state, up to `COUNT_MAX_JOBS`.

    Attributes:
        is_exact: whether there are no others: neither the limit nor the end of the scan was reached.
    """

    count: int
    is_exact: bool


class JobVersion(msgspec.Struct, frozen=True):
    """One version of a job's spec.

    Attributes:
        version: from 1.
        sequence: of the event that set it.
        time: stream time of that event, Unix nanoseconds.
        spec: the normalized spec as JSON.
    """

    version: int
    sequence: int
    time: int
    spec: bytes


class Checkpoint(msgspec.Struct, frozen=True):
    """The position of a view.

    Attributes:
        epoch: of the log that the view is made from; empty if the view has not read any log yet.
        sequence: the last event applied.
        anomalies: total number of events that contradicted the state of their job.
        time: stream time of the last event, Unix nanoseconds; 0 if unknown.
    """

    epoch: str
    sequence: int
    anomalies: int
    time: int


class Troubles(msgspec.Struct, frozen=True):
    """Counts of what a view could not read from the log.

    Attributes:
        quarantined: jobs in quarantine, including lost ones.
        damaged_events: sequences missing from the log.
        holes: ranges of missing sequences.
        first_damaged: the first missing sequence; 0 if there is none.
        last_damaged: the last missing sequence; 0 if there is none.
    """

    quarantined: int = 0
    damaged_events: int = 0
    holes: int = 0
    first_damaged: int = 0
    last_damaged: int = 0


_Item = TypeVar("_Item")


def fit_page(
    items: tuple[_Item, ...], size_of: Callable[[_Item], int], *, max_bytes: int = PAGE_MAX_BYTES
) -> tuple[_Item, ...]:
    """The longest prefix of items that fits into `max_bytes`, but at least one item."""
    size = 0
    for count, item in enumerate(items):
        size += size_of(item)
        if size > max_bytes and count:
            return items[:count]
    return items


def size_of_job(job: Job) -> int:
    """The approximate number of bytes that a job adds to a page."""
    return len(job.spec) + job.status.state.size
