"""Lists: filters, orders, and cursors that are stable under concurrent writes."""

import base64
import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from jobledger.projections.errors import InvalidCursor
from jobledger.projections.limits import CURSOR_MAX_CHARACTERS, WALK_MAX_ARMS
from jobledger.projections.query.planner import drivers_of
from jobledger.projections.query.query import ListQuery, Order, Position, decode_cursor, encode_cursor
from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.view import View
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType
from tests.support.view_file import ViewFile

CREATED, MODIFIED = Order.CREATED, Order.MODIFIED
STATES = tuple(StateType)
TYPES = ("batch", "service", "daemon", "ops")


async def listed(view: View, **asked: Any) -> list[int]:
    """The created sequences on the first page."""
    return [job.status.created_sequence for job in (await view.list(ListQuery(**asked))).jobs]


async def walked(view: View, **asked: Any) -> list[int]:
    """The created sequences on all pages."""
    found: list[int] = []
    cursor = None
    while True:
        page = await view.list(ListQuery(cursor=cursor, **asked))
        found += [job.status.created_sequence for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return found


# --- pages --------------------------------------------------------------------------------------------------


async def test_a_page_has_the_sequence_that_it_reflects(file: ViewFile, view: View) -> None:
    """Jobs with their specs, in one snapshot with the checkpoint; also for an empty page."""
    file.checkpoint(4)
    page = await view.list()
    assert (page.jobs, page.next_cursor, page.sequence) == ((), None, 4)
    job_id = file.add(9)
    page = await view.list()
    assert ([job.status.id for job in page.jobs], page.jobs[0].spec, page.sequence) == (
        [job_id],
        b'{"v":1}',
        9,
    )


async def test_the_last_page_has_no_cursor(file: ViewFile, view: View) -> None:
    """Even if it is full."""
    for sequence in (1, 2, 3, 4):
        file.add(sequence)
    page = await view.list(ListQuery(limit=2))
    assert page.next_cursor is not None
    page = await view.list(ListQuery(limit=2, cursor=page.next_cursor))
    assert ([job.status.created_sequence for job in page.jobs], page.next_cursor) == ([3, 4], None)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", [CREATED, MODIFIED])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_pages_are_the_list_cut_in_pieces(
    file: ViewFile, view: View, order: Order, descending: bool, limit: int
) -> None:
    """Every job once, in a total order, for every limit, also among equal times."""
    times = {1: (5, 9), 2: (5, 9), 3: (5, 7), 4: (4, 9), 5: (8, 8), 6: (5, 9)}
    for sequence, (created, modified) in times.items():
        file.add(sequence, created=created, modified=modified, state=STATES[sequence % 3], labels={"k": "v"})
    axis = 0 if order is CREATED else 1
    expected = sorted(times, key=lambda sequence: (times[sequence][axis], sequence), reverse=descending)
    for asked in ({}, {"selector": parse_selector("k=v")}, {"states": STATES[:3], "namespace": "default"}):
        assert await walked(view, order=order, descending=descending, limit=limit, **asked) == expected


async def test_in_order_of_creation_no_write_loses_or_repeats_a_job(file: ViewFile, view: View) -> None:
    """Jobs that change, appear and disappear between two pages shift nothing."""
    for sequence in range(1, 7):
        file.add(sequence)
    page = await view.list(ListQuery(limit=3))
    file.touch(1, 100)
    file.touch(5, 101)
    file.add(7)
    rest = await view.list(ListQuery(limit=50, cursor=page.next_cursor))
    assert [job.status.created_sequence for job in (*page.jobs, *rest.jobs)] == [1, 2, 3, 4, 5, 6, 7]
    page = await view.list(ListQuery(limit=3, descending=True))
    file.add(8)
    rest = await view.list(ListQuery(limit=50, descending=True, cursor=page.next_cursor))
    assert [job.status.created_sequence for job in (*page.jobs, *rest.jobs)] == [7, 6, 5, 4, 3, 2, 1]


