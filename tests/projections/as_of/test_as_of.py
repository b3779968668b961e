"""As of a point: whatever the history, the answer is the fold of the prefix."""

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from jobledger import ListQuery, MemoryLog, Projector, View
from jobledger.projections.as_of import build, build as seed, direct, snapshots
from jobledger.projections.as_of.job import sequence_of_revision
from jobledger.projections.as_of.reader import AsOf
from jobledger.projections.batch import Batch
from jobledger.projections.errors import AsOfBusy, ViewRebuilding
from jobledger.projections.query.query import Order
from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.results import Page
from jobledger.store.log import PendingEvent
from jobledger.store.model.errors import JobNotFound
from jobledger.store.model.events import JobCreated, JobStateChanged, JobTagged, JobUpdated, TagData
from jobledger.store.model.job import Job, StateType
from jobledger.store.model.subjects import named_job_id
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND
from tests.support.histories import append_all, draft, random_drafts, spec_data, state_data
from tests.support.oracle import fold_of, rows_of
from tests.support.past_views import WAIT_SECONDS, History, history, log_of


@asynccontextmanager
async def prefix_view(drafts: list[PendingEvent]) -> AsyncIterator[View]:
    """The view of these records alone."""
    with tempfile.TemporaryDirectory() as name:
        log = await log_of(drafts)
        async with Projector(log, Path(name) / "view.db") as projector:
            await projector.wait_for(len(drafts), WAIT_SECONDS)
            async with await View.open(Path(name) / "view.db", readers=1) as view:
                yield view


@st.composite
def queries(draw: st.DrawFn) -> ListQuery:
    """Filters and orders of all kinds, with small pages."""
    times = st.none() | st.integers(0, 40).map(lambda second: second * NANOSECONDS_PER_SECOND)
    bounds: dict[str, Any] = {
        f"{axis}_{side}": draw(times) for axis in ("created", "modified") for side in ("from", "to")
    }
    for axis in ("created", "modified"):
        lower, upper = bounds[f"{axis}_from"], bounds[f"{axis}_to"]
        if lower is not None and upper is not None and lower > upper:
            bounds[f"{axis}_from"] = None
    return ListQuery(
        namespace=draw(st.sampled_from([None, "default", "other"])),
        states=tuple(draw(st.sets(st.sampled_from(StateType), max_size=2))),
        selector=parse_selector(draw(st.sampled_from(["", "", "env=a", "env,!tier", "owner in (a,b)"]))),
        order=draw(st.sampled_from(Order)),
        descending=draw(st.booleans()),
        limit=draw(st.integers(1, 4)),
        **bounds,
    )


def of_unknown_type(written: PendingEvent) -> PendingEvent:
    """The event as of a newer release: its job is quarantined, or lost if this is its first event."""
    wire = msgspec.json.decode(written.payload) | {"type": "jobledger.job.paused.v1"}
    return replace(written, payload=msgspec.json.encode(wire))


async def pages(asked: ListQuery, page_of) -> list[tuple[int, tuple[Job, ...]]]:  # type: ignore[no-untyped-def]
    """All pages of a list, each with its sequence."""
    found, cursor = [], None
    while True:
        page = await page_of(replace(asked, cursor=cursor))
        found.append((page.sequence, page.jobs))
        cursor = page.next_cursor
        if cursor is None:
            return found


