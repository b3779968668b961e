"""The jobs that were modified last before a point, without a snapshot: few jobs are folded.

    the log, backwards from the point ──► jobs in the order of their last records, newest first
                                              │ each folded from its own records
            the page, if it is complete ◄── a small view of these jobs

A job whose last record is at or before a sequence was modified at or before the time of that record, provided
that the stream's time never went back. So the page is complete when all its jobs were modified later than the
last record of the first job that is not in that view.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple

from jobledger.projections.as_of.build import open_snapshot
from jobledger.projections.batch import Batch, fold_batch, read_events
from jobledger.projections.errors import AsOfBusy
from jobledger.projections.fair_queue import FairQueue
from jobledger.projections.limits import (
    ASOF_READS,
    ASOF_RECENT_BYTES,
    ASOF_RECENT_EVENTS,
    ASOF_RECENT_FIRST_EVENTS,
    ASOF_RECENT_JOB_EVENTS,
    ASOF_RECENT_JOBS,
    ASOF_RECENT_MAX_PAGES,
    ASOF_RECENT_PER_CLIENT,
    ASOF_RECENT_REMEMBERED,
    ASOF_RECENT_SECONDS,
    ASOF_RECENT_WAITING,
    ASOF_RETRY_SECONDS,
)
from jobledger.projections.query.query import ListQuery, Order
from jobledger.projections.results import Page
from jobledger.projections.view import View
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.lru import LRUCache
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import parse_subject

_FACTOR: Final = 4  # between the numbers of jobs, and of events, that are tried

WaitScope = Callable[[], AbstractContextManager[None]]
"""A context entered while a request waits, so that it does not occupy capacity."""


class _NeedsSnapshot(Exception):
    """The page cannot be found within the limits."""


class _Last(NamedTuple):
    """Where a record is, without its payload."""

    sequence: int
    time: int
    subject: str


class _Budget:
    """What is read of the histories of the jobs of one page, together."""

    def __init__(self) -> None:
        self._events = 0
        self._bytes = 0

    def add(self, record: Record) -> None:
        """Counts a record.

        Raises:
            _NeedsSnapshot: it exceeds ASOF_RECENT_EVENTS or ASOF_RECENT_BYTES.
        """
        self._events += 1
        self._bytes += len(record.payload)
        if self._events > ASOF_RECENT_EVENTS or self._bytes > ASOF_RECENT_BYTES:
            raise _NeedsSnapshot


class RecentPages:
    """Finds first pages in the order `modified`, descending, as of a point.

    Args:
        log: of the view.
        epoch: of the log.
        view: the live view.
        directory: of temporary files.
    """

    def __init__(self, log: EventLog, epoch: str, view: View, directory: Path) -> None:
        self._log = log
        self._epoch = epoch
        self._view = view
        self._directory = directory
        self._turns = FairQueue(
            ASOF_RECENT_MAX_PAGES,
            per_client=ASOF_RECENT_PER_CLIENT,
            waiting_per_client=ASOF_RECENT_WAITING,
            refusal=_too_many,
        )
        # Hashes of the pages that needed a snapshot: a collision only costs a snapshot.
        self._needed = LRUCache[int, bool](ASOF_RECENT_REMEMBERED, lambda _: 1)

    async def find(
        self,
        query: ListQuery,
        sequence: int,
        client: str = "",
        waiting: WaitScope = nullcontext,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Page | None:
        """The page as of a point that the live view has reached.

        Returns None if it needs a snapshot: another order, not the first page, a stream whose time went back,
        or no complete page within ASOF_RECENT_EVENTS events before the point, ASOF_RECENT_JOBS jobs and
        ASOF_RECENT_SECONDS. Such a page is not searched for again.

        Args:
            query: the filters.
            sequence: the point.
            client: the requesting client; searches are limited and scheduled per client.
            waiting: entered while the search waits for its start.
            turn: entered for the search.

        Raises:
            AsOfBusy: if too many searches of this client wait.
        """
        if query.order != Order.MODIFIED or not query.descending or query.cursor is not None:
            return None
        key = hash((sequence, query))
        if self._needed.get(key) or not await self._view.has_steady_clock():
            return None
        page = None
        try:
            async with asyncio.timeout(ASOF_RECENT_SECONDS):
                if not self._turns.try_enter(client):
                    with waiting():
                        await self._turns.enter(client)
                try:
                    async with turn():
                        page = await self._find(query, sequence)
                finally:
                    self._turns.leave(client)
        except (_NeedsSnapshot, TimeoutError):
            pass
        if page is None:
            self._needed.put(key, True)
        return page

    async def _find(self, query: ListQuery, sequence: int) -> Page | None:
        events = ASOF_RECENT_FIRST_EVENTS
        while True:
            after = max(0, sequence - min(events, ASOF_RECENT_EVENTS))
            page = await self._page_within(query, after, sequence)
            if page is not None or events >= ASOF_RECENT_EVENTS:
                return page
            events *= _FACTOR

    async def _page_within(self, query: ListQuery, after: int, sequence: int) -> Page | None:
        """The page; None if it takes jobs that have no record after `after`."""
        records = await self._records(after, sequence)
        last = _last_records(records, query)
        jobs = query.limit + 1
        while True:
            some = last[: min(jobs, ASOF_RECENT_JOBS)]
            is_all = len(some) == len(last)
            # No job outside `some` was modified after this time.
            bound = records[0].time if is_all else last[len(some)].time
            batch = await self._fold_jobs(some)
            batch.last_sequence, batch.last_time = sequence, records[-1].time
            page = await self._page_of(batch, query)
            if is_all and not after:
                return page
            if page.next_cursor is not None and page.jobs[-1].status.modify_time > bound:
                return page
            if is_all:
                return None
            if len(some) == ASOF_RECENT_JOBS:
                raise _NeedsSnapshot
            jobs *= _FACTOR

    async def _records(self, after: int, up_to: int) -> Sequence[_Last]:
        reader = await self._log.follow(after=after, epoch=self._epoch)
        records: list[_Last] = []
        try:
            while len(records) < up_to - after:
                taken = await reader.take(up_to - after - len(records))
                records += [_Last(each.sequence, each.time, each.subject) for each in taken]
        finally:
            await reader.close()
        if records[-1].sequence != up_to:  # one is missing
            raise _NeedsSnapshot
        return records

    async def _fold_jobs(self, last: Sequence[_Last]) -> Batch:
        """Fold jobs from their own records, of which these are the last."""
        places = [place for record in last if (place := parse_subject(record.subject)) is not None]
        known = await self._view.statuses(place.job_id for place in places)
        for place in places:
            status = known.get(place.job_id)
            if status is None or status.namespace != place.namespace:
                raise _NeedsSnapshot  # it is lost, or the id belongs to a job of another namespace
        batch, budget = Batch(), _Budget()
        for start in range(0, len(last), ASOF_READS):
            some = last[start : start + ASOF_READS]
            reads = [asyncio.create_task(self._history(each, budget)) for each in some]
            try:
                histories = await asyncio.gather(*reads)
            finally:
                for read in reads:  # one that is too long ends the others
                    read.cancel()
            for records in histories:
                fold_batch(read_events(records), {}, onto=batch)
                if batch.released or batch.lost:
                    raise _NeedsSnapshot
                batch.specs.clear()  # as in a snapshot
                await asyncio.sleep(0)  # other work continues
        batch.anomalies.clear()
        return batch

    async def _history(self, last: _Last, budget: _Budget) -> list[Record]:
        found: list[Record] = []
        async for record in records_between(self._log, last.subject, after=0, up_to=last.sequence):
            budget.add(record)
            found.append(record)
            if len(found) > ASOF_RECENT_JOB_EVENTS:
                raise _NeedsSnapshot
        return found

    async def _page_of(self, batch: Batch, query: ListQuery) -> Page:
        path = self._directory / f"recent-{uuid.uuid4().hex}.sqlite"
        try:
            async with open_snapshot(path, self._epoch, late_indexes=False) as (_, writer):
                await writer.write(batch)
            async with await View.open(path, readers=1, live=self._view.path) as small:
                return await small.list(query)
        finally:
            path.unlink(missing_ok=True)


def _too_many(count: int) -> AsOfBusy:
    return AsOfBusy(
        f"{count} other searches as of a point wait; try again later", retry_after_seconds=ASOF_RETRY_SECONDS
    )


def _last_records(records: Sequence[_Last], query: ListQuery) -> list[_Last]:
    """The last record of each job in the query's namespaces, newest first."""
    namespaces = query.asked_namespaces()
    last: dict[str, _Last] = {}
    for record in reversed(records):
        if record.subject not in last:
            where = parse_subject(record.subject)
            if where is not None and (namespaces is None or where.namespace in namespaces):
                last[record.subject] = record
    return [*last.values()]
