"""A small body needs no count of its levels and parts: its bytes already prove that a spec is within both."""

import msgspec
import pytest

from jobledger.service.api.body import is_small
from jobledger.store.model.limits import SPEC_MAX_DEPTH, SPEC_MAX_NODES
from jobledger.store.spec.values import too_deep_or_many


def nested(levels: int) -> bytes:
    return (
        b'{"a":' * (levels - levels // 2)
        + b"[" * (levels // 2)
        + b"1"
        + b"]" * (levels // 2)
        + b"}" * (levels - levels // 2)
    )


@pytest.mark.parametrize(("levels", "small"), [(SPEC_MAX_DEPTH, True), (SPEC_MAX_DEPTH + 1, False)])
def test_a_small_body_is_not_too_deep(levels: int, small: bool) -> None:
    """At the limit and beyond it."""
    raw = nested(levels)
    assert is_small(raw) is small
    assert (too_deep_or_many(msgspec.json.decode(raw)) is None) is small


@pytest.mark.parametrize(("size", "small"), [(SPEC_MAX_NODES, True), (SPEC_MAX_NODES + 1, False)])
def test_a_small_body_has_not_too_many_values(size: int, small: bool) -> None:
    """A value takes at least a character, so the number of characters is the limit."""
    raw = (b"[1" + b",1" * ((size - 3) // 2) + b"]").ljust(size)
    assert len(raw) == size
    assert is_small(raw) is small
    assert too_deep_or_many(msgspec.json.decode(raw)) is None
