"""The index that answers each list, according to SQLite: a page is found by a search, not a scan."""

from collections.abc import Iterator
from typing import Any

import pytest

from jobledger.projections import view
from jobledger.projections.limits import LIST_DEFAULT_LIMIT, RARE_MAX_ROWS
from jobledger.projections.query.planner import (
    Driver,
    LabelDriver,
    RangeDriver,
    ScopeDriver,
    choose_driver,
    count_statement,
    drivers_of,
    page_statement,
)
from jobledger.projections.query.query import ListQuery, Order, Position, encode_cursor
from jobledger.projections.query.selectors import parse_selector
from jobledger.store.model.job import StateType
from tests.support.view_file import ViewFile

CREATED, MODIFIED = Order.CREATED, Order.MODIFIED
ONE, TWO = (StateType.RUNNING,), (StateType.RUNNING, StateType.FAILED)
SELECTOR = parse_selector("a=1,b>2,c,!d,e notin (x,y),f in (x,y)")
JOB_SEARCH = "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)"
SORT = "USE TEMP B-TREE FOR ORDER BY"

# The page's rows and specs, and the sort of the page, follow the keys: the same for every list.
PAGE_TAIL = [
    "SCAN c",
    "SCAN k LEFT-JOIN",
    "SEARCH j USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
    "SEARCH s USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
    SORT,
]
PROBE = "SEARCH l USING INDEX labels_job (created_sequence=? AND key=?)"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewFile]:
    """A file with the schema and no rows: without statistics, plans do not depend on rows."""
    made = ViewFile(tmp_path_factory.mktemp("plans") / "view.db")
    yield made
    made.close()


def keys_plan(file: ViewFile, query: ListQuery, driver: Driver | None = None) -> list[str]:
    """How the keys of a page are found; whether the index is covering is removed."""
    first, *steps = file.plan(page_statement(query, driver))
    assert first == "MATERIALIZE k"
    assert steps[-len(PAGE_TAIL) :] == PAGE_TAIL
    kept = [step for step in steps[: -len(PAGE_TAIL)] if not step.startswith("CORRELATED")]
    return [step.replace("COVERING ", "") for step in kept]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"namespace": "a"}, "jobs_namespace_created (namespace=?"),
        ({"states": ONE}, "jobs_state (state=?"),
        ({"namespace": "a", "states": ONE}, "jobs_namespace_state (namespace=? AND state=?"),
    ],
)
def test_a_list_by_namespace_and_state_is_a_search_in_order(
    file: ViewFile, asked: dict[str, Any], index: str, descending: bool, first: bool
) -> None:
    """One index gives the jobs in order, also after a cursor; labels are searched job by job."""
    cursor = None if first else encode_cursor(CREATED, Position(1, 1), descending=descending)
    bound = "" if first else f" AND create_time{'<' if descending else '>'}?"
    for selector in ((), SELECTOR):
        query = ListQuery(descending=descending, cursor=cursor, selector=selector, **asked)
        assert keys_plan(file, query) == [f"SEARCH j USING INDEX {index}{bound})", *[PROBE] * len(selector)]


def test_several_states_are_searched_one_by_one_and_merged(file: ViewFile) -> None:
    """Each state's jobs come in order from its part of the index: only the page is sorted."""
    search = "SEARCH j USING INDEX jobs_namespace_state (namespace=? AND state=?)"
    query = ListQuery(namespace="a", states=TWO, selector=parse_selector("k=v"))
    arm = [search, PROBE]
    assert keys_plan(file, query) == ["MERGE (UNION ALL)", "LEFT", *arm, "RIGHT", *arm]


def test_several_namespaces_are_searched_one_by_one_and_merged(file: ViewFile) -> None:
    """Each namespace's jobs come in order from its part of the index."""
    search = "SEARCH j USING INDEX jobs_namespace_created (namespace=?)"
    assert keys_plan(file, ListQuery(namespaces=("a", "b"))) == [
        "MERGE (UNION ALL)",
        "LEFT",
        search,
        "RIGHT",
        search,
    ]


def test_all_states_are_no_condition(file: ViewFile) -> None:
    """A list of every state is one search."""
    query = ListQuery(namespace="a", states=tuple(StateType))
    assert keys_plan(file, query) == ["SEARCH j USING INDEX jobs_namespace_created (namespace=?)"]


@pytest.mark.parametrize(("order", "index"), [(CREATED, "jobs_created"), (MODIFIED, "jobs_modified")])
def test_a_list_of_everything_walks_the_order_and_sorts_nothing(
    file: ViewFile, order: Order, index: str
) -> None:
    """Along the index until the page is full; from the cursor's position if there is one."""
    column = "create_time" if order is CREATED else "modify_time"
    cursor = encode_cursor(order, Position(1, 1), descending=False)
    assert keys_plan(file, ListQuery(order=order)) == [f"SCAN j USING INDEX {index}"]
    after_cursor = ListQuery(order=order, cursor=cursor)
    assert keys_plan(file, after_cursor) == [f"SEARCH j USING INDEX {index} ({column}>?)"]


def test_a_cursor_and_a_range_give_one_bound_a_side(file: ViewFile) -> None:
    """A deep page starts at its cursor, not at the start of the range."""
    cursor = encode_cursor(CREATED, Position(5, 5), descending=False)
    query = ListQuery(namespace="a", created_from=1, created_to=9, cursor=cursor)
    statement = page_statement(query, None)
    assert statement.parameters == (query.namespace, 5, 5, 9, query.limit + 1)
    index = "jobs_namespace_created (namespace=? AND create_time>? AND create_time<?)"
    assert keys_plan(file, query) == [f"SEARCH j USING INDEX {index}"]


