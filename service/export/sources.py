"""The two sources of an export: the log itself, or the live feed of a service if the log is out of reach."""

import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from jobledger.projections.subscriptions.state_tracker import Scope, number_tracker
from jobledger.service.cursor import default_source, format_cursor, parse_cursor, stream_tag
from jobledger.service.errors import CursorGone
from jobledger.service.export.background_thread import BackgroundThread
from jobledger.service.export.query import Chunk, ExportQuery, ExportRange
from jobledger.service.feed.events import deliverable_line
from jobledger.service.limits import REPLAY_CHUNK_EVENTS, REPLAY_FEED_CHUNK_EVENTS, REPLAY_SCAN_FACTOR
from jobledger.service.point import RevisionPoint, SequencePoint, TimePoint, parse_point, resolve_point
from jobledger.store.job_reader import records_between
from jobledger.store.ledger import Ledger
from jobledger.store.log import EventLog, LogInfo
from jobledger.store.model.errors import InvalidInput, JobNotFound, LogReplaced
from jobledger.store.model.events import Record, event_type
from jobledger.store.model.limits import READ_PAGE_BYTES, READ_PAGE_EVENTS
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, job_subject, named_job_id, namespace_subjects
from jobledger.store.timestamps import parse_rfc3339

if TYPE_CHECKING:
    from jobledger.service.client.client import Client
    from jobledger.service.client.event_stream import FeedEvent