small = patch.multiple(
    build, ASOF_NEAR_MAX_EVENTS=8, ASOF_FOLD_EVENTS=3, ASOF_BATCH_JOBS=2, ASOF_LATE_INDEX_EVENTS=6
)
near = patch.multiple(snapshots, ASOF_NEAR_MAX_EVENTS=8, ASOF_NEAR_EVENTS=5)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(0, 2**32),
    jobs=st.integers(1, 8),
    events=st.integers(1, 40),
    reads=st.sampled_from([0, 1, 16, 10_000]),
    window=st.sampled_from([1, 3, 2_000]),
    data=st.data(),
)
async def test_lists_as_of_a_point_are_those_of_the_prefix(  # noqa: PLR0917
    number: int, jobs: int, events: int, reads: int, window: int, data: st.DataObject
) -> None:
    """For any history, points in any order, filters and orders: page by page, spec by spec.

    However a snapshot is built: from the live view or another snapshot, per job or by folding the log.
    """
    drafts = random_drafts(random.Random(number), jobs, events)
    for unknown in data.draw(st.sets(st.integers(0, events - 1), max_size=2)):
        if not drafts[unknown].event_id.startswith("garbage"):
            drafts[unknown] = of_unknown_type(drafts[unknown])
    few = patch.multiple(
        direct, ASOF_DIRECT_FIRST_EVENTS=window, ASOF_DIRECT_EVENTS=4 * window, ASOF_DIRECT_JOBS=window
    )
    with small, near, few, patch.object(seed, "ASOF_EVENTS_PER_JOB_READ", reads):
        async with history(drafts) as made:
            for point in data.draw(st.lists(st.integers(1, events), min_size=1, max_size=3)):
                asked = data.draw(queries())
                ours = await pages(asked, lambda query, point=point: made.asof.list(query, point))
                async with prefix_view(drafts[:point]) as view:
                    assert ours == await pages(asked, view.list)
                if point in made.asof.snapshots.sequences:
                    async with made.asof.snapshots.at(point) as copy:
                        wanted = fold_of(made.records[:point])
                        found = rows_of(copy.path, ("jobs", "labels"))
                        assert found == {table: wanted[table] for table in found}


@settings(max_examples=25, deadline=None)
@given(number=st.integers(0, 2**32), jobs=st.integers(1, 4), events=st.integers(1, 40), data=st.data())
async def test_a_job_as_of_a_point_is_that_of_the_prefix(
    number: int, jobs: int, events: int, data: st.DataObject
) -> None:
    """Status, spec and all; a job that does not exist yet is not found; each revision leads to its event."""
    drafts = random_drafts(random.Random(number), jobs, events)
    async with history(drafts) as made:
        point = data.draw(st.integers(0, events))
        async with prefix_view(drafts[:point]) as view:
            for present in (await made.view.list(ListQuery(limit=100))).jobs:
                job_id = present.status.id
                for checkpoint in (0, events):
                    try:
                        wanted = await view.get_by_id(job_id)
                    except JobNotFound:
                        with pytest.raises(JobNotFound, match="did not exist at the sequence"):
                            await made.asof.job(present, point, checkpoint=checkpoint)
                    else:
                        assert await made.asof.job(present, point, checkpoint=checkpoint) == wanted
                revision = data.draw(st.integers(1, present.status.revision))
                found = await sequence_of_revision(made.log, present.status, revision)
                then = await made.asof.job(present, found)
                assert then.status.revision == revision
                assert then.status.sequence == found
                with pytest.raises(JobNotFound, match="has no revision"):
                    await sequence_of_revision(made.log, present.status, present.status.revision + 1)


async def test_a_list_as_of_sequence_0_is_empty() -> None:
    """No snapshot is built for it."""
    async with history(random_drafts(random.Random(1), 2, 5)) as made:
        page = await made.asof.list(ListQuery(), 0)
        assert (page.jobs, page.next_cursor, page.sequence) == ((), None, 0)
        assert made.asof.snapshots.sequences == ()


async def test_a_list_as_of_the_last_event_needs_no_snapshot() -> None:
    """While nothing is appended, the live view answers."""
    drafts = random_drafts(random.Random(1), 4, 30)
    async with history(drafts) as made:
        assert await made.asof.list(ListQuery(), 30) == await made.view.list(ListQuery())
        assert made.asof.snapshots.sequences == ()


async def test_a_list_as_of_a_point_pages_on_while_events_arrive() -> None:
    """No loss, no repeat and nothing newer, even if the snapshot is evicted between two pages."""
    drafts = random_drafts(random.Random(7), 12, 90)
    async with history(drafts[:60], max_copies=1) as made:
        async with prefix_view(drafts[:50]) as view:
            wanted = await pages(ListQuery(limit=2, order=Order.MODIFIED), view.list)
        more = iter(range(60, 90))

        async def page_of(query: ListQuery):  # type: ignore[no-untyped-def]
            page = await made.asof.list(query, 50)
            await append_all(made.log, drafts[(at := next(more)) : at + 1])
            await made.asof.list(OLDEST, at - 30)  # evicts the snapshot as of 50
            assert made.asof.snapshots.sequences == (at - 30,)
            return page

        assert await pages(ListQuery(limit=2, order=Order.MODIFIED), page_of) == wanted


