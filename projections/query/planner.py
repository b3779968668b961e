"""The SQL that answers a list from an index, and the choice of that index. Pure: it builds text.

A page is found in one of two ways, and a small planner decides between them:

- **walk**: go along the index of the list's order, test each job, stop when the page is full. Right when
  matches are common: the work is limit / (share of jobs that match), whatever the size of the view.
- **drive**: collect what the rarest condition finds in its own index, test those, sort them. Right when they
  are few.

Nothing tells beforehand how common a label is, so it is counted, but only up to `RARE_MAX_ROWS`. SQLite's own
planner has no say in this: it guesses without statistics, and with them plans, and so response times, would
differ between replicas. A unary `+` before a column keeps SQLite from using an index on it.

What no index helps with: several conditions that are common each and rare together. Then the walk is long.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.projections.limits import RARE_MAX_ROWS, SHORT_WALK_ROWS, WALK_MAX_ARMS
from jobledger.projections.query.query import ListQuery, Order, Position
from jobledger.projections.query.selectors import Operator, Requirement, parse_int64
from jobledger.projections.rows import STATUS_COLUMNS

_TIME_COLUMNS: Final = {Order.CREATED: "create_time", Order.MODIFIED: "modify_time"}
_COLUMNS: Final = ", ".join(f"j.{column}" for column in STATUS_COLUMNS)

# A label's value as an integer, for `>` and `<`: the same texts as `parse_int64` takes. The cast alone would
# read `12abc` as 12 and take a number beyond 64 bits for the largest; and SQLite's text functions end at a
# NUL, which a value may hold.
_UNSIGNED: Final = "substr(l.value, 1 + (l.value GLOB '[+-]*'))"
_DIGITS: Final = f"ltrim({_UNSIGNED}, '0')"
_IS_INT64: Final = (
    f"l.value GLOB '*[0-9]' AND {_UNSIGNED} NOT GLOB '*[^0-9]*' AND instr(l.value, char(0)) = 0"
    f" AND (length({_DIGITS}) < 19 OR (length({_DIGITS}) = 19 AND {_DIGITS} <="
    " CASE WHEN l.value GLOB '-*' THEN '9223372036854775808' ELSE '9223372036854775807' END))"
)


class Statement(NamedTuple):
    """SQL and what goes into its `?1`, `?2`, …."""

    sql: str
    parameters: tuple[Any, ...]


class LabelDriver(msgspec.Struct, frozen=True):
    """Collect what one requirement finds in the index of labels."""

    requirement: Requirement


class ScopeDriver(msgspec.Struct, frozen=True):
    """Collect a namespace's jobs in some states. In the order `created`, that is what a walk does anyway."""


class QuarantineDriver(msgspec.Struct, frozen=True):
    """Collect the jobs that are in quarantine; they have an index of their own."""


class RangeDriver(msgspec.Struct, frozen=True):
    """Collect the jobs of a time range on the axis that the list is not sorted by."""

    axis: Order


Driver = LabelDriver | ScopeDriver | RangeDriver | QuarantineDriver


def drivers_of(query: ListQuery) -> tuple[Driver, ...]:
    """The conditions that are worth counting; none if the index of the order serves all there is."""
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
    """One row: the largest key of all jobs, then how many rows each driver finds, counted up to the limit."""
    builder = _Builder(query)
    counts = ["(SELECT max(created_sequence) FROM jobs)"]
    for driver in drivers:
        source, conditions = builder.source(driver)
        where, most = " AND ".join(conditions), RARE_MAX_ROWS
        if isinstance(driver, ScopeDriver) and query.order == Order.CREATED:
            # The walk goes along this index anyway: what matters is whether it is too short to beat.
            most = SHORT_WALK_ROWS
        counts.append(f"(SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {where} LIMIT {most}))")
    return builder.statement(f"SELECT {', '.join(counts)}")


def choose_driver(
    query: ListQuery, drivers: Sequence[Driver], counted: Sequence[int | None]
) -> Driver | None:
    """The driver that is cheaper than walking, if one is.

    Driving costs as many rows as the driver finds. Walking costs about limit * jobs / found, so the two meet
    where found is the square root of limit * jobs. The largest key stands for the number of jobs: it is never
    smaller.

    Args:
        query: the list.
        drivers: what was counted.
        counted: the row that `count_statement` gave.
    """
    largest, *counts = counted
    if largest is None or not drivers:
        return None
    is_walked = query.order == Order.CREATED and isinstance(drivers[-1], ScopeDriver)
    if is_walked and (counts.pop() or 0) < SHORT_WALK_ROWS:
        return None  # a walk along the scope's own index, already in order
    found, index = min((count or 0, index) for index, count in enumerate(counts))
    if found > min(RARE_MAX_ROWS - 1, isqrt((query.limit + 1) * largest)):
        return None
    return drivers[index]