async def test_in_order_of_change_ascending_no_job_is_lost(file: ViewFile, view: View) -> None:
    """A job that changes between two pages moves to the end: returned again or later, never missed."""
    for sequence in range(1, 5):
        file.add(sequence)
    page = await view.list(ListQuery(order=MODIFIED, limit=2))
    file.touch(1, 100)
    file.touch(3, 101)
    rest = await view.list(ListQuery(order=MODIFIED, limit=50, cursor=page.next_cursor))
    assert [job.status.created_sequence for job in (*page.jobs, *rest.jobs)] == [1, 2, 4, 1, 3]


# --- filters ------------------------------------------------------------------------------------------------


def _all_filters() -> list[dict[str, Any]]:
    """Combinations of every filter, with bounds that cut through the middle."""
    singles: list[dict[str, Any]] = [
        {"namespace": "a"},
        {"namespaces": ("c", "a", "a")},
        {"namespaces": ()},
        {"namespaces": ("b", *(f"n{number}" for number in range(WALK_MAX_ARMS)))},
        {"states": (StateType.RUNNING,)},
        {"states": (StateType.FAILED, StateType.RUNNING, StateType.FAILED)},
        {"states": STATES},
        {"types": ("service", "ops")},
        {"selector": parse_selector("k in (0,1)")},
        {"selector": parse_selector("k>0,!l")},
        {"created_from": 10, "created_to": 40},
        {"created_from": 25},
        {"modified_from": 60, "modified_to": 95},
        {"modified_to": 80},
    ]
    pairs = [
        one | two
        for one, two in itertools.combinations(singles, 2)
        if not ({"namespace", "namespaces"} <= (one | two).keys())
    ]
    return [{}, *singles, *pairs]


def _meets(asked: dict[str, Any], job: dict[str, Any]) -> bool:
    query = ListQuery(**asked)
    labels = job["labels"]
    number = int(labels["k"])
    selectors = {
        (): True,
        parse_selector("k in (0,1)"): number < 2,
        parse_selector("k>0,!l"): number > 0 and "l" not in labels,
    }
    namespaces = query.asked_namespaces()
    return (
        (namespaces is None or job["namespace"] in namespaces)
        and (not query.states or job["state"] in query.states)
        and (not query.types or job["job_type"] in query.types)
        and selectors[query.selector]
        and (query.created_from or 0) <= job["created"] < (query.created_to or 10**6)
        and (query.modified_from or 0) <= job["modified"] < (query.modified_to or 10**6)
    )


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", [CREATED, MODIFIED])
async def test_filters_combine(file: ViewFile, view: View, order: Order, descending: bool) -> None:
    """Each filter and each pair, in each order, with each driver: the same as a plain loop over all jobs."""
    jobs: dict[int, dict[str, Any]] = {}
    for sequence in range(1, 49):
        jobs[sequence] = {
            "namespace": "abc"[sequence % 3],
            "state": STATES[sequence % 6],
            "job_type": TYPES[sequence // 2 % 4],
            "labels": {"k": str(sequence % 3)} | ({"l": "x"} if sequence % 5 == 0 else {}),
            "created": sequence // 2 * 2,
            "modified": 50 + sequence * 7 % 48,
        }
        file.add(sequence, **jobs[sequence])
    axis = "created" if order is CREATED else "modified"
    for asked in _all_filters():
        expected = [sequence for sequence, job in jobs.items() if _meets(asked, job)]
        expected.sort(key=lambda sequence: (jobs[sequence][axis], sequence), reverse=descending)
        query = ListQuery(order=order, descending=descending, **asked)
        for driver in (None, *drivers_of(query)):
            assert file.keys(query, driver) == expected, (asked, driver)
        assert await walked(view, order=order, descending=descending, limit=5, **asked) == expected, asked


async def test_a_cursor_outside_a_new_range_starts_at_the_range(file: ViewFile, view: View) -> None:
    """Filters may change between pages; the position does not."""
    for sequence in range(1, 7):
        file.add(sequence)
    up = encode_cursor(CREATED, Position(2, 2), descending=False)
    down = encode_cursor(CREATED, Position(5, 5), descending=True)
    assert await listed(view, cursor=up, created_from=4) == [4, 5, 6]
    assert await listed(view, cursor=up, created_to=4) == [3]
    assert await listed(view, cursor=down, created_to=4, descending=True) == [3, 2, 1]
    assert await listed(view, cursor=down, created_from=4, descending=True) == [4]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"namespace": "\ud800"}, "namespace"),
        ({"states": ("Undefined",)}, "states"),
        ({"states": ("running",)}, "states"),
        ({"types": ("cron",)}, "types"),
        ({"order": "id"}, "order"),
        ({"limit": 0}, "limit"),
        ({"created_from": 2**63}, "created_from"),
        ({"created_to": -(2**63) - 1}, "created_to"),
        ({"modified_from": 5, "modified_to": 4}, "modified_from"),
    ],
)
def test_a_wrong_field_is_named(asked: dict[str, Any], named: str) -> None:
    """The message starts with the field, and has the remedy."""
    with pytest.raises(InvalidInput, match=f"^{named}"):
        ListQuery(**asked)