def regular_drafts(jobs: int, rounds: int) -> list[PendingEvent]:
    """Return events of jobs that are all created, and then all change, in turns."""
    ids = [named_job_id("default", f"job-{number}") for number in range(jobs)]
    drafts = [
        draft(JobCreated, job_id, spec_data(f"job-{number}"), number) for number, job_id in enumerate(ids)
    ]
    for turn in range(rounds):
        state = (StateType.QUEUED, StateType.RUNNING)[turn % 2]
        drafts += [
            draft(JobStateChanged, job_id, state_data(state), len(drafts) + at)
            for at, job_id in enumerate(ids)
        ]
    return drafts


NEWEST = ListQuery(order=Order.MODIFIED, descending=True, limit=3)
OLDEST = replace(NEWEST, descending=False)  # its pages need a snapshot


async def test_the_jobs_modified_last_need_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows of any size the first page is that of the prefix; the next page has a snapshot."""
    drafts = regular_drafts(12, 9)
    for window in (2, 8, 200):
        monkeypatch.setattr(direct, "ASOF_DIRECT_FIRST_EVENTS", window)
        async with history(drafts) as made:
            page = await made.asof.list(NEWEST, 100)
            assert made.asof.snapshots.sequences == ()
            assert page.next_cursor is not None
            second = await made.asof.list(replace(NEWEST, cursor=page.next_cursor), 100)
            assert 100 in made.asof.snapshots.sequences
        async with prefix_view(drafts[:100]) as view:
            assert page == await view.list(NEWEST)
            assert second == await view.list(replace(NEWEST, cursor=page.next_cursor))


OF_ALL = ListQuery(limit=3)  # in the order of creation


@pytest.mark.parametrize("is_descending", [False, True])
async def test_a_page_in_the_order_of_creation_needs_no_snapshot(*, is_descending: bool) -> None:
    """The first page builds none. A later one is answered as well, and starts the build for the others."""
    drafts, asked = regular_drafts(12, 9), replace(OF_ALL, descending=is_descending)
    async with history(drafts) as made:
        first = await made.asof.list(asked, 100)
        assert not made.asof.snapshots._builds
        second = await made.asof.list(replace(asked, cursor=first.next_cursor), 100)
        assert [*made.asof.snapshots._builds] == [100]
        assert await made.asof.list(asked, 100) == first  # while the snapshot is built
        async with made.asof.snapshots.at(100):
            third = await made.asof.list(replace(asked, cursor=second.next_cursor), 100)
    async with prefix_view(drafts[:100]) as view:
        wanted = await pages(asked, view.list)
        assert [(100, page.jobs) for page in (first, second, third)] == wanted[:3]


async def test_a_filter_that_few_jobs_match_in_the_order_of_creation_is_searched_within_a_limit() -> None:
    """More jobs than a page are folded, up to a number; beyond it, a snapshot answers."""
    drafts = regular_drafts(12, 1)
    asked = ListQuery(limit=4, states=(StateType.PENDING,))  # those after the first eight, as of 20
    for most, needs_snapshot in ((12, True), (13, False)):
        with patch.multiple(direct, ASOF_DIRECT_JOBS=most):
            async with history(drafts) as made:
                found = await pages(asked, lambda query, made=made: made.asof.list(query, 20))
                assert bool(made.asof.snapshots.built) == needs_snapshot
            async with prefix_view(drafts[:20]) as view:
                assert found == await pages(asked, view.list)


async def test_a_list_with_a_lost_job_needs_a_snapshot_in_the_order_of_creation() -> None:
    """The live view has no row for it in this order."""
    lost = draft(JobCreated, named_job_id("default", "lost"), spec_data("lost"), 99)
    drafts = [of_unknown_type(lost), *regular_drafts(8, 2)]
    async with history(drafts) as made:
        page = await made.asof.list(OF_ALL, 20)
        assert made.asof.snapshots.sequences == (20,)
    async with prefix_view(drafts[:20]) as view:
        assert page == await view.list(OF_ALL)


async def test_a_job_that_changed_since_is_listed_as_it_was() -> None:
    """A later tag, spec with its labels, state or event that cannot be read does not show."""
    names = [named_job_id("default", f"job-{number}") for number in range(4)]
    drafts = regular_drafts(4, 1)
    drafts += [
        draft(JobTagged, names[0], TagData(tag="best", version=1), 8),
        draft(JobUpdated, names[1], spec_data("job-1", labels={"env": "a"}), 9),
        draft(JobStateChanged, names[2], state_data(StateType.RUNNING), 10),
        of_unknown_type(draft(JobStateChanged, names[3], state_data(StateType.RUNNING), 11)),
    ]
    async with history(drafts) as made:
        for point in range(8, 12):
            labeled = ListQuery(selector=parse_selector("env=a"))
            for asked in (ListQuery(), labeled, ListQuery(quarantined=True)):
                page = await made.asof.list(asked, point)
                async with prefix_view(drafts[:point]) as view:
                    assert page == await view.list(asked)
        assert made.asof.snapshots.sequences == ()


async def test_a_job_whose_last_record_is_a_tag_is_not_taken_for_a_modified_one() -> None:
    """A tag does not change the modify time: jobs with older records can come first."""
    drafts = regular_drafts(8, 0)
    for number in range(4):
        job_id = named_job_id("default", f"job-{number}")
        drafts.append(draft(JobTagged, job_id, TagData(tag="best", version=1), len(drafts)))
    later = draft(JobCreated, named_job_id("default", "job-8"), spec_data("job-8"), len(drafts))
    drafts.append(later)
    async with history(drafts) as made:
        page = await made.asof.list(NEWEST, 12)
        assert made.asof.snapshots.sequences == ()
        assert [job.status.name for job in page.jobs] == ["job-7", "job-6", "job-5"]


@pytest.mark.parametrize(
    ("limits", "needs_snapshot"),
    [
        ({"ASOF_DIRECT_JOBS": 3}, True),
        ({"ASOF_DIRECT_JOBS": 4}, False),
        ({"ASOF_DIRECT_FIRST_EVENTS": 2, "ASOF_DIRECT_EVENTS": 3}, True),
        ({"ASOF_DIRECT_JOB_EVENTS": 2}, True),
        ({"ASOF_DIRECT_JOB_EVENTS": 3}, False),
        ({"ASOF_DIRECT_BYTES": 1_000}, True),
        ({"ASOF_DIRECT_SECONDS": 0}, True),
    ],
)
async def test_the_search_for_the_jobs_modified_last_is_bounded(
    limits: dict[str, int], needs_snapshot: bool
) -> None:
    """Beyond its limits, or without enough jobs, a snapshot answers."""
    drafts = regular_drafts(8, 3)
    with patch.multiple(direct, **limits):  # type: ignore[call-overload]
        async with history(drafts) as made:
            page = await made.asof.list(NEWEST, 20)
            assert bool(made.asof.snapshots.sequences) == needs_snapshot
        async with prefix_view(drafts[:20]) as view:
            assert page == await view.list(NEWEST)


@pytest.mark.parametrize("step", [0, 1])
async def test_a_stream_clock_that_went_back_needs_a_snapshot(tmp_path: Path, step: int) -> None:
    """The order of modify times is then not that of the log; the count of such events outlives a restart."""
    times = iter([*range(100, 110), 110 - 20 * step, *range(111, 200)])
    log = MemoryLog(clock=lambda: next(times))
    await append_all(log, regular_drafts(8, 4))
    path = tmp_path / "view.db"
    for sequence in (40, 40):
        async with Projector(log, path) as projector:
            await projector.wait_for(sequence, WAIT_SECONDS)
    async with (
        await View.open(path) as view,
        await AsOf.open(log, view, tmp_path / "asof") as asof,
    ):
        assert await view.has_steady_clock() == (step == 0)
        page = await asof.list(NEWEST, 30)
        assert bool(asof.snapshots.sequences) == (step == 1)
        async with asof.snapshots.at(30) as snapshot:
            assert page == await snapshot.list(NEWEST)


class SearchGate:
    """Searches for the jobs modified last that wait for permission."""

    def __init__(self, made: History) -> None:
        self.started: list[tuple[ListQuery, int]] = []
        self.open = asyncio.Event()
        self._direct = made.asof.snapshots._direct
        self._find = self._direct._find
        self._direct._find = self.find  # type: ignore[method-assign]

    async def find(self, query: ListQuery, sequence: int) -> Page | None:
        """Replaces `DirectPages._find`."""
        self.started.append((query, sequence))
        await self.open.wait()
        return await self._find(query, sequence)


async def settle() -> None:
    """Let the tasks that can run do so, including reads of the view."""
    for _ in range(20):
        await asyncio.to_thread(lambda: None)


async def test_searches_for_the_jobs_modified_last_are_limited_per_client() -> None:
    """One client's searches leave turns to others; beyond those that may wait, one is refused."""
    limits = patch.multiple(direct, ASOF_DIRECT_MAX_PAGES=3, ASOF_DIRECT_PER_CLIENT=2, ASOF_DIRECT_WAITING=1)
    with limits:
        async with history(regular_drafts(8, 3)) as made:
            gate = SearchGate(made)
            async with asyncio.TaskGroup() as group:
                for point in (20, 21, 22):
                    group.create_task(made.asof.list(NEWEST, point, client="greedy"))
                await settle()
                with pytest.raises(AsOfBusy, match="1 other searches"):
                    await made.asof.list(NEWEST, 23, client="greedy")
                group.create_task(made.asof.list(NEWEST, 24, client="modest"))
                await settle()
                assert [point for _, point in gate.started] == [20, 21, 24]
                gate.open.set()
            assert [point for _, point in gate.started] == [20, 21, 24, 22]
            assert made.asof.snapshots.sequences == ()


