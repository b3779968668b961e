"""Query parameters and headers are read forgivingly, and what can't be understood is refused by name."""

import pytest
from hypothesis import given, strategies as st

from jobledger.service.api.query import Query, parse_revision, parse_time
from jobledger.service.limits import QUERY_MAX_PARAMETERS
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType
from jobledger.store.timestamps import coarser_unit, format_rfc3339


def test_an_empty_value_is_an_absent_one() -> None:
    """Bacalhau's SDK sends every parameter it knows (BACALHAU part 6.4)."""
    query = Query(b"limit=5&next_token=&reverse=False&order_by=created_at&labels=")
    assert query.text("next_token") == ""
    assert query.selector() == ()
    assert query.integer("limit", 50) == 5
    assert query.flag("reverse") is False


@pytest.mark.parametrize(
    ("text", "value"), [("True", True), ("true", True), ("1", True), ("False", False), ("0", False)]
)
def test_booleans_are_read_as_python_and_go_write_them(text: str, value: bool) -> None:
    """`False` from Python, `false` from Go."""
    assert Query(f"reverse={text}".encode()).flag("reverse") is value


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5.0), ("5s", 5.0), ("500ms", 0.5), ("1m", 60.0), ("0.5h", 1800.0), ("", 7.0)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert Query(f"timeout={text}".encode()).seconds("timeout", 7.0, most=3600) == seconds


@pytest.mark.parametrize("value", ["5x", "-1", "1e3", "61", "nan"])
def test_a_duration_that_cannot_be_understood_is_refused_by_name(value: str) -> None:
    """The error names the field and its value."""
    with pytest.raises(InvalidInput, match=f"timeout must be a duration .* got '{value}'"):
        Query(f"timeout={value}".encode()).seconds("timeout", 1, most=60)


@pytest.mark.parametrize("value", ["1.5", "-1", "x", str(2**63), "9" * 5000])
def test_a_number_that_cannot_be_understood_is_refused_by_name(value: str) -> None:
    """Also one with more digits than Python would read."""
    with pytest.raises(InvalidInput, match=f"limit must be an integer .* got '{value[:20]}"):
        Query(f"limit={value}".encode()).integer("limit", 1)


def test_a_boolean_that_cannot_be_understood_is_refused_by_name() -> None:
    """Only words for true and false are taken."""
    with pytest.raises(InvalidInput, match="reverse must be true or false, got '2'"):
        Query(b"reverse=2").flag("reverse")


def test_states_are_read_in_any_case_repeated_or_with_commas() -> None:
    """As a person types them."""
    assert Query(b"state=running,Failed&state=STOPPED").states() == (
        StateType.RUNNING,
        StateType.FAILED,
        StateType.STOPPED,
    )
    with pytest.raises(InvalidInput, match=r"state must be one of .* got 'Undefined'"):
        Query(b"state=Undefined").states()


def test_the_number_of_parameters_is_bounded() -> None:
    """At the limit it is read, one more is refused."""
    assert Query(b"&".join([b"a=1"] * QUERY_MAX_PARAMETERS)).text("a") == "1"
    with pytest.raises(InvalidInput, match=f"more than {QUERY_MAX_PARAMETERS}"):
        Query(b"&".join([b"a=1"] * (QUERY_MAX_PARAMETERS + 1)))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_query_or_are_refused(raw: bytes) -> None:
    """Never another exception: that would be a 500."""
    try:
        query = Query(raw)
        query.states()
        query.integer("a", 1)
        query.seconds("a", 1, most=9)
        query.time("a")
    except InvalidInput:
        pass


@given(st.integers(min_value=0, max_value=4_102_444_800_000_000_000))
def test_a_time_reads_back_as_it_was_written(nanoseconds: int) -> None:
    """RFC 3339 with nine digits keeps every nanosecond; bare nanoseconds are taken, too."""
    assert parse_time(format_rfc3339(nanoseconds), "t") == nanoseconds
    assert parse_time(format_rfc3339(nanoseconds).lower(), "t") == nanoseconds
    if not coarser_unit(nanoseconds):
        assert parse_time(str(nanoseconds), "t") == nanoseconds


@pytest.mark.parametrize("seconds", [100_000_000, 1_769_860_800, 9_999_999_999])
@pytest.mark.parametrize(
    ("unit", "factor"), [("seconds", 1), ("milliseconds", 1_000), ("microseconds", 1_000_000)]
)
def test_a_number_in_another_unit_is_refused_with_a_hint(seconds: int, unit: str, factor: int) -> None:
    """Read as nanoseconds, it would silently be a moment of 1970."""
    for number in (seconds * factor, -seconds * factor):
        with pytest.raises(InvalidInput, match=f"must be Unix nanoseconds .* looks like {unit}"):
            parse_time(str(number), "created_from")
    assert parse_time(str(seconds * 1_000_000_000), "t") == seconds * 1_000_000_000


def test_times_with_offsets_and_without_fractions() -> None:
    """One moment, however it is written; a `+` that a client forgot to encode arrives as a space."""
    second = 1_000_000_000
    assert parse_time("1970-01-01T00:00:01Z", "t") == second
    assert parse_time("1970-01-01T02:00:01+02:00", "t") == second
    assert parse_time("1970-01-01T02:00:01.5 02:00", "t") == second + second // 2
    assert parse_time("1970-01-01t00:00:01z", "t") == second
    for wrong in ("1970-01-01T00:00:01", "yesterday", "1970-13-01T00:00:00Z", "12:00"):
        with pytest.raises(InvalidInput, match="RFC 3339"):
            parse_time(wrong, "t")


@pytest.mark.parametrize(("tag", "revision"), [('"3"', 3), ("3", 3), (' "12" ', 12), ("*", None)])
def test_an_entity_tag_names_a_revision(tag: str, revision: int | None) -> None:
    """Strong tags, with or without their quotes; `*` is any."""
    assert parse_revision(tag) == revision


@pytest.mark.parametrize("tag", ['W/"3"', '"3", "4"', '"x"', "-1", '"', ""])
def test_a_tag_that_is_not_ours_is_refused(tag: str) -> None:
    """A weak tag can't hold a write to anything (RFC 9110, 13.1.1)."""
    with pytest.raises(InvalidInput, match="If-Match"):
        parse_revision(tag)