async def test_times_at_the_limits_of_64_bits_are_accepted(file: ViewFile, view: View) -> None:
    """An empty range is empty."""
    file.add(1)
    assert await listed(view, created_from=-(2**63), created_to=2**63 - 1) == [1]
    assert await listed(view, modified_from=1, modified_to=1) == []


# --- cursors ------------------------------------------------------------------------------------------------


@given(st.sampled_from(Order), st.integers(-(2**63), 2**63 - 1), st.integers(1, 2**63 - 1), st.booleans())
def test_a_cursor_round_trips(order: Order, time: int, sequence: int, descending: bool) -> None:
    """It needs no escaping in a URL, and is far below the limit."""
    text = encode_cursor(order, Position(time, sequence), descending=descending)
    assert decode_cursor(text, order, descending=descending) == Position(time, sequence)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert len(text) <= CURSOR_MAX_CHARACTERS // 2


def test_a_cursor_of_another_order_is_refused() -> None:
    """By order, and by direction; the message names both."""
    text = encode_cursor(CREATED, Position(1, 1), descending=False)
    for order, descending in ((MODIFIED, False), (CREATED, True)):
        with pytest.raises(InvalidCursor, match="created ascending"):
            ListQuery(order=order, descending=descending, cursor=text)


def _packed(**changes: Any) -> str:
    inside = {"v": 1, "order": "created", "descending": False, "last": 1, "created_sequence": 1} | changes
    return base64.urlsafe_b64encode(json.dumps(inside).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "not a cursor",
        "ü",
        "\ud800",
        "\0",
        "e30",
        "bnVsbA",
        _packed(v=2),
        _packed(order="id"),
        _packed(last="1"),
        _packed(last=1.5),
        _packed(last=2**63),
        _packed(created_sequence=0),
        _packed(created_sequence=True),
        _packed(more=1),
        _packed() + "A" * CURSOR_MAX_CHARACTERS,
        base64.urlsafe_b64encode(b"[" * 600).decode(),
    ],
)
def test_an_invalid_cursor_is_refused(text: str) -> None:
    """Garbage, wrong types, numbers beyond 64 bits and huge texts are all InvalidCursor."""
    assert decode_cursor(_packed(), CREATED, descending=False) == Position(1, 1)
    with pytest.raises(InvalidCursor, match="pass the cursor of the previous page"):
        ListQuery(cursor=text)


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_text_breaks_the_decoder(text: str) -> None:
    """The result is a position or an InvalidCursor."""
    with contextlib.suppress(InvalidCursor):
        assert decode_cursor(text, CREATED, descending=False).created_sequence > 0


def test_a_cursor_has_a_length_limit() -> None:
    """At the limit a text is decoded, above it is not."""
    for length, message in (
        (CURSOR_MAX_CHARACTERS, "invalid cursor"),
        (CURSOR_MAX_CHARACTERS + 1, "must have at most 1024 characters, got 1025"),
    ):
        with pytest.raises(InvalidCursor, match=message):
            decode_cursor("A" * length, CREATED, descending=False)
