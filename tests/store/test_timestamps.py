"""RFC 3339 timestamps keep every nanosecond in both directions, and text that is not a time is rejected."""

import pytest
from hypothesis import given, strategies as st

from jobledger.store.timestamps import (
    NANOSECONDS_PER_SECOND,
    coarser_unit,
    format_rfc3339,
    parse_rfc3339,
)

_SAMPLE_NS = 1_767_323_045_123_456_789


@given(st.integers(min_value=-62_135_596_800, max_value=253_402_300_799), st.integers(0, 999_999_999))
def test_a_formatted_time_parses_to_the_same_nanosecond(seconds: int, rest: int) -> None:
    """Years 1 to 9999, nine decimals."""
    time_ns = seconds * NANOSECONDS_PER_SECOND + rest
    assert parse_rfc3339(format_rfc3339(time_ns)) == time_ns


@pytest.mark.parametrize(
    ("digits", "text"),
    [
        (9, "2026-01-02T03:04:05.123456789Z"),
        (3, "2026-01-02T03:04:05.123Z"),
        (0, "2026-01-02T03:04:05Z"),
    ],
)
def test_further_digits_are_cut_off(digits: int, text: str) -> None:
    """Cut off, not rounded: a time never moves into the future."""
    assert format_rfc3339(_SAMPLE_NS, digits=digits) == text


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05.123456789Z",
        "2026-01-02t03:04:05.123456789z",
        "2026-01-02T05:04:05.123456789+02:00",
        "2026-01-02T05:04:05.123456789 02:00",
        "2026-01-02 03:04:05.123456789Z",
        "20260102T030405.123456789Z",
        "2026-01-02T03:04:05.1234567891234Z",
    ],
)
def test_every_form_of_a_time_with_a_zone_is_read(text: str) -> None:
    """Lower case, another zone, a `+` decoded as a space, a space for the `T`, digits beyond the ninth."""
    assert parse_rfc3339(text) == _SAMPLE_NS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-02T03:04:05",
        "2026-13-02T03:04:05Z",
        "2026-01-02T03:04:05+99:00",
        "2026-01-02T25:00Z",
    ],
)
def test_text_that_is_not_a_time_is_none(text: str) -> None:
    """Also a time without a zone, unless local time is accepted."""
    assert parse_rfc3339(text) is None


def test_a_time_without_a_zone_can_be_local() -> None:
    """What a person types at the command line."""
    assert parse_rfc3339("2026-01-02T03:04:05", local=True) is not None
    assert parse_rfc3339("9999-12-31T23:59:59-14:00") is not None
    assert parse_rfc3339("0001-01-01T00:00:00+14:00") is not None


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (_SAMPLE_NS, ""),
        (_SAMPLE_NS // 1_000, "microseconds"),
        (_SAMPLE_NS // 1_000_000, "milliseconds"),
        (-_SAMPLE_NS // NANOSECONDS_PER_SECOND, "seconds"),
        (2026, ""),
    ],
)
def test_the_unit_of_a_number_is_recognized(number: int, unit: str) -> None:
    """By its magnitude."""
    assert coarser_unit(number) == unit
