"""Pages as of a point without a snapshot: few jobs are folded.

The jobs modified last, on the first page:

    the log, backwards from the point ──► jobs in the order of their last records, newest first
                                              │ each folded from its own records
            the page, if it is complete ◄── a small view of these jobs

A job whose last record is at or before a sequence was modified at or before the time of that record, provided
that the stream's time never went back. So the page is complete when all its jobs were modified later than the
last record of the first job that is not in that view.

Any page in the order of creation:

    the live view ──► the jobs of the page's namespaces that existed, in its order, from its cursor on
                          │ as they are if they have not changed since, otherwise folded
                          ▼
                      a small view of the first of these jobs ──► the page, if it is complete

A job's place in this order never changes. So the page is complete when it is full, or when that view has all
of these jobs.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from jobledger.projections.as_of.build import open_snapshot
from jobledger.projections.as_of.job import records_as_of
from jobledger.projections.batch import Batch, fold_batch, read_events
from jobledger.projections.errors import AsOfBusy
from jobledger.projections.fair_queue import FairQueue
from jobledger.projections.limits import (
    ASOF_DIRECT_BYTES,
    ASOF_DIRECT_EVENTS,
    ASOF_DIRECT_FIRST_EVENTS,
    ASOF_DIRECT_JOB_EVENTS,
    ASOF_DIRECT_JOBS,
    ASOF_DIRECT_MAX_PAGES,
    ASOF_DIRECT_PER_CLIENT,
    ASOF_DIRECT_REMEMBERED,
    ASOF_DIRECT_SECONDS,
    ASOF_DIRECT_WAITING,
    ASOF_READS,
    ASOF_RETRY_SECONDS,
)
from jobledger.projections.query.query import ListQuery, Order
from jobledger.projections.results import Page
from jobledger.projections.view import View
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.lru import LRUCache
from jobledger.store.model.events import Record
from jobledger.store.model.fold import last_read, spec_head
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import parse_subject

T = TypeVar("T")

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

    def add(self, size_bytes: int) -> None:
        """Counts a record, or a spec of the live view.

        Raises:
            _NeedsSnapshot: it exceeds ASOF_DIRECT_EVENTS or ASOF_DIRECT_BYTES.
        """
        self._events += 1
        self._bytes += size_bytes
        if self._events > ASOF_DIRECT_EVENTS or self._bytes > ASOF_DIRECT_BYTES:
            raise _NeedsSnapshot


class DirectPages:
    """Finds pages as of a point: first ones of the jobs modified last, and all in the order of creation.

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
            ASOF_DIRECT_MAX_PAGES,
            per_client=ASOF_DIRECT_PER_CLIENT,
            waiting_per_client=ASOF_DIRECT_WAITING,
            refusal=_too_many,
        )
        # Hashes of the pages that needed a snapshot: a collision only costs a snapshot.
        self._needed = LRUCache[int, bool](ASOF_DIRECT_REMEMBERED, lambda _: 1)

    async def find(
        self,
        query: ListQuery,
        sequence: int,
        client: str = "",
        waiting: WaitScope = nullcontext,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Page | None:
        """The page as of a point that the live view has reached.

        Returns None if it needs a snapshot: the jobs modified first, a later page of those modified last, a
        stream whose time went back, or no complete page within ASOF_DIRECT_EVENTS events before the point,
        ASOF_DIRECT_JOBS jobs and ASOF_DIRECT_SECONDS. Such a page is not searched for again.

        Args:
            query: filters and order.
            sequence: the point.
            client: the requesting client; searches are limited and scheduled per client.
            waiting: entered while the search waits for its start.
            turn: entered for the search.

        Raises:
            AsOfBusy: if too many searches of this client wait.
        """
        if query.order == Order.MODIFIED and not (query.descending and query.cursor is None):
            return None
        key = hash((sequence, query))
        if self._needed.get(key) or not await self._view.has_steady_clock():
            return None
        page = None
        try:
            async with asyncio.timeout(ASOF_DIRECT_SECONDS):
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
        if query.order == Order.CREATED:
            return await self._created(query, sequence)
        events = ASOF_DIRECT_FIRST_EVENTS
        while True:
            after = max(0, sequence - min(events, ASOF_DIRECT_EVENTS))
            page = await self._page_within(query, after, sequence)
            if page is not None or events >= ASOF_DIRECT_EVENTS:
                return page
            events *= _FACTOR

    async def _page_within(self, query: ListQuery, after: int, sequence: int) -> Page | None:
        """The page; None if it takes jobs that have no record after `after`."""
        records = await self._records(after, sequence)
        last = _last_records(records, query)
        jobs = query.limit + 1
        while True:
            some = last[: min(jobs, ASOF_DIRECT_JOBS)]
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
            if len(some) == ASOF_DIRECT_JOBS:
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
        for some in _chunks(last):
            histories = (
                records_between(self._log, each.subject, after=0, up_to=each.sequence) for each in some
            )
            await _fold_histories(batch, budget, histories)
        return batch

    # --- in the order of creation -------------------------------------------------------------------------

    async def _created(self, query: ListQuery, sequence: int) -> Page | None:
        record = await self._log.read_at(sequence)
        if record is None or await self._view.lost_jobs(limit=1):
            raise _NeedsSnapshot  # a lost job may have been in the list
        existed = await self._view.existing(query, sequence, record.time, limit=ASOF_DIRECT_JOBS)
        if len(existed) == ASOF_DIRECT_JOBS <= query.limit:
            return None
        batch, budget = Batch(), _Budget()
        count, jobs = 0, query.limit + 1
        while True:
            for some in _chunks(existed[count:jobs]):
                await self._fold_existing(batch, budget, some, sequence)
            count = min(jobs, len(existed))
            batch.last_sequence, batch.last_time = sequence, record.time
            page = await self._page_of(batch, query)
            is_all = count == len(existed) < ASOF_DIRECT_JOBS
            if is_all or page.next_cursor is not None:
                return page
            if count == len(existed):
                return None
            jobs *= _FACTOR

    async def _fold_existing(
        self, batch: Batch, budget: _Budget, some: Sequence[JobStatus], sequence: int
    ) -> None:
        """Add jobs as of a sequence to a batch."""
        same = [each for each in some if last_read(each) <= sequence and each.quarantine is None]
        specs = await self._view.specs_at(each.spec_sequence for each in same)
        if len(specs) != len(same):
            raise _NeedsSnapshot  # the view is being rebuilt
        for status in same:
            spec = specs[status.spec_sequence]
            budget.add(len(spec))
            batch.created[status.id] = status, spec_head(spec)
            batch.statuses[status.id] = status
        known = {each.id for each in same}
        changed = [each for each in some if each.id not in known]
        histories = (records_as_of(self._log, each, sequence, last=last_read(each)) for each in changed)
        await _fold_histories(batch, budget, histories)

    # --- the page -----------------------------------------------------------------------------------------

    async def _page_of(self, batch: Batch, query: ListQuery) -> Page:
        path = self._directory / f"page-{uuid.uuid4().hex}.sqlite"
        try:
            async with open_snapshot(path, self._epoch, late_indexes=False) as (_, writer):
                await writer.write(batch)
            async with await View.open(path, readers=1, live=self._view.path) as small:
                return await small.list(query)
        finally:
            path.unlink(missing_ok=True)


async def _fold_histories(batch: Batch, budget: _Budget, histories: Iterable[AsyncIterator[Record]]) -> None:
    """Read the records of a few jobs, all at once, and fold each job onto a batch."""
    reads = [asyncio.create_task(_read(each, budget)) for each in histories]
    try:
        found = await asyncio.gather(*reads)
    finally:
        for read in reads:  # one that is too long ends the others
            read.cancel()
    for records in found:
        fold_batch(read_events(records), {}, onto=batch)
        if batch.released or batch.lost:
            raise _NeedsSnapshot
        batch.specs.clear()  # as in a snapshot
        batch.anomalies.clear()
        await asyncio.sleep(0)  # other work continues


async def _read(history: AsyncIterator[Record], budget: _Budget) -> list[Record]:
    found: list[Record] = []
    async for record in history:
        budget.add(len(record.payload))
        found.append(record)
        if len(found) > ASOF_DIRECT_JOB_EVENTS:
            raise _NeedsSnapshot
    return found


def _chunks(items: Sequence[T]) -> Iterable[Sequence[T]]:
    """Parts whose histories are read at once."""
    return (items[start : start + ASOF_READS] for start in range(0, len(items), ASOF_READS))


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
