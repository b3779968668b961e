"""A spec with exact keys and values is converted at once, with the result of reading field by field."""

import copy
from typing import Any

import pytest
from hypothesis import given, strategies as st

from jobledger.store.model.errors import InvalidSpec
from jobledger.store.spec import reader as reading_fields
from jobledger.store.spec.reader import read_spec

EXACT: dict[str, Any] = {
    "Name": "one",
    "Namespace": "default",
    "Type": "batch",
    "Priority": 3,
    "Count": 2,
    "Constraints": [{"Key": "zone", "Operator": "in", "Values": ["a", "b"]}],
    "Meta": {"team": "x"},
    "Labels": {"env": "prod"},
    "Tasks": [
        {
            "Name": "main",
            "Engine": {"Type": "docker", "Params": {"Image": "busybox", "Nested": {"a": [1, None, 2.5]}}},
            "Publisher": {"Type": "local", "Params": {}},
            "Env": {"A": "b"},
            "InputSources": [{"Source": {"Type": "url", "Params": {"URL": "x"}}, "Target": "/in"}],
            "ResultPaths": [{"Name": "out", "Path": "/out"}],
            "Resources": {"CPU": "500m", "Memory": "1gb"},
            "Network": {"Type": "HTTP", "Domains": ["example.com"], "Ports": [{"Name": "p", "Static": 80}]},
            "Timeouts": {"TotalTimeout": 60},
        }
    ],
}
ODD = st.sampled_from(
    [None, 1, -1, 1.0, 2.5, True, "", "http", "x", [], ["x"], [None], {}, {"A": 1}, {"Name": "x"}, (), 2**70]
)


def both_ways(value: Any, *, strict: bool) -> tuple[object, object]:
    """Return the results of both ways."""
    quick = outcome(copy.deepcopy(value), strict=strict)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_fields, "_exact", lambda _: None)
        return quick, outcome(value, strict=strict)


def outcome(value: Any, *, strict: bool) -> object:
    """Return the spec or its problems."""
    try:
        return read_spec(value, strict=strict)
    except InvalidSpec as error:
        return error.problems


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, item in items for way in ((*path, key), *places(item, (*path, key)))]


def test_an_exact_spec_is_converted_at_once() -> None:
    """The fast way is used."""
    spec = reading_fields._exact(EXACT)
    assert spec is not None
    assert read_spec(EXACT, strict=True).spec == spec


@given(
    place=st.sampled_from(places(EXACT)),
    odd=ODD,
    key=st.sampled_from([None, "extra", "name", "TYPE", "Params", "ID", "Domains"]),
    strict=st.booleans(),
)
def test_both_ways_give_the_same(place: tuple[Any, ...], odd: object, key: str | None, strict: bool) -> None:
    """For any value at any position: the same spec, warnings and problems."""
    value = copy.deepcopy(EXACT)
    around = value
    for each in place[:-1]:
        around = around[each]
    if key is None or not isinstance(around, dict):
        around[place[-1]] = odd
    else:
        around[key] = odd
    quick, slow = both_ways(value, strict=strict)
    assert quick == slow
