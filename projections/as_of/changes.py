"""Which jobs changed between two points of the log, and how: page by page, in the order of their creation.

A job changed if its last event up to the second point is behind the first one. The view as of the second
point tells that at once; the live view does as well, as long as the second point is near the present: it has
all of these jobs, and a few that changed later only, which their events tell. How a job changed is folded
from its own events.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, Final

import msgspec

from jobledger.projections.as_of.job import records_as_of
from jobledger.projections.as_of.snapshots import SnapshotCache, WaitScope
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
    """What became of one job between two points.

    Attributes:
        before: the job at the first point; None if it did not exist yet.
        after: the job at the second point.
        items: its events in between, oldest first; bounded, see `events`.
        states: that it passed through, without repetition in a row; as bounded as the items.
        events: how many there were in between.
        matches: when the job met the labels that are asked for: at the first point, the second one, or both;
            None if none are.
    """

    before: Job | None
    after: Job
    items: tuple[HistoryItem, ...]
    states: tuple[StateType, ...]
    events: int
    matches: Match | None = None


class ChangesPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of changed jobs; it may hold fewer than were asked for, or none, and not be the last.

    Attributes:
        changes: in the order in which the jobs were created.
        after: the creating sequence to go on behind; None: that was all.
    """

    changes: tuple[JobChange, ...]
    after: int | None


class Between(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked.

    Attributes:
        first: the sequence of the first point.
        second: that of the second one, not before it.
        namespaces: only jobs of these; None: all.
        selector: only jobs whose labels meet this at the first point, at the second one, or both.
        limit: jobs on the page.
        after: `ChangesPage.after` of the page before; 0: the first page.
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
    copies: SnapshotCache,
    asked: Between,
    *,
    timeout_seconds: float = WAIT_DEFAULT_SECONDS,
    client: str = "",
    waiting: WaitScope = nullcontext,
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> ChangesPage:
    """One page of the jobs that changed.

    Args:
        log: what is folded.
        live: the live view.
        copies: of it.
        asked: which.
        timeout_seconds: how long to wait until the live view has come to the second point.
        client: who asks; see `SnapshotCache.at`.
        waiting: entered while something is waited for.
        turn: entered to read the jobs' histories, once nothing else has to be waited for.

    Raises:
        AsOfBusy: if the view as of the second point is needed and can't be made ready within a bound.
        WaitTimeout: if the live view does not come to the second point in time.
        ViewError: if a view can't be read.
        LogError: if the log can't be read.
    """
    if asked.first >= asked.second:
        return ChangesPage(changes=(), after=None)
    checkpoint = (await live.checkpoint()).sequence
    if checkpoint < asked.second:
        with waiting():
            await live.wait_for(asked.second, timeout_seconds)
        checkpoint = (await live.checkpoint()).sequence
    found: list[JobChange] = []
    after, read, size = asked.after, 0, 0
    async with AsyncExitStack() as stack:
        view = live
        if checkpoint - asked.second > ASOF_NEAR_MAX_EVENTS:
            view = await stack.enter_async_context(copies.at(asked.second, client, waiting))
        await stack.enter_async_context(turn())
        statuses = await _candidates(view, asked)
        looked_at = statuses[:CHANGES_PAGE_JOBS]
        for start in range(0, len(looked_at), CHANGES_READS):
            some = looked_at[start : start + CHANGES_READS]
            for status, (change, count) in zip(
                some, await asyncio.gather(*(_change(log, each, asked) for each in some)), strict=True
            ):
                read += count
                if change is not None:
                    change = _matched(change, asked.selector)  # noqa: PLW2901
                if change is not None:
                    size += _size_of(change)
                    if len(found) == asked.limit or (found and size > CHANGES_PAGE_BYTES):
                        return ChangesPage(changes=tuple(found), after=after)
                    found.append(change)
                after = status.created_sequence
            if read >= CHANGES_PAGE_EVENTS:
                break
    more = bool(statuses) and after < statuses[-1].created_sequence
    return ChangesPage(changes=tuple(found), after=after if more else None)


async def change_of(log: EventLog, status: JobStatus, first: int, second: int) -> JobChange | None:
    """What became of one job between two points; None if nothing did.

    Args:
        log: what is folded.
        status: of the job, as the view has it or newer.
        first: the sequence of the first point.
        second: that of the second one.

    Raises:
        LogError: if the log can't be read.
    """
    change, _ = await _change(log, status, Between(first=first, second=second, limit=1))
    return change


def _matched(change: JobChange, selector: Sequence[Requirement]) -> JobChange | None:
    """The change, with when the job met the selector; None if it did at neither point."""
    if not selector:
        return change
    before = spec_head(change.before.spec).labels if change.before is not None else None
    match = match_labels(selector, before, spec_head(change.after.spec).labels)
    return msgspec.structs.replace(change, matches=match) if match is not None else None


def _size_of(change: JobChange) -> int:
    """What a change adds to a page, in bytes, about."""
    jobs = sum(size_of_job(job) for job in (change.before, change.after) if job is not None)
    return jobs + sum(item.size for item in change.items)


async def _candidates(view: View, asked: Between) -> Sequence[JobStatus]:
    """A page of them and one more; more than are looked at, so that the last page is known for one."""
    within = ""
    names: tuple[str, ...] = ()
    if asked.namespaces is not None:
        names = tuple(asked.namespaces)
        within = f" AND namespace IN ({', '.join(f'?{5 + at}' for at in range(len(names)))})"
    parameters: tuple[Any, ...] = (asked.after, asked.second, asked.first, CHANGES_PAGE_JOBS + 1, *names)
    rows = await view.pool.long_rows(_CANDIDATES.format(within=within), parameters)
    return [status_of(row) for row in rows]


async def _change(log: EventLog, status: JobStatus, asked: Between) -> tuple[JobChange | None, int]:
    """What became of a job, and how many records that took."""
    before: Job | None = None
    job: Job | None = None
    items: list[HistoryItem] = []
    states: list[StateType] = []
    events = count = size = 0
    async for record in records_as_of(log, status, asked.second, last=last_read(status)):
        count += 1
        was = job.status if job is not None else None
        job = fold_job_on(job, read_record(record))
        if record.sequence <= asked.first:
            before = job
            continue
        if job is None or job.status.is_lost or job.status.sequence != record.sequence:
            continue  # it changed nothing that shows
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