def page_statement(query: ListQuery, driver: Driver | None) -> Statement:
    """The page and one job more, which tells that there is another page.

    Rows hold the checkpoint's sequence, `STATUS_COLUMNS` and the spec; a page without jobs is one row with
    NULLs behind the sequence. That all of it is one statement makes it one snapshot. What is tested and
    sorted are keys; rows and specs are joined last, to the page only.
    """
    builder = _Builder(query)
    keys = builder.walk() if driver is None else builder.drive(driver)
    way = _way(query)
    return builder.statement(
        f"SELECT c.sequence, {_COLUMNS}, s.spec FROM checkpoint AS c LEFT JOIN ({keys}) AS k ON true"
        " LEFT JOIN jobs AS j ON j.created_sequence = k.created_sequence"
        " LEFT JOIN specs AS s ON s.sequence = j.spec_sequence"
        f" ORDER BY k.time {way}, k.created_sequence {way}"
    )


class _Builder:
    """SQL for one query; parameters are numbered, so that the arms of a union share them."""

    def __init__(self, query: ListQuery) -> None:
        self._query = query
        self._parameters: list[Any] = []
        self._time = _TIME_COLUMNS[query.order]

    def statement(self, sql: str) -> Statement:
        return Statement(sql, tuple(self._parameters))

    def walk(self) -> str:
        """Along the index of the order; each namespace and state has an arm, and SQLite merges them."""
        query = self._query
        states, namespaces = query.asked_states(), query.asked_namespaces()
        if query.order == Order.MODIFIED:
            conditions = [*self._scope("+"), *self._own_bounds(""), *self._filters()]
            return self._ordered("jobs AS j", [conditions], f"j.{self._time}")
        by_state = [[f"j.state = {self._add(state)}"] for state in states] or [[]]
        if namespaces and len(namespaces) * len(by_state) <= WALK_MAX_ARMS:
            by_namespace = [[f"j.namespace = {self._add(namespace)}"] for namespace in namespaces]
        else:
            by_namespace = [self._namespace("+")]
        shared = [*self._own_bounds(""), *self._filters()]
        arms = [[*state, *namespace, *shared] for namespace in by_namespace for state in by_state]
        return self._ordered("jobs AS j", arms, f"j.{self._time}")

    def drive(self, driver: Driver) -> str:
        """By what the driver finds, tested and sorted."""
        source, conditions = self.source(driver)
        if isinstance(driver, LabelDriver):
            # CROSS JOIN: SQLite keeps this order of the two. A job has a key once, so no job comes twice.
            source += " CROSS JOIN jobs AS j ON j.created_sequence = d.created_sequence"
        if not isinstance(driver, ScopeDriver):
            conditions += self._scope("+")
        conditions += self._own_bounds("+") + self._filters(without=driver)
        return self._ordered(source, [conditions], f"+j.{self._time}")

    def source(self, driver: Driver) -> tuple[str, list[str]]:
        """The table that a driver reads, and the conditions that its index serves."""
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
        way, limit = _way(self._query), self._add(self._query.limit + 1)
        return f"{' UNION ALL '.join(selects)} ORDER BY 1 {way}, 2 {way} LIMIT {limit}"

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
        """The list's own time range, and the cursor; one bound a side, or SQLite could seek by the other."""
        query = self._query
        lower, upper = query.bounds(query.order)
        after = query.after()
        columns = f"({plus}j.{self._time}, {plus}j.created_sequence)"
        if after is None:
            cursor = []
        elif query.descending and (upper is None or after.time < upper):
            upper, cursor = None, [f"{columns} < {self._place(after)}"]
        elif not query.descending and (lower is None or after.time >= lower):
            lower, cursor = None, [f"{columns} > {self._place(after)}"]
        else:
            cursor = []  # it stands outside the range, before all of it
        return [*cursor, *self._range(query.order, plus, lower, upper)]

    def _place(self, position: Position) -> str:
        return f"({self._add(position.time)}, {self._add(position.created_sequence)})"

    def _range(self, axis: Order, plus: str, lower: int | None, upper: int | None) -> list[str]:
        column = f"{plus}j.{_TIME_COLUMNS[axis]}"
        conditions = [] if lower is None else [f"{column} >= {self._add(lower)}"]
        return conditions if upper is None else [*conditions, f"{column} < {self._add(upper)}"]

    def _filters(self, without: Driver | None = None) -> list[str]:
        """Types, labels, the other time range: tested job by job, unless the driver has settled them."""
        query = self._query
        other = _other(query.order)
        conditions = [] if isinstance(without, RangeDriver) else self._range(other, "+", *query.bounds(other))
        if query.quarantined is not None:
            conditions.append(f"+j.quarantine {'!=' if query.quarantined else '='} ''")
        if query.types:
            conditions.append(f"j.type IN ({self._list(query.types)})")
        settled = (
            without.requirement
            if isinstance(without, LabelDriver)
            and without.requirement.operator in (Operator.EXISTS, Operator.IN)
            else None
        )
        return conditions + [self._label(found) for found in query.selector if found is not settled]

    def _label(self, requirement: Requirement) -> str:
        """A test of one job's labels: a search of the index by job and key, whatever the number of values."""
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


def _way(query: ListQuery) -> str:
    return "DESC" if query.descending else "ASC"
