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
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jobledger.projections.as_of.build import open_snapshot
from jobledger.projections.batch import Batch, fold_batch, read_events
from jobledger.projections.limits import (
    ASOF_READS,
    ASOF_RECENT_EVENTS,
    ASOF_RECENT_FIRST_EVENTS,
    ASOF_RECENT_JOBS,
)
from jobledger.projections.query.query import ListQuery, Order
from jobledger.projections.results import Page
from jobledger.projections.view import View
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import parse_subject

_FACTOR: Final = 4  # between the numbers of jobs, and of events, that are tried


class _NeedsSnapshot(Exception):
    """The page cannot be found within the limits."""


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

    async def find(self, query: ListQuery, sequence: int) -> Page | None:
        """The page as of a point that the live view has reached.

        Returns None if it needs a snapshot: another order, not the first page, a stream whose time went back,
        or no complete page within ASOF_RECENT_EVENTS events before the point and ASOF_RECENT_JOBS jobs.
        """
        if query.order != Order.MODIFIED or not query.descending or query.cursor is not None:
            return None
        if not await self._view.has_steady_clock():
            return None
        events = ASOF_RECENT_FIRST_EVENTS
        try:
            while True:
                after = max(0, sequence - min(events, ASOF_RECENT_EVENTS))
                page = await self._page_within(query, after, sequence)
                if page is not None or events >= ASOF_RECENT_EVENTS:
                    return page
                events *= _FACTOR
        except _NeedsSnapshot:
            return None

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

    async def _records(self, after: int, up_to: int) -> Sequence[Record]:
        reader = await self._log.follow(after=after, epoch=self._epoch)
        records: list[Record] = []
        try:
            while len(records) < up_to - after:
                records += await reader.take(up_to - after - len(records))
        finally:
            await reader.close()
        if records[-1].sequence != up_to:  # one is missing
            raise _NeedsSnapshot
        return records

    async def _fold_jobs(self, last: Sequence[Record]) -> Batch:
        """Fold jobs from their own records, of which these are the last."""
        places = [place for record in last if (place := parse_subject(record.subject)) is not None]
        known = await self._view.statuses(place.job_id for place in places)
        for place in places:
            status = known.get(place.job_id)
            if status is None or status.namespace != place.namespace:
                raise _NeedsSnapshot  # it is lost, or the id belongs to a job of another namespace
        batch, count = Batch(), 0
        for start in range(0, len(last), ASOF_READS):
            some = last[start : start + ASOF_READS]
            for records in await asyncio.gather(*(self._history(record) for record in some)):
                count += len(records)
                fold_batch(read_events(records), {}, onto=batch)
                if count > ASOF_RECENT_EVENTS or batch.released or batch.lost:
                    raise _NeedsSnapshot
                batch.specs.clear()  # as in a snapshot
        batch.anomalies.clear()
        return batch

    async def _history(self, last: Record) -> list[Record]:
        found: list[Record] = []
        async for record in records_between(self._log, last.subject, after=0, up_to=last.sequence):
            found.append(record)
            if len(found) > ASOF_RECENT_EVENTS:
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


def _last_records(records: Sequence[Record], query: ListQuery) -> list[Record]:
    """The last record of each job in the query's namespaces, newest first."""
    namespaces = query.asked_namespaces()
    last: dict[str, Record] = {}
    for record in reversed(records):
        if record.subject not in last:
            where = parse_subject(record.subject)
            if where is not None and (namespaces is None or where.namespace in namespaces):
                last[record.subject] = record
    return [*last.values()]