_JOB_ID = re.compile(r"j-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LogSource:
    """Reads the events from the log, folds them for their revisions, and passes the payloads through.

    Opened by `open`.

    Attributes:
        range: the range in the log.
    """

    def __init__(
        self,
        log: EventLog,
        query: ExportQuery,
        info: LogInfo,
        range_: ExportRange,
        *,
        subjects: str,
        source: str,
    ) -> None:
        self.range = range_
        self._source = source or default_source(range_.stream_tag)
        self._log = log
        self._query = query
        self._epoch = info.epoch
        self._subjects = subjects

    @classmethod
    async def open(cls, log: EventLog, query: ExportQuery, *, now: int, source: str = "") -> "LogSource":
        """Resolve the range; its end is at most the present end of the log.

        Args:
            log: the log to read.
            query: which events.
            now: Unix nanoseconds; ages count back from it.
            source: the CloudEvents source of the events; empty: the default for this log.

        Raises:
            InvalidInput: a point is invalid, or beyond the end of the log.
            CursorGone: a cursor is of another stream, or beyond the end.
            JobNotFound: the job does not exist.
            LogUnavailable: the log does not respond.
        """
        info = await log.info()
        tag = stream_tag(info.epoch)
        subjects = await _subjects(log, query)
        after = _parse_after(query.after, tag, info.last_sequence)
        if query.since:
            after = max(after, await _before(log, query.since, tag, now))
        end = info.last_sequence
        if query.until:
            until = parse_point(query.until, now=now, stream_tag=tag, field="until")
            end = min(end, await resolve_point(log, until, now=now, field="until"))
        return cls(log, query, info, ExportRange(tag, after, end), subjects=subjects, source=source)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The events, in the order of the log.

        Raises:
            LogUnavailable: the log was out of reach for the maximum number of tries.
            LogBroken: the log was replaced, or is incomplete.
        """
        matches, is_all = self._query.matches, not (self._query.types or self._query.actors)
        scope = Scope(self._subjects or namespace_subjects(None))
        tracker = number_tracker(self._log, from_first=self._begin == 0, scope=scope)
        after, before = self.range.after, 0
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for records in _split_at(page, after):
                    numbered = await tracker.number(records)
                    last = records[-1].sequence
                    if last <= after:  # only builds the state of the jobs
                        before = tracker.anomalies
                        yield Chunk([], after, read=last)
                        continue
                    documents = [
                        deliverable_line(each, source=self._source)
                        for each in numbered
                        if is_all or matches(event_type(each.event), each.event.actor)
                    ]
                    yield Chunk(documents, last, tracker.anomalies - before, last)
        yield Chunk([], self.range.end, tracker.anomalies - before, self.range.end)

    @property
    def _begin(self) -> int:
        """The sequence after which reading begins: 0 if reading everything is faster.

        A job that is met in the middle of its life is read from the log event by event, from many places. For
        many jobs it is faster to read everything before the range once.
        """
        after, count = self.range.after, self.range.end - self.range.after
        return 0 if self._query.job or after <= REPLAY_SCAN_FACTOR * count else after

    def _pages(self) -> AsyncGenerator[Sequence[Record], None]:
        return self._filtered_pages() if self._subjects else self._all_pages()

    async def _all_pages(self) -> AsyncGenerator[Sequence[Record], None]:
        end = self.range.end
        if self.range.after >= end:
            return
        reader = await self._log.follow(after=self._begin, epoch=self._epoch)
        try:
            while True:
                records = await reader.take(REPLAY_CHUNK_EVENTS)
                if records[-1].sequence >= end:
                    break
                yield records
            records = [record for record in records if record.sequence <= end]
            if records:
                yield records
        finally:
            await reader.close()

    async def _filtered_pages(self) -> AsyncGenerator[Sequence[Record], None]:
        """The events of some subjects; the server selects them, so the others are not sent."""
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
        # These reads do not check the epoch; the whole export must read one stream.
        if (await self._log.info()).epoch != self._epoch:
            raise LogReplaced("the stream was deleted and created again during the export: start again")


def _split_at(page: Sequence[Record], after: int) -> Iterator[Sequence[Record]]:
    """The page, in two parts if the sequence `after` is within it."""
    if page[0].sequence <= after < page[-1].sequence:
        at = bisect_right(page, after, key=lambda record: record.sequence)
        yield page[:at]
        yield page[at:]
    else:
        yield page


async def _subjects(log: EventLog, query: ExportQuery) -> str:
    """The log's subject filter; empty: everything."""
    if not query.job:
        return namespace_subjects(query.namespace) if query.namespace else ""
    job_id, namespace = query.job, query.namespace or None
    if not _JOB_ID.fullmatch(query.job):
        namespace = query.namespace or DEFAULT_NAMESPACE
        job_id = named_job_id(namespace, query.job)
    try:
        status = (await Ledger(log).load(job_id, namespace=namespace)).status
    except JobNotFound:
        where = f" in namespace {namespace!r}" if namespace else ""
        raise JobNotFound(
            f"job {query.job!r:.200} not found{where}; the log finds a job by its name or its full ID"
        ) from None
    return job_subject(status.namespace, status.id)


async def _before(log: EventLog, since: str, tag: str, now: int) -> int:
    """The sequence of the last event before a point."""
    point = parse_point(since, now=now, stream_tag=tag, field="since")
    if isinstance(point, TimePoint):
        point = TimePoint(point.time - 1)
    sequence = await resolve_point(log, point, now=now, field="since")
    return sequence - 1 if isinstance(point, SequencePoint) and sequence else sequence


def _parse_after(text: str, tag: str, last: int) -> int:
    after = parse_cursor(text, tag) if text else 0
    if after > last:
        raise CursorGone(f"position {text} is beyond the end of the log (last sequence: {last})")
    return after


class FeedSource:
    """Reads the events from the live feed of a service. Opened by `open`.

    A feed starts after a sequence. The sequence of a time is found by reading single events: their times rise
    with their sequences, so this is a binary search.

    Attributes:
        range: the range in the log.
    """

    def __init__(
        self, client: "Client", query: ExportQuery, range_: ExportRange, report: Callable[[str], None]
    ) -> None:
        self.range = range_
        self._client = client
        self._query = query
        self._report = report

    @classmethod
    def open(
        cls, client: "Client", query: ExportQuery, *, now: int, report: Callable[[str], None]
    ) -> "FeedSource":
        """Resolve the range; its end is at most the present position of the service's view.

        Args:
            client: of the service.
            query: which events; full names of types, and one namespace, `*` or none.
            now: Unix nanoseconds; ages count back from it.
            report: receives a line when the connection is lost and retried.

        Raises:
            InvalidInput: a point is invalid, or beyond the end of the log.
            CursorGone: a cursor is of another stream, or beyond the end.
            JobledgerError: the service responded with an error.
        """
        cursor = str(client.jobs({"limit": 1, "namespace": "*"}).wire.get("Cursor", ""))
        tag, _, last = cursor.rpartition("-")
        whole = ExportRange(tag, 0, int(last))
        found = cls(client, query, whole, report)
        after, end = _parse_after(query.after, tag, whole.end), whole.end
        if query.since:
            after = max(after, found._resolve(query.since, "since", now, included=False))
        if query.until:
            end = min(end, found._resolve(query.until, "until", now, included=True))
        found.range = ExportRange(tag, after, end)
        return found

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The events, in the order of the log; a background thread waits for them.

        Raises:
            JobledgerError: the feed was refused, or out of reach for the maximum number of tries.
        """
        chunks = self._chunks()
        with BackgroundThread() as thread:
            while (chunk := await thread.run(lambda: next(chunks, None))) is not None:
                yield chunk

    def _chunks(self) -> Generator[Chunk, None, None]:
        query, end = self._query, self.range.end
        filters = {"namespace": query.namespace, "job": query.job, "type": sorted(query.types)}
        documents: list[bytes] = []
        if self.range.after < end:
            for event in self._events(filters, self.range.after, end):
                if query.matches(event.wire.get("type", ""), event.wire.get("actor", "")):
                    documents.append(event.text.encode())
                if len(documents) == REPLAY_FEED_CHUNK_EVENTS:
                    reached = event.sequence
                    yield Chunk(documents, reached, read=reached)
                    documents = []
        yield Chunk(documents, end, read=end)

    def _events(self, filters: dict[str, Any], after: int, until: int) -> "Generator[FeedEvent, None, None]":
        cursor = format_cursor(self.range.stream_tag, after)
        yield from self._client.event_stream(filters, after=cursor, report=self._report).events(until=until)

    def _resolve(self, text: str, field: str, now: int, *, included: bool) -> int:
        """The last sequence at a point, or before it if the point is not included."""
        match parse_point(text, now=now, stream_tag=self.range.stream_tag, field=field):
            case SequencePoint(sequence):
                if sequence > self.range.end:
                    raise InvalidInput(
                        f"{field} sequence {sequence} is beyond the end of the log (last sequence:"
                        f" {self.range.end})"
                    )
                return sequence if included else max(0, sequence - 1)
            case TimePoint(time):
                return self._sequence_at(time if included else time - 1)
            case RevisionPoint():  # not parsed here
                raise InvalidInput(f"{field} must be a time, an age or a sequence, got a revision")

    def _sequence_at(self, time: int) -> int:
        """The last visible sequence at a time or before it."""
        low, high = 0, self.range.end
        while low < high:
            middle = (low + high) // 2
            with closing(self._events({"namespace": "*"}, middle, high)) as events:
                event = next(events, None)
            if event is None or (parse_rfc3339(str(event.wire.get("streamtime"))) or 0) > time:
                high = middle
            else:
                low = event.sequence
        return low
