"""Cursors: positions in the stream as text."""

import pytest
from hypothesis import example, given, strategies as st

from jobledger.service.cursor import format_cursor, parse_cursor, stream_tag
from jobledger.service.errors import CursorGone
from jobledger.store.model.errors import InvalidInput

MARK = stream_tag("2026-01-01T00:00:00Z")


@given(st.integers(min_value=0, max_value=2**63 - 1))
@example(2**63 - 1)
def test_a_cursor_and_a_bare_sequence_name_the_same_place(sequence: int) -> None:
    """Receipts contain sequences, feeds cursors; both are accepted."""
    assert parse_cursor(format_cursor(MARK, sequence), MARK) == sequence
    assert parse_cursor(str(sequence), MARK) == sequence


def test_a_cursor_of_another_stream_is_gone() -> None:
    """Its sequence would be another event."""
    other = format_cursor(stream_tag("2026-01-02T00:00:00Z"), 5)
    with pytest.raises(CursorGone, match="belongs to another stream"):
        parse_cursor(other, MARK)


@pytest.mark.parametrize("text", ["", "x", "-1", "5-", f"{MARK}-", f"{MARK}-x", str(2**63), "٣", " 5", "5\n"])
def test_an_invalid_cursor_is_rejected(text: str) -> None:
    """The message has the field and the accepted forms."""
    with pytest.raises(InvalidInput, match="wait_for"):
        parse_cursor(text, MARK, field="wait_for")