async def test_a_search_that_takes_too_long_gives_up_its_turn() -> None:
    """A snapshot answers, and the next search can start."""
    with patch.multiple(direct, ASOF_DIRECT_PER_CLIENT=1, ASOF_DIRECT_SECONDS=0.05):
        async with history(regular_drafts(8, 3)) as made:
            gate = SearchGate(made)
            assert len((await made.asof.list(NEWEST, 20)).jobs) == 3
            assert made.asof.snapshots.sequences == (20,)
            gate.open.set()
        assert gate.started == [(NEWEST, 20)]
        assert made.asof.snapshots._direct._turns.try_enter("")


async def test_a_page_that_needed_a_snapshot_is_not_searched_for_again() -> None:
    """Up to a number of pages; other points and filters are."""
    other = replace(NEWEST, limit=2)
    with patch.multiple(direct, ASOF_DIRECT_JOBS=3, ASOF_DIRECT_REMEMBERED=1):
        async with history(regular_drafts(8, 3)) as made:
            gate, cache = SearchGate(made), made.asof.snapshots
            gate.open.set()
            for _ in range(2):
                assert await cache.direct_page(NEWEST, 20) is None
            assert gate.started == [(NEWEST, 20)]
            assert await cache.direct_page(other, 20) is not None
            assert await cache.direct_page(NEWEST, 21) is None
            assert await cache.direct_page(NEWEST, 20) is None  # 21 took its place
            assert gate.started == [(NEWEST, 20), (other, 20), (NEWEST, 21), (NEWEST, 20)]


