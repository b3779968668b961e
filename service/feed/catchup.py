"""Reading events older than the ring from the log, and the labels of their jobs from the view.

A page starts in the middle of the jobs' histories, so each job that occurs for the first time needs its
status before that event. The view often has it; otherwise the job's own events up to there are folded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from jobledger.projections.batch import Folded
from jobledger.projections.view import View
from jobledger.projections.writer import is_cacheable
from jobledger.service.cursor import stream_tag
from jobledger.service.feed.events import FeedEvent, feed_event
from jobledger.service.limits import (
    FEED_CATCHUP_BYTES,
    FEED_CATCHUP_JOBS,
    FEED_CATCHUP_READS,
    FEED_LABELS_CHARACTERS,
    FEED_LABELS_SPECS,
    FEED_SPECS_AT_ONCE,
)
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogReplaced
from jobledger.store.model.events import Record, Recorded, job_named, read_record
from jobledger.store.model.fold import fold_on, spec_head
from jobledger.store.model.job import JobStatus
from jobledger.store.model.limits import READ_PAGE_EVENTS
from jobledger.store.model.subjects import job_subject

Labels = Mapping[str, str]
_NO_LABELS: Final[Labels] = {}


class CatchUp:
    """One connection's reader of the log, until it reaches the ring."""

    def __init__(self, log: EventLog, view: View, *, tag: str, subjects: str) -> None:
        self._log = log
        self._view = view
        self._tag = tag
        self._subjects = subjects
        self._statuses: dict[str, JobStatus] = {}  # bounded cache, least recently used first
        self._last = 0  # the last sequence of these subjects, according to the leader …
        self._target = 0  # … when the page had to reach this sequence

    async def page(self, after: int, up_to: int) -> tuple[Sequence[FeedEvent], int]:
        """The next events, and the sequence up to which they are complete."""
        if up_to > self._target:
            last = await self._log.read_last(self._subjects)
            self._last, self._target = last.sequence if last is not None else 0, up_to
        records, reached = await self._read(after, up_to)
        # Checked after reading; dropping records that were read before the replacement is harmless.
        if stream_tag((await self._log.info()).epoch) != self._tag:
            raise LogReplaced("the stream was deleted and recreated: start without a cursor")
        return await self._fold(records), reached

    async def _read(self, after: int, up_to: int) -> tuple[list[Record], int]:
        found: list[Record] = []
        size = 0
        async for record in records_between(self._log, self._subjects, after=after, up_to=self._last):
            if record.sequence > up_to:
                break
            found.append(record)
            size += len(record.payload)
            # The rest of the log's page is read again later: a connection that waits must not hold memory.
            if size >= FEED_CATCHUP_BYTES or len(found) == READ_PAGE_EVENTS:
                return found, record.sequence
        return found, up_to

    async def _fold(self, records: Sequence[Record]) -> list[FeedEvent]:
        events = [(record, read_record(record)) for record in records]
        first: dict[str, int] = {}
        for record, recorded in events:
            first.setdefault(job_named(recorded), record.sequence)
        statuses = await self._statuses_before(first)
        found: list[FeedEvent] = []
        for record, recorded in events:
            job_id = job_named(recorded)
            status = fold_on(statuses.get(job_id), recorded)
            if status is None:
                continue
            statuses[job_id] = status
            # A status at another sequence: the event changed nothing visible and is not sent.
            if status.sequence == record.sequence and isinstance(recorded, Recorded):
                if status.passed or status.quarantine is not None:  # a row of the view knows later events
                    status = msgspec.structs.replace(status, passed=0, quarantine=None)
                found.append(feed_event(Folded(record, recorded.event, status)))
        self._remember(statuses)
        return found

    async def _statuses_before(self, first: Mapping[str, int]) -> dict[str, JobStatus]:
        """The status of each job before its first event of a page; jobs that did not exist are omitted."""
        found = {job_id: self._statuses[job_id] for job_id in first if job_id in self._statuses}
        missing = [job_id for job_id in first if job_id not in found]
        if not missing:
            return found
        to_read: list[JobStatus] = []
        found.update(await self._view.lost(missing))
        for job_id, row in (await self._view.statuses(missing)).items():
            if row.sequence <= first[job_id]:
                # The row is at this event, and folding it again changes nothing; or it is at an earlier one,
                # and this event is an anomaly.
                found[job_id] = row
            elif row.created_sequence < first[job_id]:
                to_read.append(row)
        for start in range(0, len(to_read), FEED_CATCHUP_READS):
            rows = to_read[start : start + FEED_CATCHUP_READS]
            statuses = await asyncio.gather(*(self._fold_until(row, first[row.id]) for row in rows))
            found.update({status.id: status for status in statuses if status is not None})
        return found

    async def _fold_until(self, row: JobStatus, sequence: int) -> JobStatus | None:
        """Fold a job's events before a sequence."""
        status: JobStatus | None = None
        subject = job_subject(row.namespace, row.id)
        async for record in records_between(self._log, subject, after=0, up_to=row.sequence):
            if record.sequence >= sequence:
                break
            status = fold_on(status, read_record(record))
        return status

    def _remember(self, statuses: Mapping[str, JobStatus]) -> None:
        known = self._statuses
        for job_id, status in statuses.items():
            known.pop(job_id, None)
            if is_cacheable(status):
                known[job_id] = status
        for job_id in list(known)[: max(0, len(known) - FEED_CATCHUP_JOBS)]:
            del known[job_id]


class SpecLabels:
    """Labels by the sequence of a spec's event; the cache is shared by all connections."""

    def __init__(self, read: Callable[[list[int]], Awaitable[Mapping[int, bytes]]]) -> None:
        self._read_specs = read
        self._known: dict[int, Labels] = {}  # oldest first
        self._lock = asyncio.Lock()  # a hundred connections that need the same spec read it once

    async def of(self, spec_sequences: Iterable[int]) -> dict[int, Labels]:
        """The labels by `JobStatus.spec_sequence`."""
        wanted = set(spec_sequences)
        found = self._cached(wanted)
        if len(found) < len(wanted):
            async with self._lock:
                found = self._cached(wanted)
                await self._read(sorted(wanted - found.keys()), found)
        return found

    def _cached(self, wanted: Iterable[int]) -> dict[int, Labels]:
        known = self._known
        return {sequence: known[sequence] for sequence in wanted if sequence in known}

    async def _read(self, missing: list[int], found: dict[int, Labels]) -> None:
        for start in range(0, len(missing), FEED_SPECS_AT_ONCE):
            chunk = missing[start : start + FEED_SPECS_AT_ONCE]
            specs = await self._read_specs(chunk)
            for sequence in chunk:
                spec = specs.get(sequence)
                labels = spec_head(spec).labels if spec is not None else _NO_LABELS
                found[sequence] = labels
                if sum(map(len, (*labels.keys(), *labels.values()))) <= FEED_LABELS_CHARACTERS:
                    self._known[sequence] = labels
        for sequence in list(self._known)[: max(0, len(self._known) - FEED_LABELS_SPECS)]:
            del self._known[sequence]
