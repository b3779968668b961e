"""As of a point: whatever the history, the answer is the fold of the prefix."""

import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from jobledger import ListQuery, Projector, View
from jobledger.projections.as_of import build, build as seed, snapshots
from jobledger.projections.as_of.job import sequence_of_revision
from jobledger.projections.query.query import Order
from jobledger.projections.query.selectors import parse_selector
from jobledger.store.log import PendingEvent
from jobledger.store.model.errors import JobNotFound
from jobledger.store.model.job import Job, StateType
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND
from tests.support.histories import append_all, random_drafts
from tests.support.oracle import fold_of, rows_of
from tests.support.past_views import WAIT_SECONDS, history, log_of


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


async def pages(asked: ListQuery, page_of) -> list[tuple[Job, ...]]:  # type: ignore[no-untyped-def]
    """All pages of a list."""
    from msgspec.structs import replace

    found, cursor = [], None
    while True:
        page = await page_of(replace(asked, cursor=cursor))
        found.append(page.jobs)
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
    data=st.data(),
)
async def test_lists_as_of_a_point_are_those_of_the_prefix(
    number: int, jobs: int, events: int, reads: int, data: st.DataObject
) -> None:
    """For any history, points in any order, filters and orders: page by page, spec by spec.

    However a snapshot is built: from the live view or another snapshot, per job or by folding the log.
    """
    drafts = random_drafts(random.Random(number), jobs, events)
    with small, near, patch.object(seed, "ASOF_EVENTS_PER_JOB_READ", reads):
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
            await made.asof.list(ListQuery(), at - 30)  # evicts the snapshot as of 50
            assert made.asof.snapshots.sequences == (at - 30,)
            return page

        assert await pages(ListQuery(limit=2, order=Order.MODIFIED), page_of) == wanted
