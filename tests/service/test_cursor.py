"""One text for a position in the stream, wherever it is shown or taken."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobledger.service.cursor import format_cursor, parse_cursor, stream_tag
from jobledger.service.errors import CursorGone
from jobledger.store.model.errors import InvalidInput

MARK = stream_tag("2026-01-01T00:00:00Z")


@given(st.integers(min_value=0, max_value=2**63 - 1))
@example(2**63 - 1)
def test_a_cursor_and_a_bare_sequence_name_the_same_place(sequence: int) -> None:
    """Receipts tell sequences, feeds tell cursors; both are taken."""
    assert parse_cursor(format_cursor(MARK, sequence), MARK) == sequence
    assert parse_cursor(str(sequence), MARK) == sequence


def test_a_cursor_of_another_stream_is_gone() -> None:
    """Its sequence would mean another event."""
    other = format_cursor(stream_tag("2026-01-02T00:00:00Z"), 5)
    with pytest.raises(CursorGone, match="belongs to another stream"):
        parse_cursor(other, MARK)


@pytest.mark.parametrize("text", ["", "x", "-1", "5-", f"{MARK}-", f"{MARK}-x", str(2**63), "٣", " 5", "5\n"])
def test_what_is_no_position_is_refused_by_name(text: str) -> None:
    """With the field's name and what to pass."""
    with pytest.raises(InvalidInput, match="wait_for"):
        parse_cursor(text, MARK, field="wait_for")