async def test_a_point_with_a_snapshot_or_a_build_is_not_searched() -> None:
    """A retry while a snapshot is built costs nothing more."""
    started, go_on = asyncio.Event(), asyncio.Event()
    async with history(regular_drafts(8, 3)) as made:
        cache = made.asof.snapshots
        make = cache._make

        async def held(*arguments: Any, **named: Any) -> None:
            started.set()
            await go_on.wait()
            await make(*arguments, **named)

        assert await cache.direct_page(NEWEST, 20) is not None
        with patch.object(cache, "_make", held):
            building = asyncio.create_task(made.asof.list(OLDEST, 20))
            await started.wait()
            assert await cache.direct_page(NEWEST, 20) is None
            go_on.set()
            await building
        assert await cache.direct_page(NEWEST, 20) is None
        assert await cache.direct_page(NEWEST, 21) is not None


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_a_rebuild_during_a_search_is_no_internal_error(is_resumed: bool) -> None:
    """The view that is being rebuilt lacks specs: try again later, or a snapshot once it is complete."""
    async with history(regular_drafts(8, 3)) as made:
        cache = made.asof.snapshots
        page_of = cache._direct._page_of
        wanted = await made.asof.list(NEWEST, 20)

        async def interrupted(batch: Batch, query: ListQuery) -> Page:
            await cache.suspend(ViewRebuilding("soon"))
            with closing(sqlite3.connect(made.view.path)) as database:
                database.executescript("CREATE TABLE kept AS SELECT * FROM specs; DELETE FROM specs")
                try:
                    return await page_of(batch, query)
                finally:
                    database.executescript("INSERT INTO specs SELECT * FROM kept; DROP TABLE kept")
                    if is_resumed:
                        await cache.resume()

        with patch.object(cache._direct, "_page_of", interrupted):
            if is_resumed:
                assert await made.asof.list(NEWEST, 20) == wanted
            else:
                with pytest.raises(ViewRebuilding, match="soon"):
                    await made.asof.list(NEWEST, 20)
