"""Counts by state: as a list with the same filters would find, up to named limits."""

from itertools import pairwise
from typing import Any

import pytest
from msgspec import structs

from jobledger.projections import view as view_module
from jobledger.projections.limits import NAME_PART_MAX_CHARACTERS, RARE_MAX_ROWS
from jobledger.projections.query import planner
from jobledger.projections.query.planner import LabelDriver, state_counts_statement
from jobledger.projections.query.query import ListQuery, Order
from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.results import StateCount
from jobledger.projections.view import View
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType
from tests.support.view_file import ViewFile

PENDING, RUNNING = StateType.PENDING, StateType.RUNNING
FILTERS: list[dict[str, Any]] = [
    {},
    {"namespace": "a"},
    {"namespaces": ("a", "b")},
    {"namespaces": ()},
    {"types": ("ops",)},
    {"name": "JOB-1"},
    {"name": "%"},
    {"name": "_"},
    {"name": "\\"},
    {"selector": parse_selector("env=prod")},
    {"selector": parse_selector("!env")},
    {"selector": parse_selector("n>3,env in (prod, dev)"), "namespace": "a"},
    {"created_from": 5, "created_to": 15},
    {"modified_from": 110},
    {"quarantined": False},
    {"states": (RUNNING,)},
]


def fill(file: ViewFile) -> None:
    for number in range(1, 25):
        file.add(
            number,
            ("job-%d", "100%%-%d", "a_b-%d", "c\\d-%d")[number % 4] % number,
            namespace="abc"[number % 3],
            state=tuple(StateType)[number % 5],
            job_type=("batch", "ops")[number % 2],
            labels={"env": ("prod", "dev")[number % 2], "n": str(number)} if number % 6 else {},
            modified=100 + number,
        )


@pytest.mark.parametrize("filters", FILTERS, ids=str)
async def test_counts_are_those_of_the_list(file: ViewFile, view: View, filters: dict[str, Any]) -> None:
    """Of every state, whatever state, order or page the query names."""
    fill(file)
    page = await view.list(ListQuery(**{**filters, "states": ()}, limit=100))
    listed = [job.status.state.state_type for job in page.jobs]
    found = await view.state_counts(ListQuery(**filters, limit=1, descending=True))
    assert found == {state: StateCount(listed.count(state), is_exact=True) for state in StateType}


