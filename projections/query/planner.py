"""The SQL of a list query, and the choice of its index. Pure.

A page is found with one of two plans:

- **walk**: scan the index of the list's order, test each job, stop when the page is full. Best when matches
are
  common: the work is limit / (fraction of jobs that match), independent of the size of the view.
- **drive**: collect the rows of the most selective condition from its own index, test and sort them. Best
  when they are few.

The rows of each condition are counted up to `RARE_MAX_ROWS` to choose between them. SQLite's own planner is
not used for this: it guesses without statistics, and with statistics plans, and thus response times, would
differ between replicas. A unary `+` before a column keeps SQLite from using an index on it.

No index helps with several conditions that are each common but rare in combination: the walk is then long,
unless the query is bounded.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.projections.limits import (
    COUNT_MAX_JOBS,
    COUNT_SCAN_MAX_ROWS,
    CREATED_COUNT_MAX_JOBS,
    LIST_SCAN_MAX_ROWS,
    RARE_MAX_ROWS,
    SHORT_WALK_ROWS,
    WALK_MAX_ARMS,
)
from jobledger.projections.query.query import ListQuery, Order, Position
from jobledger.projections.query.selectors import Operator, Requirement, parse_int64
from jobledger.projections.rows import STATUS_COLUMNS
from jobledger.store.model.job import StateType

_TIME_COLUMNS: Final = {Order.CREATED: "create_time", Order.MODIFIED: "modify_time"}
_COLUMNS: Final = ", ".join(f"j.{column}" for column in STATUS_COLUMNS)

# Whether a label's value is an integer, for `>` and `<`: the same texts that `parse_int64` accepts. A cast
# alone reads `12abc` as 12 and clamps numbers beyond 64 bits; and SQLite's text functions stop at a NUL,
# which a value may contain.
_UNSIGNED: Final = "substr(l.value, 1 + (l.value GLOB '[+-]*'))"
_DIGITS: Final = f"ltrim({_UNSIGNED}, '0')"
_IS_INT64: Final = (
    f"l.value GLOB '*[0-9]' AND {_UNSIGNED} NOT GLOB '*[^0-9]*' AND instr(l.value, char(0)) = 0"
    f" AND (length({_DIGITS}) < 19 OR (length({_DIGITS}) = 19 AND {_DIGITS} <="
    " CASE WHEN l.value GLOB '-*' THEN '9223372036854775808' ELSE '9223372036854775807' END))"
)


class Statement(NamedTuple):
    """SQL and the parameters `?1`, `?2`, …."""

    sql: str
    parameters: tuple[Any, ...]


class LabelDriver(msgspec.Struct, frozen=True):
    """Collect the rows of one requirement from the index of labels."""

    requirement: Requirement


class ScopeDriver(msgspec.Struct, frozen=True):
    """Collect the jobs of some namespaces and states. In the order `created`, a walk does the same."""


class QuarantineDriver(msgspec.Struct, frozen=True):
    """Collect the jobs in quarantine, which have their own index."""


class RangeDriver(msgspec.Struct, frozen=True):
    """Collect the jobs in a range of the time that the list is not sorted by."""

    axis: Order


Driver = LabelDriver | ScopeDriver | RangeDriver | QuarantineDriver


def drivers_of(query: ListQuery) -> tuple[Driver, ...]:
    """The conditions to count; empty if the index of the order serves the query."""
    drivers: list[Driver] = [LabelDriver(found) for found in query.selector if found.operator.needs_key]
    if query.quarantined:
        drivers.append(QuarantineDriver())
    other = _other(query.order)
    if query.bounds(other) != (None, None):
        drivers.append(RangeDriver(other))
    scoped = query.asked_namespaces() is not None or query.asked_states()
    if scoped and (drivers or query.order == Order.MODIFIED):
        drivers.append(ScopeDriver())
    return tuple(drivers)


def count_statement(query: ListQuery, drivers: Sequence[Driver]) -> Statement:
    """One row: the largest key of all jobs, then the number of rows of each driver, up to a limit."""
    builder = _Builder(query)
    counts = ["(SELECT max(created_sequence) FROM jobs)"]
    for driver in drivers:
        source, conditions = builder.source(driver)
        where, most = " AND ".join(conditions), RARE_MAX_ROWS
        if isinstance(driver, ScopeDriver) and query.order == Order.CREATED:
            # The walk uses this index anyway; what matters is whether it is shorter than any driver.
            most = SHORT_WALK_ROWS
        counts.append(f"(SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {where} LIMIT {most}))")
    return builder.statement(f"SELECT {', '.join(counts)}")


def choose_driver(
    query: ListQuery, drivers: Sequence[Driver], counted: Sequence[int | None]
) -> Driver | None:
    """The cheapest driver, or None to walk.

    Driving costs as many rows as the driver finds. Walking costs about limit * jobs / found, so they break
    even where found is the square root of limit * jobs. The largest key approximates the number of jobs from
    above.
    """
    largest, *counts = counted
    if largest is None or not drivers:
        return None
    is_walked = query.order == Order.CREATED and isinstance(drivers[-1], ScopeDriver)
    if is_walked and (counts.pop() or 0) < SHORT_WALK_ROWS:
        return None  # a walk of the scope's index, already in order
    found, index = min((count or 0, index) for index, count in enumerate(counts))
    if found > min(RARE_MAX_ROWS - 1, isqrt((query.limit + 1) * largest)):
        return None
    return drivers[index]


def page_statement(query: ListQuery, driver: Driver | None) -> Statement:
    """The page, and one more job if there is another page.

    Rows have the checkpoint's sequence, `STATUS_COLUMNS` and the spec; an empty page is one row with NULLs
    after the sequence. One statement is one snapshot. Only keys are tested and sorted; rows and specs are
    joined last, for the page only.
    """
    builder = _Builder(query)
    keys = builder.walk() if driver is None else builder.drive(driver)
    direction = _direction(query)
    return builder.statement(
        f"SELECT c.sequence, {_COLUMNS}, s.spec FROM checkpoint AS c LEFT JOIN ({keys}) AS k ON true"
        " LEFT JOIN jobs AS j ON j.created_sequence = k.created_sequence"
        " LEFT JOIN specs AS s ON s.sequence = j.spec_sequence"
        f" ORDER BY k.time {direction}, k.created_sequence {direction}"
    )


def existing_statement(query: ListQuery, sequence: int, time: int, *, limit: int) -> Statement:
    """The rows (`STATUS_COLUMNS`) of the jobs created up to a sequence, in the order of creation.

    Only namespaces, times of creation, direction and cursor of the query matter: states and specs may have
    changed since. `time` is that of the sequence, and bounds the walk.
    """
    latest = time + 1 if query.created_to is None else min(time + 1, query.created_to)
    query = ListQuery(
        namespace=query.namespace,
        namespaces=query.namespaces,
        created_from=None if query.created_from is None else min(query.created_from, latest),
        created_to=latest,
        descending=query.descending,
        cursor=query.cursor,
    )
    builder = _Builder(query, limit=limit)
    keys = builder.walk(created_up_to=sequence)
    direction = _direction(query)
    return builder.statement(
        f"SELECT {_COLUMNS} FROM ({keys}) AS k JOIN jobs AS j ON j.created_sequence = k.created_sequence"
        f" ORDER BY k.time {direction}, k.created_sequence {direction}"
    )


def edge_statement(query: ListQuery) -> Statement:
    """The time of the last job that a bounded search may test for a page; no row if all may be tested."""
    builder = _Builder(query)
    return builder.statement(f"{builder.edge()} LIMIT 1 OFFSET {LIST_SCAN_MAX_ROWS - 1}")


def state_counts_statement(query: ListQuery, driver: Driver | None) -> Statement:
    """One row per state: its name, the number of jobs, and whether all jobs of the state were tested.

    The states of the query do not matter, and neither do its order and page. Without other filters than the
    namespace and the time of creation, an index is counted, up to `COUNT_MAX_JOBS`; others are tested job by
    job, newest first, at most `COUNT_SCAN_MAX_ROWS` of a state.
    """
    builder = _Builder(query)
    if driver is not None:
        return builder.statement(f"SELECT state, count(*), 1 FROM ({builder.found(driver)}) GROUP BY state")
    return builder.statement(" UNION ALL ".join(builder.count_of_state(str(each)) for each in StateType))


def first_created_statement(namespaces: Sequence[str] | None) -> Statement:
    """The create time of the first job in some namespaces, or of all jobs."""
    if namespaces is None:
        return Statement("SELECT min(create_time) FROM jobs", ())
    each = "SELECT min(create_time) AS time FROM jobs WHERE namespace = ?{}"
    selects = " UNION ALL ".join(each.format(place + 1) for place in range(len(namespaces)))
    return Statement(f"SELECT min(time) FROM ({selects})", tuple(namespaces))


def created_counts_statement(namespaces: Sequence[str] | None, edges: Sequence[int]) -> Statement:
    """One row: for each interval between two edges, the jobs created in it, up to a limit."""
    names = tuple(namespaces or ())
    places = ", ".join(f"?{at + 1}" for at in range(len(names)))
    scope = "" if namespaces is None else f"namespace IN ({places}) AND "
    first = len(names) + 1
    counts = [
        f"(SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {scope}create_time >= ?{first + place} AND"
        f" create_time < ?{first + place + 1} LIMIT {CREATED_COUNT_MAX_JOBS + 1}))"
        for place in range(len(edges) - 1)
    ]
    return Statement(f"SELECT {', '.join(counts)}", (*names, *edges))


class _Builder:
    """Builds the SQL of one query; parameters are numbered, so that the arms of a union share them."""

    def __init__(self, query: ListQuery, *, limit: int = 0) -> None:
        self._query = query
        self._limit = limit or query.limit + 1  # one more job if there is another page
        self._parameters: list[Any] = []
        self._time = _TIME_COLUMNS[query.order]

    def statement(self, sql: str) -> Statement:
        return Statement(sql, tuple(self._parameters))

    def walk(self, *, created_up_to: int | None = None) -> str:
        """Scan the index of the order, with one arm per namespace and state, which SQLite merges."""
        if self._query.order == Order.MODIFIED:
            conditions = [*self._scope("+"), *self._own_bounds(""), *self._filters()]
            return self._ordered("jobs AS j", [conditions], f"j.{self._time}")
        arms, is_whole = self._arms()
        shared = [*([] if is_whole else self._namespace("+")), *self._own_bounds(""), *self._filters()]
        if created_up_to is not None:
            shared.append(f"j.created_sequence <= {self._add(created_up_to)}")
        return self._ordered("jobs AS j", [[*arm, *shared] for arm in arms], f"j.{self._time}")

    def edge(self) -> str:
        """The times of the rows that `walk` tests, in its order."""
        arms: list[list[str]] = [[]] if self._query.order == Order.MODIFIED else self._arms()[0]
        bounds = self._own_bounds("")
        select = f"SELECT j.{self._time} FROM jobs AS j"
        found = [[*arm, *bounds] for arm in arms]
        selects = [f"{select} WHERE {' AND '.join(arm)}" if arm else select for arm in found]
        return f"{' UNION ALL '.join(selects)} ORDER BY 1 {_direction(self._query)}"

    def _arms(self) -> tuple[list[list[str]], bool]:
        """The conditions of each arm of a walk, and whether they include the namespaces of the query."""
        states, namespaces = self._query.asked_states(), self._query.asked_namespaces()
        by_state = [[f"j.state = {self._add(state)}"] for state in states] or [[]]
        if not namespaces or len(namespaces) * len(by_state) > WALK_MAX_ARMS:
            return by_state, False
        by_namespace = [f"j.namespace = {self._add(namespace)}" for namespace in namespaces]
        return [[*state, namespace] for namespace in by_namespace for state in by_state], True

    def drive(self, driver: Driver) -> str:
        """Test and sort the rows of a driver."""
        source, conditions = self.source(driver)
        if isinstance(driver, LabelDriver):
            # CROSS JOIN fixes the join order. A job has each label key once, so no job is returned twice.
            source += " CROSS JOIN jobs AS j ON j.created_sequence = d.created_sequence"
        if not isinstance(driver, ScopeDriver):
            conditions += self._scope("+")
        conditions += self._own_bounds("+") + self._filters(without=driver)
        return self._ordered(source, [conditions], f"+j.{self._time}")

    def found(self, driver: Driver) -> str:
        """The states of the jobs that a driver finds."""
        source, conditions = self.source(driver)
        if isinstance(driver, LabelDriver):
            source += " CROSS JOIN jobs AS j ON j.created_sequence = d.created_sequence"
        if not isinstance(driver, ScopeDriver):
            conditions += self._scope("+")
        conditions += self._own_bounds("+") + self._filters(without=driver)
        return f"SELECT j.state FROM {source} WHERE {' AND '.join(conditions)}"

    def count_of_state(self, state: str) -> str:
        """The number of jobs of a state, up to a limit."""
        name, filters, most = self._add(state), self._filters(), self._add(COUNT_MAX_JOBS + 1)
        bounds = self._own_bounds("")
        if not filters:
            scope = " AND ".join([f"j.state = {name}", *self._namespace(""), *bounds])
            return (
                f"SELECT {name}, (SELECT count(*) FROM (SELECT 1 FROM jobs AS j WHERE {scope}"
                f" LIMIT {most})), 1"
            )
        namespaces = self._query.asked_namespaces()
        if namespaces and len(namespaces) <= WALK_MAX_ARMS:
            # One arm each: `IN` would sort all of their jobs before the limit.
            arms = [[f"j.namespace = {self._add(each)}"] for each in namespaces]
        else:
            arms, filters = [[]], [*self._namespace("+"), *filters]
        selects = [
            f"SELECT j.* FROM jobs AS j WHERE {' AND '.join([f'j.state = {name}', *arm, *bounds])}"
            for arm in arms
        ]
        tested = (
            f"{' UNION ALL '.join(selects)} ORDER BY create_time DESC LIMIT {self._add(COUNT_SCAN_MAX_ROWS)}"
        )
        return (
            f"SELECT {name}, (SELECT count(*) FROM (SELECT 1 FROM ({tested}) AS j"
            f" WHERE {' AND '.join(filters)} LIMIT {most})),"
            f" (SELECT count(*) < {self._add(COUNT_SCAN_MAX_ROWS)} FROM (SELECT 1 FROM ({tested})))"
        )

    def source(self, driver: Driver) -> tuple[str, list[str]]:
        """The table that a driver reads, and the conditions served by its index."""
        if isinstance(driver, ScopeDriver):
            return "jobs AS j", self._scope("")
        if isinstance(driver, RangeDriver):
            return "jobs AS j", self._range(driver.axis, "", *self._query.bounds(driver.axis))
        if isinstance(driver, QuarantineDriver):
            return "jobs AS j", ["j.quarantine != ''"]
        requirement = driver.requirement
        conditions = [f"d.key = {self._add(requirement.key)}"]
        if requirement.operator is Operator.IN:
            conditions.append(f"d.value IN ({self._list(requirement.values)})")
        return "labels AS d", conditions

    def _ordered(self, source: str, arms: Sequence[Sequence[str]], time: str) -> str:
        select = f"SELECT {time} AS time, j.created_sequence FROM {source}"
        selects = [f"{select} WHERE {' AND '.join(arm)}" if arm else select for arm in arms]
        direction, limit = _direction(self._query), self._add(self._limit)
        return f"{' UNION ALL '.join(selects)} ORDER BY 1 {direction}, 2 {direction} LIMIT {limit}"

    def _namespace(self, plus: str) -> list[str]:
        namespaces = self._query.asked_namespaces()
        if namespaces is None:
            return []
        if len(namespaces) == 1:
            return [f"{plus}j.namespace = {self._add(namespaces[0])}"]
        return [f"{plus}j.namespace IN ({self._list(namespaces)})"]

    def _scope(self, plus: str) -> list[str]:
        states = self._query.asked_states()
        return [*self._namespace(plus), *([f"{plus}j.state IN ({self._list(states)})"] if states else [])]

    def _own_bounds(self, plus: str) -> list[str]:
        """The range of the sort time, and the cursor; one bound per side, so that SQLite seeks by it."""
        query = self._query
        lower, upper = query.bounds(query.order)
        after = query.after()
        columns = f"({plus}j.{self._time}, {plus}j.created_sequence)"
        if after is None:
            cursor = []
        elif query.descending and (upper is None or after.time < upper):
            upper, cursor = None, [f"{columns} < {self._position(after)}"]
        elif not query.descending and (lower is None or after.time >= lower):
            lower, cursor = None, [f"{columns} > {self._position(after)}"]
        else:
            cursor = []  # before the whole range
        return [*cursor, *self._range(query.order, plus, lower, upper)]

    def _position(self, position: Position) -> str:
        return f"({self._add(position.time)}, {self._add(position.created_sequence)})"

    def _range(self, axis: Order, plus: str, lower: int | None, upper: int | None) -> list[str]:
        column = f"{plus}j.{_TIME_COLUMNS[axis]}"
        conditions = [] if lower is None else [f"{column} >= {self._add(lower)}"]
        return conditions if upper is None else [*conditions, f"{column} < {self._add(upper)}"]

    def _filters(self, without: Driver | None = None) -> list[str]:
        """Conditions tested job by job: types, labels, the other time range, unless covered by the driver."""
        query = self._query
        other = _other(query.order)
        conditions = [] if isinstance(without, RangeDriver) else self._range(other, "+", *query.bounds(other))
        if query.quarantined is not None:
            conditions.append(f"+j.quarantine {'!=' if query.quarantined else '='} ''")
        if query.name:
            # Not LIKE, which compares letter by letter: some patterns would take long.
            conditions.append(f"instr(lower(j.name), lower({self._add(query.name)})) > 0")
        if query.types:
            conditions.append(f"j.type IN ({self._list(query.types)})")
        covered = (
            without.requirement
            if isinstance(without, LabelDriver)
            and without.requirement.operator in (Operator.EXISTS, Operator.IN)
            else None
        )
        return conditions + [self._label(found) for found in query.selector if found is not covered]

    def _label(self, requirement: Requirement) -> str:
        """A test of one job's labels: one lookup in the index by job and key."""
        operator = requirement.operator
        inside = f"l.created_sequence = j.created_sequence AND l.key = {self._add(requirement.key)}"
        if operator in (Operator.IN, Operator.NOT_IN):
            inside += f" AND +l.value IN ({self._list(requirement.values)})"
        elif operator in (Operator.GREATER, Operator.LESS):
            bound = parse_int64(requirement.values[0])
            if bound is None:
                return "false"
            compare = f"CAST(l.value AS INTEGER) {operator} {self._add(bound)}"
            inside += f" AND CASE WHEN {_IS_INT64} THEN {compare} ELSE false END"
        negation = "" if operator.needs_key else "NOT "
        return f"{negation}EXISTS (SELECT 1 FROM labels AS l WHERE {inside})"

    def _add(self, value: Any) -> str:
        self._parameters.append(value)
        return f"?{len(self._parameters)}"

    def _list(self, values: Sequence[str]) -> str:
        return ", ".join(self._add(str(value)) for value in dict.fromkeys(values))


def _other(order: Order) -> Order:
    return Order.CREATED if order == Order.MODIFIED else Order.MODIFIED


def _direction(query: ListQuery) -> str:
    return "DESC" if query.descending else "ASC"
