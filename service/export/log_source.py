"""Telling again straight from the log: read in order, fold for the numbers, pass the payload through."""

import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from jobledger.projections.subscriptions.state_tracker import Scope, number_tracker
from jobledger.service.cursor import default_source, parse_cursor, stream_tag
from jobledger.service.errors import CursorGone
from jobledger.service.export.query import Asked, Chunk, Range
from jobledger.service.feed.events import placed_event
from jobledger.service.limits import REPLAY_CHUNK_EVENTS, REPLAY_SCAN_FACTOR
from jobledger.service.point import SequencePoint, TimePoint, parse_point, resolve_point
from jobledger.store.job_reader import records_between
from jobledger.store.ledger import Ledger
from jobledger.store.log import EventLog, LogInfo
from jobledger.store.model.errors import JobNotFound, LogReplaced
from jobledger.store.model.events import Record, event_type
from jobledger.store.model.limits import READ_PAGE_BYTES, READ_PAGE_EVENTS
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, job_subject, named_job_id, namespace_subjects

_JOB_ID = re.compile(r"j-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LogReplay:
    """One telling; made by `ask`.

    Attributes:
        range: where it begins and ends.
    """

    def __init__(
        self, log: EventLog, asked: Asked, info: LogInfo, range_: Range, *, subjects: str, source: str
    ) -> None:
        self.range = range_
        self._source = source or default_source(range_.mark)
        self._log = log
        self._asked = asked
        self._epoch = info.epoch
        self._subjects = subjects

    @classmethod
    async def ask(cls, log: EventLog, asked: Asked, *, now: int, source: str = "") -> "LogReplay":
        """Find out where it begins and ends; the end is that of the log as it is now, or sooner.

        Args:
            log: whose events.
            asked: which of them.
            now: Unix nanoseconds, what ages count back from.
            source: the CloudEvents source of what is told; empty: the default for this log.

        Raises:
            InvalidInput: a point is none, or is not in the log yet.
            CursorGone: a position is of another stream, or beyond the end.
            JobNotFound: there is no such job.
            LogUnavailable: the log does not answer.
        """
        info = await log.info()
        mark = stream_tag(info.epoch)
        subjects = await _subjects(log, asked)
        after = parse_cursor(asked.after, mark) if asked.after else 0
        if after > info.last_sequence:
            raise CursorGone(
                f"after {asked.after} is beyond the end of the log, which is at {info.last_sequence}"
            )
        if asked.since:
            after = max(after, await _before(log, asked.since, mark, now))
        end = info.last_sequence
        if asked.until:
            until = parse_point(asked.until, now=now, mark=mark, field="until")
            end = min(end, await resolve_point(log, until, now=now, field="until"))
        return cls(log, asked, info, Range(mark, after, end), subjects=subjects, source=source)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The events, in the order of the log.

        Raises:
            LogUnavailable: the log was out of reach for a named number of tries.
            LogBroken: it is no longer the log that it was, or is not whole.
        """
        passes, is_all = self._asked.passes, not (self._asked.types or self._asked.actors)
        scope = Scope(self._subjects or namespace_subjects(None))
        folder = number_tracker(self._log, from_first=self._begin == 0, scope=scope)
        after, before = self.range.after, 0
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for records in _cut(page, after):
                    folded = await folder.fold(records)
                    last = records[-1].sequence
                    if last <= after:  # what the jobs were before
                        before = folder.anomalies
                        yield Chunk([], after, read=last)
                        continue
                    documents = [
                        placed_event(
                            record.payload, record.sequence, record.time, status, source=self._source
                        )
                        for record, event, _, status in folded
                        if is_all or passes(event_type(event), event.actor)
                    ]
                    yield Chunk(documents, last, folder.anomalies - before, last)
        yield Chunk([], self.range.end, folder.anomalies - before, self.range.end)

    @property
    def _begin(self) -> int:
        """The sequence behind which reading begins; before what is told, if that is the quicker way.

        A job that is met for the first time in the middle of its life is read from the log, event by event
        from all over it. For many jobs, reading all that was before in one go takes less.
        """
        after, wanted = self.range.after, self.range.end - self.range.after
        return 0 if self._asked.job or after <= REPLAY_SCAN_FACTOR * wanted else after

    def _pages(self) -> AsyncGenerator[Sequence[Record], None]:
        return self._some() if self._subjects else self._whole()

    async def _whole(self) -> AsyncGenerator[Sequence[Record], None]:
        end = self.range.end
        if self.range.after >= end:
            return
        feed = await self._log.follow(after=self._begin, epoch=self._epoch)
        try:
            while True:
                records = await feed.take(REPLAY_CHUNK_EVENTS)
                if records[-1].sequence >= end:
                    break
                yield records
            records = [record for record in records if record.sequence <= end]
            if records:
                yield records
        finally:
            await feed.close()

    async def _some(self) -> AsyncGenerator[Sequence[Record], None]:
        """Only what is on some subjects: the server finds it, so the rest is not sent."""
        last = await self._log.read_last(self._subjects)
        if last is None:
            return
        page: list[Record] = []
        size, end = 0, self.range.end
        found = records_between(self._log, self._subjects, after=self._begin, up_to=last.sequence)
        async with aclosing(found):
            async for record in found:
                if record.sequence > end:
                    break
                page.append(record)
                size += len(record.payload)
                if len(page) >= READ_PAGE_EVENTS or size >= READ_PAGE_BYTES:
                    yield page
                    page, size = [], 0
        if page:
            yield page
        # Such reads know no epoch; that of the whole telling must be one.
        if (await self._log.info()).epoch != self._epoch:
            raise LogReplaced("the stream was deleted and made again while it was read: begin anew")


def _cut(page: Sequence[Record], after: int) -> Iterator[Sequence[Record]]:
    """A page, in two parts if a sequence is within it."""
    if page[0].sequence <= after < page[-1].sequence:
        at = bisect_right(page, after, key=lambda record: record.sequence)
        yield page[:at]
        yield page[at:]
    else:
        yield page


async def _subjects(log: EventLog, asked: Asked) -> str:
    """The log's filter for what may be asked for; empty: everything."""
    if not asked.job:
        return namespace_subjects(asked.namespace) if asked.namespace else ""
    job_id, namespace = asked.job, asked.namespace or None
    if not _JOB_ID.fullmatch(asked.job):
        namespace = asked.namespace or DEFAULT_NAMESPACE
        job_id = named_job_id(namespace, asked.job)
    try:
        status = (await Ledger(log).load(job_id, namespace=namespace)).status
    except JobNotFound:
        where = f" in namespace {namespace!r}" if namespace else ""
        raise JobNotFound(
            f"no job {asked.job!r:.200}{where}; the log finds a job by its name or its whole id"
        ) from None
    return job_subject(status.namespace, status.id)


async def _before(log: EventLog, since: str, mark: str, now: int) -> int:
    """The sequence of the last event before a point."""
    point = parse_point(since, now=now, mark=mark, field="since")
    if isinstance(point, TimePoint):
        point = TimePoint(point.time - 1)
    sequence = await resolve_point(log, point, now=now, field="since")
    return sequence - 1 if isinstance(point, SequencePoint) and sequence else sequence
