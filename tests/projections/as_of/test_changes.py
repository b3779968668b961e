"""Changes between two points: exactly the jobs that changed, each with its events."""

import random
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from jobledger import ListQuery
from jobledger.projections.as_of import changes
from jobledger.projections.as_of.changes import ChangesQuery, JobChange, change_of, changes_between
from jobledger.projections.query.selectors import parse_selector
from jobledger.store.model.events import read_record
from jobledger.store.model.fold import fold_job_on, spec_head
from jobledger.store.model.job import Job
from tests.support.histories import append_all, random_drafts
from tests.support.past_views import History, history


class JobHistory:
    """A job after each of its events."""

    def __init__(self) -> None:
        self.moments: list[tuple[int, Job]] = []

    def at(self, point: int) -> Job | None:
        """The job as of a point."""
        return next((job for sequence, job in reversed(self.moments) if sequence <= point), None)


def histories_of(made: History) -> list[JobHistory]:
    """All jobs in order of creation, folded record by record."""
    lives: dict[str, JobHistory] = {}
    folded: dict[str, Job | None] = {}
    for record in made.records:
        life = lives.setdefault(record.subject, JobHistory())
        after = folded[record.subject] = fold_job_on(folded.get(record.subject), read_record(record))
        if after is not None and not after.status.is_lost and after.status.sequence == record.sequence:
            life.moments.append((record.sequence, after))
    alive = [life for life in lives.values() if life.moments]
    return sorted(alive, key=lambda life: life.moments[0][0])


def _shown(job: Job | None) -> Job | None:
    """Without the count of foreign records on the job's subject, which is no visible change."""
    return job and msgspec.structs.replace(job, status=msgspec.structs.replace(job.status, passed=0))


async def pages(made: History, asked: ChangesQuery) -> list[JobChange]:
    """All pages."""
    found: list[JobChange] = []
    while True:
        page = await changes_between(made.log, made.view, made.asof.snapshots, asked)
        assert len(page.changes) <= asked.limit
        found += page.changes
        if page.after is None:
            return found
        asked = replace(asked, after=page.after)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 40)),
    selector=st.sampled_from(["", "", "env=a", "!tier"]),
    bounds=st.fixed_dictionaries(
        {
            "ASOF_NEAR_MAX_EVENTS": st.sampled_from([0, 10, 100]),
            "CHANGES_PAGE_JOBS": st.integers(1, 9),
            "CHANGES_PAGE_EVENTS": st.integers(1, 60),
            "CHANGES_READS": st.integers(1, 4),
        }
    ),
    data=st.data(),
)
async def test_changes_are_the_differences_of_the_two_prefixes(
    sizes: tuple[int, int, int], selector: str, bounds: dict[str, Any], data: st.DataObject
) -> None:
    """For any history and any two points, from the live view or a snapshot, with pages of any size."""
    number, jobs, events = sizes
    drafts = random_drafts(random.Random(number), jobs, events)
    with patch.multiple(changes, **bounds):
        async with history(drafts) as made:
            first, second = sorted(data.draw(st.tuples(st.integers(0, events), st.integers(0, events))))
            wanted = []
            for life in histories_of(made):
                before, after = life.at(first), life.at(second)
                between = [job for sequence, job in life.moments if first < sequence <= second]
                if after is not None and between:
                    was, now = before is not None and _meets(before, selector), _meets(after, selector)
                    if selector == "" or was or now:
                        matches = "both" if was and now else "before" if was else "after"
                        revisions = [job.status.revision for job in between]
                        wanted.append(
                            (
                                _shown(before),
                                _shown(after),
                                len(between),
                                revisions,
                                (selector and matches) or None,
                            )
                        )
            asked = ChangesQuery(
                first=first,
                second=second,
                selector=parse_selector(selector),
                limit=data.draw(st.integers(1, 5)),
            )
            found = await pages(made, asked)
            assert [
                (
                    _shown(each.before),
                    _shown(each.after),
                    each.events,
                    [item.revision for item in each.items],
                    each.matches,
                )
                for each in found
            ] == wanted


def _meets(job: Job, selector: str) -> bool:
    labels = spec_head(job.spec).labels
    return labels.get("env") == "a" if "env" in selector else "tier" not in labels


async def test_changes_page_on_while_events_arrive() -> None:
    """Events after the second point change no page; no job is lost or repeated."""
    drafts = random_drafts(random.Random(11), 12, 90)
    async with history(drafts[:50]) as made:
        asked = ChangesQuery(first=10, second=50, limit=2)
        wanted = await pages(made, replace(asked, limit=100))
        found: list[JobChange] = []
        more = iter(drafts[50:])
        while True:
            page = await changes_between(made.log, made.view, made.asof.snapshots, asked)
            found += page.changes
            if page.after is None:
                break
            asked = replace(asked, after=page.after)
            await append_all(made.log, [next(more) for _ in range(5)])
        assert found == wanted
        assert len(wanted) > 3


async def test_events_of_a_job_beyond_the_limit_are_only_counted() -> None:
    """At the limit all events are shown."""
    async with history(random_drafts(random.Random(2), 1, 40)) as made:
        [job] = (await made.view.list(ListQuery())).jobs
        [life] = histories_of(made)
        events = len(life.moments)
        assert events > 5
        for most in (events, events - 1):
            with patch.object(changes, "CHANGES_JOB_EVENTS", most):
                change = await change_of(made.log, job.status, 0, 40)
            assert change is not None
            assert (len(change.items), change.events) == (most, events)


async def test_changes_are_restricted_to_the_requested_namespaces() -> None:
    """Jobs of others are not shown."""
    async with history(random_drafts(random.Random(2), 3, 20)) as made:
        for namespaces, some in ((None, True), ({"default"}, True), ({"other"}, False), (set(), False)):
            asked = ChangesQuery(first=0, second=20, limit=9, namespaces=namespaces)
            assert bool(await pages(made, asked)) is some
