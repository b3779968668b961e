"""Reading from the log what is older than the ring: pages of events, each with what its job became by it.

A page starts in the middle of the jobs' lives, so each job that is met for the first time needs its status
before that event. The view often knows it; if not, the job's own events are folded, up to there.
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


class CatchUp:
    """One feed's way through the log until the ring has the rest.

    Args:
        log: where the events are.
        view: a view of it that is at least as far as what is read here.
        mark: of the stream.
        subjects: the log's filter for what the feed may let through.
    """

    def __init__(self, log: EventLog, view: View, *, mark: str, subjects: str) -> None:
        self._log = log
        self._view = view
        self._mark = mark
        self._subjects = subjects
        self._statuses: dict[str, JobStatus] = {}  # in the order of use, oldest first
        self._last = 0  # the last sequence of these subjects, as the leader had it when it was asked …
        self._target = 0  # … to read up to here

    async def page(self, after: int, up_to: int) -> tuple[Sequence[FeedEvent], int]:
        """The next events, and the sequence up to which nothing is missing.

        Args:
            after: where to begin.
            up_to: where to end; the view is at least there.

        Raises:
            LogUnavailable: if the log can't be read.
            LogReplaced: if it is no longer the log of this mark.
        """
        if up_to > self._target:
            last = await self._log.read_last(self._subjects)
            self._last, self._target = last.sequence if last is not None else 0, up_to
        records, reached = await self._read(after, up_to)
        # After the page: what was read before the log was replaced is thrown away as well; that is harmless.
        if stream_tag((await self._log.info()).epoch) != self._mark:
            raise LogReplaced("the stream was deleted and made again: begin anew, without a cursor")
        return await self._fold(records), reached

    async def _read(self, after: int, up_to: int) -> tuple[list[Record], int]:
        found: list[Record] = []
        size = 0
        async for record in records_between(self._log, self._subjects, after=after, up_to=self._last):
            if record.sequence > up_to:
                break
            found.append(record)
            size += len(record.payload)
            # What is left of the log's page is read again: a feed that waits for its reader holds little.
            if size >= FEED_CATCHUP_BYTES or len(found) == READ_PAGE_EVENTS:
                return found, record.sequence
        return found, up_to

    async def _fold(self, records: Sequence[Record]) -> list[FeedEvent]:
        events = [(record, read_record(record)) for record in records]
        first: dict[str, int] = {}
        for record, recorded in events:
            first.setdefault(job_named(recorded), record.sequence)
        before = await self._before(first)
        told: list[FeedEvent] = []
        for record, recorded in events:
            job_id = job_named(recorded)
            status = fold_on(before.get(job_id), recorded)
            if status is None:
                continue
            before[job_id] = status
            # A status that is at another event: this one changed nothing that shows, and no feed tells it.
            if status.sequence == record.sequence and isinstance(recorded, Recorded):
                if status.passed or status.quarantine is not None:  # a row of the view knows what came later
                    status = msgspec.structs.replace(status, passed=0, quarantine=None)
                told.append(feed_event(Folded(record, recorded.event, status)))
        self._remember(before)
        return told

    async def _before(self, first: Mapping[str, int]) -> dict[str, JobStatus]:
        """The status of each job right before its first event of a page; none if it was not there yet."""
        found = {job_id: self._statuses[job_id] for job_id in first if job_id in self._statuses}
        missing = [job_id for job_id in first if job_id not in found]
        if not missing:
            return found
        to_read: list[JobStatus] = []
        found.update(await self._view.lost(missing))
        for job_id, row in (await self._view.statuses(missing)).items():
            if row.sequence <= first[job_id]:
                # Its last event that counts: this very one, and folding it again changes nothing, or one
                # before it, and this one is an anomaly.
                found[job_id] = row
            elif row.created_sequence < first[job_id]:
                to_read.append(row)
        for start in range(0, len(to_read), FEED_CATCHUP_READS):
            rows = to_read[start : start + FEED_CATCHUP_READS]
            statuses = await asyncio.gather(*(self._fold_until(row, first[row.id]) for row in rows))
            found.update({status.id: status for status in statuses if status is not None})
        return found

    async def _fold_until(self, row: JobStatus, sequence: int) -> JobStatus | None:
        """A job's status before a sequence that is within its life."""
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


Labels = Mapping[str, str]
_NONE: Final[Labels] = {}


class LabelsOfSpecs:
    """Labels by the sequence of the event that set the spec; remembers the last ones, for all feeds.

    Args:
        read: gets specs by such sequences; one that it does not have counts as a spec without labels.
    """

    def __init__(self, read: Callable[[list[int]], Awaitable[Mapping[int, bytes]]]) -> None:
        self._read_specs = read
        self._known: dict[int, Labels] = {}  # oldest first
        self._turn = asyncio.Lock()  # a hundred feeds that need one spec ask for it once

    async def of(self, spec_sequences: Iterable[int]) -> dict[int, Labels]:
        """The labels of these specs.

        Args:
            spec_sequences: as in `JobStatus.spec_sequence`.
        """
        wanted = set(spec_sequences)
        found = self._found(wanted)
        if len(found) < len(wanted):
            async with self._turn:
                found = self._found(wanted)
                await self._read(sorted(wanted - found.keys()), found)
        return found

    def _found(self, wanted: Iterable[int]) -> dict[int, Labels]:
        known = self._known
        return {sequence: known[sequence] for sequence in wanted if sequence in known}

    async def _read(self, missing: list[int], found: dict[int, Labels]) -> None:
        for start in range(0, len(missing), FEED_SPECS_AT_ONCE):
            asked = missing[start : start + FEED_SPECS_AT_ONCE]
            specs = await self._read_specs(asked)
            for sequence in asked:
                spec = specs.get(sequence)
                labels = spec_head(spec).labels if spec is not None else _NONE
                found[sequence] = labels
                if sum(map(len, (*labels.keys(), *labels.values()))) <= FEED_LABELS_CHARACTERS:
                    self._known[sequence] = labels
        for sequence in list(self._known)[: max(0, len(self._known) - FEED_LABELS_SPECS)]:
            del self._known[sequence]


def labels_after(view: View) -> LabelsOfSpecs:
    """The labels that a spec's event sets."""
    return LabelsOfSpecs(view.specs_at)


def labels_before(view: View) -> LabelsOfSpecs:
    """The labels that the job had before a spec's event."""
    return LabelsOfSpecs(view.specs_before)