@pytest.mark.parametrize("order", [CREATED, MODIFIED])
@pytest.mark.parametrize(
    ("selector", "search"),
    [
        ("k=v", "SEARCH d USING PRIMARY KEY (key=? AND value=?)"),
        ("k in (v,w)", "SEARCH d USING PRIMARY KEY (key=? AND value=?)"),
        ("k", "SEARCH d USING PRIMARY KEY (key=?)"),
        ("k>1", "SEARCH d USING PRIMARY KEY (key=?)"),
    ],
)
def test_a_rare_label_drives_the_search(file: ViewFile, order: Order, selector: str, search: str) -> None:
    """From the index of labels to the jobs, for all other conditions; only those jobs are sorted."""
    query = ListQuery(
        namespace="a",
        states=TWO,
        selector=parse_selector(selector),
        order=order,
        cursor=encode_cursor(order, Position(1, 1), descending=False),
        created_from=0,
        modified_to=9,
    )
    plan = keys_plan(file, query, LabelDriver(query.selector[0]))
    assert [step for step in plan if step != PROBE] == [search, JOB_SEARCH, SORT]


def test_a_rare_scope_or_range_drives_the_search(file: ViewFile) -> None:
    """In an order that the index does not have, few jobs are found by it and sorted."""
    scoped = ListQuery(namespace="a", states=TWO, order=MODIFIED, modified_from=1)
    search = "SEARCH j USING INDEX jobs_namespace_state (namespace=? AND state=?)"
    assert keys_plan(file, scoped, ScopeDriver()) == [search, SORT]
    ranged = ListQuery(namespace="a", states=TWO, created_from=1, modified_from=1, modified_to=2)
    search = "SEARCH j USING INDEX jobs_modified (modify_time>? AND modify_time<?)"
    assert keys_plan(file, ranged, RangeDriver(MODIFIED)) == [search, SORT]


def test_counting_searches_too(file: ViewFile) -> None:
    """Every driver's rows are counted in its index, up to the limit."""
    query = ListQuery(namespace="a", states=TWO, selector=SELECTOR, order=MODIFIED, created_from=1)
    drivers = drivers_of(query)
    assert [type(driver) for driver in drivers] == [*[LabelDriver] * 4, RangeDriver, ScopeDriver]
    statement = count_statement(query, drivers)
    assert statement.sql.count(f"LIMIT {RARE_MAX_ROWS})") == len(drivers)
    steps = [step for step in file.plan(statement) if step.startswith(("SCAN", "SEARCH"))]
    assert {step for step in steps if step.startswith("SCAN")} <= {
        "SCAN CONSTANT ROW",
        *(f"SCAN (subquery-{number})" for number in range(20)),
    }
    assert sum(step.startswith(("SEARCH d", "SEARCH j USING")) for step in steps) == len(drivers)


def test_conditions_served_by_the_order_are_not_counted() -> None:
    """Without a label or a range of the other time, a list in order of creation needs no count."""
    assert drivers_of(ListQuery(namespace="a", states=TWO, created_from=1, types=("batch",))) == ()
    assert drivers_of(ListQuery(selector=parse_selector("!a,b!=1"))) == ()
    assert drivers_of(ListQuery(order=MODIFIED, modified_from=1)) == ()


@pytest.mark.parametrize(
    ("largest", "label", "scope", "chosen"),
    [
        (1_000_000, 10, 70_000, LabelDriver),
        (1_000_000, RARE_MAX_ROWS - 1, RARE_MAX_ROWS, LabelDriver),
        (1_000_000, RARE_MAX_ROWS, RARE_MAX_ROWS, type(None)),
        (1_000_000, 900, 30, type(None)),  # the scope is rarer, and a walk uses its index
        (10_000, 714, 5_000, LabelDriver),  # the square root of 51 * 10,000 is 714.1
        (10_000, 715, 5_000, type(None)),
        (None, 0, 0, type(None)),
    ],
)
def test_the_rarest_condition_drives_if_that_is_cheaper_than_walking(
    largest: int | None, label: int, scope: int, chosen: type
) -> None:
    """Up to the square root of limit times jobs, and never beyond the limit."""
    query = ListQuery(namespace="a", selector=parse_selector("k=v"), limit=LIST_DEFAULT_LIMIT)
    assert type(choose_driver(query, drivers_of(query), (largest, label, scope))) is chosen


def test_in_the_other_order_a_rare_scope_drives() -> None:
    """The index of modify times has no namespaces, so few jobs are better sorted."""
    query = ListQuery(namespace="a", order=MODIFIED)
    assert choose_driver(query, drivers_of(query), (1_000_000, 30)) == ScopeDriver()


@pytest.mark.parametrize(
    "sql",
    [
        view._BY_ID,
        view._BY_EITHER_ID,
        view._BY_EITHER_ID_WITHIN.format(names="?, ?").replace("?1", "?").replace("?2", "?"),
        view._BY_PREFIX.format(within=""),
        view._BY_PREFIX.format(within=view._within(2)),
        view._VERSION,
        view._VERSIONS,
    ],
)
def test_one_job_is_searched_for(file: ViewFile, sql: str) -> None:
    """By id, name, short id and version: indexes only, nothing sorted."""
    steps = [step.replace("COVERING ", "") for step in file.plan((sql, ("x",) * sql.count("?")))]
    assert all(step.startswith(("SEARCH", "SCALAR SUBQUERY")) for step in steps), steps
    assert "SEARCH j USING INDEX jobs_id (id" in " ".join(steps)


@pytest.mark.parametrize("sql", [view._COUNTS, view._COUNTS_IN])
def test_counts_read_an_index_only(file: ViewFile, sql: str) -> None:
    """Counting reads no rows of jobs, and sorts nothing."""
    [step] = file.plan((sql, ("x",) * sql.count("?")))
    assert "COVERING INDEX jobs_" in step
