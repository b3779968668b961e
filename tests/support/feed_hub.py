"""A feed hub on a log, the expected events of a feed, and reading from one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jobledger.projections.projector import Projector
from jobledger.projections.subscriptions.filters import EventFilter
from jobledger.projections.view import View
from jobledger.service.cursor import stream_tag
from jobledger.service.feed.events import FeedEvent
from jobledger.service.feed.hub import Cause, FeedConnection, FeedHub, FeedLimits
from jobledger.store.log import EventLog
from jobledger.store.model.events import Recorded, SpecData, event_type, job_named, read_record
from jobledger.store.model.fold import fold_on, spec_head
from jobledger.store.model.job import JobStatus
from tests.support.histories import records_of

EVERYTHING = EventFilter()


class Hub(NamedTuple):
    """A hub with its log and projector."""

    hub: FeedHub
    projector: Projector
    view: View
    log: EventLog


@asynccontextmanager
async def running_hub(log: EventLog, directory: Path, **limits: Any) -> AsyncIterator[Hub]:
    """Run a hub that has received the whole log; `limits` are fields of `FeedLimits`."""
    path = directory / "view.sqlite"
    async with Projector(log, path) as projector, await View.open(path) as view:
        hub = FeedHub(log, view, tag=stream_tag((await log.info()).epoch), limits=FeedLimits(**limits))
        projector.attach(hub)
        await projector.wait_live()
        try:
            yield Hub(hub, projector, view, log)
        finally:
            await hub.close()


class ExpectedEvent(NamedTuple):
    """The expected content of one event."""

    sequence: int
    type: str
    status: JobStatus
    labels: dict[str, str]
    before: dict[str, str] | None = None  # the labels before it; None: it created the job

    def matches(self, passes: Callable[[dict[str, str]], bool]) -> str | None:
        """Return when the job matched a selector, given as a function of labels; None: never."""
        was, now = self.before is not None and passes(self.before), passes(self.labels)
        return "both" if was and now else "before" if was else "after" if now else None


async def truth_of(log: EventLog) -> list[ExpectedEvent]:
    """Return every expected event, by folding the whole log."""
    statuses: dict[str, JobStatus] = {}
    labels: dict[int, dict[str, str]] = {}
    expected: list[ExpectedEvent] = []
    for record in await records_of(log):
        recorded = read_record(record)
        status = fold_on(statuses.get(job_named(recorded)), recorded)
        if status is None:
            continue
        previous = statuses.get(status.id)
        statuses[status.id] = status
        if status.sequence != record.sequence or not isinstance(recorded, Recorded):
            continue
        if isinstance(recorded.event.data, SpecData):
            labels[record.sequence] = spec_head(recorded.event.data.spec).labels
        before = labels[previous.spec_sequence] if previous is not None else None
        now = labels[status.spec_sequence]
        expected.append(ExpectedEvent(record.sequence, event_type(recorded.event), status, now, before))
    return expected


def content_of(events: Sequence[FeedEvent]) -> list[tuple[int, str, JobStatus]]:
    """Return the content of events, for comparison."""
    return [(event.sequence, event.type, event.status) for event in events]


def expected_content(expected: Sequence[ExpectedEvent]) -> list[tuple[int, str, JobStatus]]:
    """Return the expected content of a filtered feed."""
    return [(each.sequence, each.type, each.status) for each in expected]


async def read_to(connection: FeedConnection, sequence: int) -> list[FeedEvent]:
    """Return the events of a feed up to a position."""
    found: list[FeedEvent] = []
    async with asyncio.timeout(20):
        while connection.sequence < sequence:
            events = await connection.next()
            assert events is not None, connection.reason
            found += events
    return found


async def read_between(
    hub: FeedHub, feed_filter: EventFilter, after: int, up_to: int
) -> list[tuple[int, str, JobStatus]]:
    """Return the content of a new feed from one position to the end of the log."""
    return content_of(await events_between(hub, feed_filter, after, up_to))


async def events_between(hub: FeedHub, feed_filter: EventFilter, after: int, up_to: int) -> list[FeedEvent]:
    """Return the events of a new feed from one position to the end of the log."""
    found: list[FeedEvent] = []
    async with asyncio.timeout(20), await hub.open(feed_filter, after=after) as connection:

        async def read() -> None:
            while (events := await connection.next()) is not None:
                found.extend(events)

        reading = asyncio.create_task(read())
        # If no event passes the filter, only the position shows the progress.
        while connection.sequence < up_to:  # noqa: ASYNC110 - a place makes no sound
            await asyncio.sleep(0)
        connection.end(Cause.GONE, "read to the end")
        await reading
    return found