@pytest.mark.parametrize("filters", [{"types": ("ops",)}, {"name": "j"}, {"selector": parse_selector("env")}])
async def test_a_rare_condition_and_a_scan_count_the_same(
    file: ViewFile, view: View, filters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without a driver."""
    fill(file)
    with_driver = await view.state_counts(ListQuery(**filters))
    monkeypatch.setattr(view_module, "choose_driver", lambda *_: None)
    assert await view.state_counts(ListQuery(**filters)) == with_driver


async def test_counting_ends_at_a_limit(file: ViewFile, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the count is exact; beyond it there are more."""
    for module in (planner, view_module):
        monkeypatch.setattr(module, "COUNT_MAX_JOBS", 3)
    for number in range(1, 4):
        file.add(number, state=PENDING)
        file.add(number + 10, state=RUNNING)
    file.add(20, state=RUNNING)
    found = await view.state_counts(ListQuery())
    assert found[PENDING] == StateCount(3, is_exact=True)
    assert found[RUNNING] == StateCount(3, is_exact=False)


async def test_a_scan_that_was_cut_is_named(
    file: ViewFile, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest jobs of a state are tested; if there are older ones, the count is not exact."""
    monkeypatch.setattr(planner, "COUNT_SCAN_MAX_ROWS", 3)
    for number in range(1, 3):
        file.add(number, f"x-{number}", state=PENDING)
    for number in range(3, 7):
        file.add(number, f"x-{number}", state=RUNNING)
    found = await view.state_counts(ListQuery(name="x"))
    assert found[PENDING] == StateCount(2, is_exact=True)
    assert found[RUNNING] == StateCount(3, is_exact=False)


def test_without_other_filters_an_index_is_counted(file: ViewFile) -> None:
    """No row of a job is read, with and without a namespace."""
    for query in (ListQuery(), ListQuery(namespace="a", created_from=1)):
        steps = [
            step for step in file.plan(state_counts_statement(query, None)) if "jobs" in step or "j " in step
        ]
        assert steps
        assert all("USING COVERING INDEX jobs_" in step for step in steps), steps


def test_a_rare_label_drives_the_count(file: ViewFile) -> None:
    """Its rows are searched, not all jobs of a state."""
    selector = parse_selector("env=prod")
    statement = state_counts_statement(ListQuery(selector=selector), LabelDriver(selector[0]))
    assert any(step.startswith("SEARCH d USING PRIMARY KEY") for step in file.plan(statement))
    assert RARE_MAX_ROWS < 10_000


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * (NAME_PART_MAX_CHARACTERS + 1)])
def test_a_part_of_a_name_that_no_job_can_have_is_refused(name: str) -> None:
    """SQLite would stop at a NUL."""
    with pytest.raises(InvalidInput, match="name must be at most 128 characters"):
        ListQuery(name=name)


async def test_a_count_in_several_namespaces_tests_a_limited_number_of_jobs(
    file: ViewFile, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of all of them, in the order of an index: nothing is sorted before the limit."""
    monkeypatch.setattr(planner, "COUNT_SCAN_MAX_ROWS", 4)
    for number in range(1, 9):
        file.add(number, f"x-{number}", namespace="abc"[number % 3], state=PENDING)
    query = ListQuery(name="x", namespaces=("a", "b"))
    assert (await view.state_counts(query))[PENDING] == StateCount(4, is_exact=False)
    assert not [step for step in file.plan(state_counts_statement(query, None)) if "TEMP B-TREE" in step]
    monkeypatch.setattr(
        planner, "WALK_MAX_ARMS", 1
    )  # of too many namespaces, the newest jobs of all are tested
    assert (await view.state_counts(query))[PENDING] == StateCount(2, is_exact=False)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("most", [1, 2, 5, 24, 100])
@pytest.mark.parametrize(
    "filters", [{}, {"namespace": "a"}, {"namespaces": ("a", "b"), "states": (RUNNING, PENDING)}]
)
@pytest.mark.parametrize("search", [{"name": "JOB-"}, {"types": ("batch",), "is_bounded": True}])
async def test_a_bounded_search_tests_a_limited_number_of_jobs_per_page(  # noqa: PLR0917 - parameters
    file: ViewFile,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
    descending: bool,
    order: Order,
    most: int,
    filters: dict[str, Any],
    search: dict[str, Any],
) -> None:
    """Pages may be short or empty; together they have every match once, in order."""
    fill(file)
    monkeypatch.setattr(view_module, "choose_driver", lambda *_: None)
    query = ListQuery(**filters, **search, order=order, descending=descending, limit=100)
    wanted = [job.status.id for job in (await view.list(query)).jobs]
    assert wanted
    monkeypatch.setattr(planner, "LIST_SCAN_MAX_ROWS", most)
    found: list[str] = []
    cursor: str | None = None
    for _ in range(100):
        page = await view.list(structs.replace(query, limit=3, cursor=cursor))
        assert len(page.jobs) <= min(3, most)
        found += [job.status.id for job in page.jobs]
        if (cursor := page.next_cursor) is None:
            break
    assert found == wanted
    if not query.name:  # only on request: other pages are full
        assert len((await view.list(structs.replace(query, is_bounded=False))).jobs) == len(wanted)


@pytest.mark.parametrize("namespaces", [None, ("a",), ("a", "b"), ("none",)])
async def test_created_jobs_are_counted_by_interval_from_an_index(
    file: ViewFile, view: View, monkeypatch: pytest.MonkeyPatch, namespaces: tuple[str, ...] | None
) -> None:
    """Up to a limit per interval, and only in the namespaces."""
    fill(file)
    query = ListQuery(namespaces=namespaces, limit=100)
    times = [job.status.create_time for job in (await view.list(query)).jobs]
    assert await view.first_created(namespaces) == (min(times) if times else None)
    edges = tuple(range(-1, 40, 7))
    wanted = [sum(low <= time < high for time in times) for low, high in pairwise(edges)]
    assert [each.count for each in await view.created_counts(namespaces, edges)] == wanted
    monkeypatch.setattr(planner, "CREATED_COUNT_MAX_JOBS", 2)
    monkeypatch.setattr(view_module, "CREATED_COUNT_MAX_JOBS", 2)
    assert await view.created_counts(namespaces, edges) == tuple(
        StateCount(min(count, 2), is_exact=count <= 2) for count in wanted
    )
    plan = file.plan(planner.created_counts_statement(namespaces, edges))
    assert not [step for step in plan if step.startswith("SCAN jobs")]
