"""The jobs that changed between two points of the log, and their changes, page by page in order of creation.

A job changed if its last event up to the second point is after the first point. The view as of the second
point gives these jobs directly. If the second point is near the end of the log, the live view is used
instead: it has these jobs and some that changed only later, which their events show. The changes of a job are
folded from its own events.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, Final

import msgspec

from jobledger.projections.as_of.direct import WaitScope
from jobledger.projections.as_of.job import records_as_of
from jobledger.projections.as_of.snapshots import SnapshotCache
from jobledger.projections.limits import (
    ASOF_NEAR_MAX_EVENTS,
    CHANGES_JOB_BYTES,
    CHANGES_JOB_EVENTS,
    CHANGES_PAGE_BYTES,
    CHANGES_PAGE_EVENTS,
    CHANGES_PAGE_JOBS,
    CHANGES_READS,
    WAIT_DEFAULT_SECONDS,
)
from jobledger.projections.query.selectors import Requirement
from jobledger.projections.results import size_of_job
from jobledger.projections.rows import STATUS_COLUMNS, status_of
from jobledger.projections.subscriptions.filters import Match, match_labels
from jobledger.projections.view import View
from jobledger.store.log import EventLog
from jobledger.store.model.events import read_record
from jobledger.store.model.fold import fold_job_on, last_read, spec_head
from jobledger.store.model.history import HistoryItem, build_history_item
from jobledger.store.model.job import Job, JobStatus, StateType

_CANDIDATES: Final = (
    f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs"
    " WHERE created_sequence > ?1 AND created_sequence <= ?2 AND sequence > ?3{within}"
    " ORDER BY created_sequence LIMIT ?4"
)


class JobChange(msgspec.Struct, frozen=True, kw_only=True):
    """The changes of one job between two points.

    Attributes:
        before: the job at the first point; None if it did not exist yet.
        after: the job at the second point.
        items: its events in between, oldest first; bounded, unlike `events`.
        states: its successive states in `items`, without consecutive duplicates.
        events: number of events in between.
        matches: whether the job matches the selector at the first point, the second, or both; None without a
            selector.
    """

    before: Job | None
    after: Job
    items: tuple[HistoryItem, ...]
    states: tuple[StateType, ...]
    events: int
    matches: Match | None = None


class ChangesPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of changed jobs. A page that is not the last may have fewer than `limit` jobs, or none.

    Attributes:
        changes: in the order of creation of the jobs.
        after: `ChangesQuery.after` of the next page; None on the last page.
    """

    changes: tuple[JobChange, ...]
    after: int | None


class ChangesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for changed jobs.

    Attributes:
        first: sequence of the first point.
        second: sequence of the second point, not before the first.
        namespaces: only jobs of these namespaces; None for all.
        selector: only jobs that match at the first point, the second, or both.
        limit: maximum number of jobs on the page.
        after: `ChangesPage.after` of the previous page; 0 for the first page.
    """

    first: int
    second: int
    namespaces: Collection[str] | None = None
    selector: tuple[Requirement, ...] = ()
    limit: int
    after: int = 0


async def changes_between(
    log: EventLog,
    live: View,
    snapshots: SnapshotCache,
    query: ChangesQuery,
    *,
    timeout_seconds: float = WAIT_DEFAULT_SECONDS,
    client: str = "",
    waiting: WaitScope = nullcontext,
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> ChangesPage:
    """One page of changed jobs; raises the errors of `AsOf.list`.

    Args:
        log: of the view.
        live: the live view.
        snapshots: of the live view.
        query: the query.
        timeout_seconds: maximum wait for the live view to reach the second point.
        client: see `SnapshotCache.at`.
        waiting: entered while waiting.
        turn: entered to read the jobs' histories, when no further wait is needed.
    """
    if query.first >= query.second:
        return ChangesPage(changes=(), after=None)
    checkpoint = (await live.checkpoint()).sequence
    if checkpoint < query.second:
        with waiting():
            await live.wait_for(query.second, timeout_seconds)
        checkpoint = (await live.checkpoint()).sequence
    found: list[JobChange] = []
    after, read, size = query.after, 0, 0
    async with AsyncExitStack() as stack:
        view = live
        if checkpoint - query.second > ASOF_NEAR_MAX_EVENTS:
            view = await stack.enter_async_context(snapshots.at(query.second, client, waiting))
        await stack.enter_async_context(turn())
        statuses = await _candidates(view, query)
        examined = statuses[:CHANGES_PAGE_JOBS]
        for start in range(0, len(examined), CHANGES_READS):
            some = examined[start : start + CHANGES_READS]
            for status, (change, count) in zip(
                some, await asyncio.gather(*(_change(log, each, query) for each in some)), strict=True
            ):
                read += count
                if change is not None:
                    change = _matched(change, query.selector)  # noqa: PLW2901
                if change is not None:
                    size += _size_of(change)
                    if len(found) == query.limit or (found and size > CHANGES_PAGE_BYTES):
                        return ChangesPage(changes=tuple(found), after=after)
                    found.append(change)
                after = status.created_sequence
            if read >= CHANGES_PAGE_EVENTS:
                break
    more = bool(statuses) and after < statuses[-1].created_sequence
    return ChangesPage(changes=tuple(found), after=after if more else None)


async def change_of(log: EventLog, status: JobStatus, first: int, second: int) -> JobChange | None:
    """The changes of one job between two points; None if it did not change."""
    change, _ = await _change(log, status, ChangesQuery(first=first, second=second, limit=1))
    return change


def _matched(change: JobChange, selector: Sequence[Requirement]) -> JobChange | None:
    """Set `matches`; None if the job matches the selector at neither point."""
    if not selector:
        return change
    before = spec_head(change.before.spec).labels if change.before is not None else None
    match = match_labels(selector, before, spec_head(change.after.spec).labels)
    return msgspec.structs.replace(change, matches=match) if match is not None else None


def _size_of(change: JobChange) -> int:
    """The approximate number of bytes that a change adds to a page."""
    jobs = sum(size_of_job(job) for job in (change.before, change.after) if job is not None)
    return jobs + sum(item.size for item in change.items)


async def _candidates(view: View, query: ChangesQuery) -> Sequence[JobStatus]:
    """The jobs that may have changed: one more than are examined, to detect the last page."""
    within = ""
    names: tuple[str, ...] = ()
    if query.namespaces is not None:
        names = tuple(query.namespaces)
        within = f" AND namespace IN ({', '.join(f'?{5 + at}' for at in range(len(names)))})"
    parameters: tuple[Any, ...] = (query.after, query.second, query.first, CHANGES_PAGE_JOBS + 1, *names)
    rows = await view.pool.long_rows(_CANDIDATES.format(within=within), parameters)
    return [status_of(row) for row in rows]


async def _change(log: EventLog, status: JobStatus, query: ChangesQuery) -> tuple[JobChange | None, int]:
    """The changes of a job, and the number of records read."""
    before: Job | None = None
    job: Job | None = None
    items: list[HistoryItem] = []
    states: list[StateType] = []
    events = count = size = 0
    async for record in records_as_of(log, status, query.second, last=last_read(status)):
        count += 1
        was = job.status if job is not None else None
        job = fold_job_on(job, read_record(record))
        if record.sequence <= query.first:
            before = job
            continue
        if job is None or job.status.is_lost or job.status.sequence != record.sequence:
            continue  # it changed nothing visible
        events += 1
        if len(items) < CHANGES_JOB_EVENTS and (not items or size <= CHANGES_JOB_BYTES):
            item, _ = build_history_item(record, was)
            items.append(item)
            size += item.size
            if not states or states[-1] != job.status.state.state_type:
                states.append(job.status.state.state_type)
    if job is None or job.status.is_lost or not events:
        return None, count
    before = before if before is not None and not before.status.is_lost else None
    change = JobChange(before=before, after=job, items=tuple(items), states=tuple(states), events=events)
    return change, count
