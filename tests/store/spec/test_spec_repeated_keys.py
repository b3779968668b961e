"""A key that JSON text has twice is found, and the quick check never misses one."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, strategies as st

from jobledger.store.spec import formats
from jobledger.store.spec.formats import repeated_key

# Colons in keys and strings, plain and escaped: the quick check counts colons.
_TEXTS = st.sampled_from(
    ('"a"', '"A"', '"a:"', '"\\u003a"', '"\\u003A"', '"\\\\u003a"', '"\\n\\":\\/"', '"é"', '""')
)
_SCALARS = _TEXTS | st.sampled_from(("1", "-0.5e3", "null", "true", str(2**70), "1e400"))
_SPACES = st.sampled_from(("", " ", "\n\t"))


@st.composite
def _objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = [
        f"{draw(_TEXTS)}{draw(_SPACES)}:{draw(_SPACES)}{draw(values)}" for _ in range(draw(st.integers(0, 3)))
    ]
    return "{" + f",{draw(_SPACES)}".join(members) + "}"


_VALUES = st.recursive(
    _SCALARS,
    lambda inner: _objects(inner) | st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]"),
)


@given(_VALUES)
def test_the_quick_check_accepts_no_text_with_a_repeated_key(text: str) -> None:
    """Whatever has colons, and wherever the key is."""
    try:
        decoded = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return
    has_one = has_repeated_key(text)
    quick = formats._has_all_members(text.encode(), decoded)
    event(f"repeated: {has_one}, quick: {quick}")
    assert not (has_one and quick)
    assert (repeated_key(text.encode(), decoded) is not None) == has_one


def has_repeated_key(text: str) -> bool:
    """Return whether an object has a key twice, by Python's decoder."""
    found = []

    def members(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(text, object_pairs_hook=members)
    return any(found)


@pytest.mark.parametrize(
    ("text", "is_quick"),
    [
        ('{"a": 1, "b": {"c": "x:y"}}', True),
        ('{"a":"\\u003cb\\u003e"}', True),  # as Go escapes HTML
        ('{"a":"\\u003a"}', False),
        ('{"a":1,"a":"\\u003a"}', False),  # the colon that is lost, and one that is added
    ],
)
def test_usual_text_needs_no_second_decoder(text: str, is_quick: bool) -> None:
    """Only a colon as an escape sequence does."""
    assert formats._has_all_members(text.encode(), msgspec.json.decode(text)) is is_quick
