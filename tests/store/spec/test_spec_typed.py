"""The fast check of types and the complete one give the same specs and the same problems."""

import enum
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.spec import validate
from jobledger.store.spec.spec import (
    Constraint,
    InputSource,
    JobSpec,
    Network,
    Port,
    Resources,
    ResultPath,
    SpecConfig,
    Task,
    Timeouts,
)
from jobledger.store.spec.typed import has_exact_types


class Text(str):
    """A subclass of str."""

    __slots__ = ()


class Word(enum.StrEnum):
    """A text that JSON represents, and that is not exactly a str."""

    BATCH = "batch"


FULL = JobSpec(
    name="one",
    namespace="default",
    type="batch",
    priority=3,
    count=2,
    constraints=(Constraint(key="zone", operator="in", values=("a", "b")),),
    meta={"team": "x"},
    labels={"env": "prod"},
    tasks=(
        Task(
            name="main",
            engine=SpecConfig(type="docker", params={"Image": "busybox", "Nested": {"a": [1, None, 2.5]}}),
            publisher=SpecConfig(type=" local ", params={"Deep": [[{"b": True}]]}),
            env={"A": "b"},
            meta={"note": "y"},
            input_sources=(
                InputSource(source=SpecConfig(type="url", params={"URL": "x"}), alias=" in ", target="/in"),
            ),
            result_paths=(ResultPath(name="out", path="/out "),),
            resources=Resources(cpu="500m", memory="1 GB", disk="2Gi", gpu="1"),
            network=Network(
                type="Bridge",
                domains=("example.com",),
                ports=(Port(name="p", static=8080, target=80, host_network="127.0.0.1"),),
            ),
            timeouts=Timeouts(execution_timeout=1, queue_timeout=2, total_timeout=60),
        ),
    ),
)
WRONG: tuple[Any, ...] = (None, 1.5, b"x", object(), Text("x"), UNSET, Port)
NUMBERS = (True, -1, 0, 2**63, 2**64, 10**400, float("nan"))
TEXTS = (Word.BATCH, "", " ", "\ud800", "\0", "500 M")
LISTS: tuple[Any, ...] = ((), ("a",), [], ["a"])
MAPS: tuple[Any, ...] = ({}, {"a": "b"}, {1: "a"}, {"a": 1}, {"a": (1, 2)}, {"a": {2: 3}})
PARTS = (FULL, FULL.tasks[0], Resources(cpu=" "), Network(), Timeouts(), SpecConfig(type="x"))
ODD = st.sampled_from([*WRONG, *NUMBERS, *TEXTS, *LISTS, *MAPS, *PARTS])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a spec."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, msgspec.Struct):
        items = [(each.name, getattr(value, each.name)) for each in msgspec.structs.fields(value)]
    elif isinstance(value, dict | tuple | list):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
    return [way for key, item in items for way in ((*path, key), *places(item, (*path, key)))]


def with_value(whole: Any, path: tuple[Any, ...], value: object) -> Any:
    """Return a spec with another value at a path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(whole, msgspec.Struct):
        return replace(whole, **{key: with_value(getattr(whole, key), tuple(rest), value)})
    if isinstance(whole, dict):
        return {**whole, key: with_value(whole[key], tuple(rest), value)}
    items = [with_value(item, tuple(rest), value) if i == key else item for i, item in enumerate(whole)]
    return type(whole)(items)


def outcome(spec: JobSpec) -> bytes | tuple[Problem, ...] | str:
    """Return the normal form of a spec, or its problems."""
    try:
        return validate.encode_valid(spec)
    except InvalidSpec as error:
        return error.problems


def in_params(path: tuple[Any, ...]) -> bool:
    """Return whether a place belongs to the user."""
    return "params" in path[:-1]


def test_a_spec_with_the_declared_types_takes_the_fast_way() -> None:
    """Every part and every field is set."""
    assert has_exact_types(FULL)
    assert has_exact_types(JobSpec(tasks=(Task(),)))


@pytest.mark.parametrize("namespace", [None, UNSET, 0, ()])
def test_a_namespace_that_is_no_text_is_a_problem(namespace: Any) -> None:
    """It must not count as an empty one, which means the default namespace."""
    assert [each.path for each in validate.problems_of(replace(FULL, namespace=namespace))] == ["Namespace"]


@pytest.mark.parametrize("field", ["meta", "labels"])
def test_a_key_that_is_no_text_is_a_problem(field: str) -> None:
    """The rules for keys must not raise."""
    assert [each.path for each in validate.problems_of(replace(FULL, **{field: {1: "a"}}))] == [
        field.capitalize()
    ]


@pytest.mark.parametrize("path", [path for path in places(FULL) if not in_params(path)], ids=str)
def test_no_field_is_left_out_of_the_fast_check(path: tuple[Any, ...]) -> None:
    """A value of another type, or of a subclass, at any position takes the complete way."""
    for value in WRONG:
        assert has_exact_types(with_value(FULL, path, value)) is (value is UNSET and path == ("count",))


@pytest.mark.parametrize("path", [path for path in places(FULL) if in_params(path)], ids=str)
def test_params_that_json_changes_take_the_complete_way(path: tuple[Any, ...]) -> None:
    """Values that are not plain JSON, and keys that are not strings."""
    for value in (b"x", float("nan"), 2**64, Text("x"), {1: 2}, {"a": object()}):
        assert not has_exact_types(with_value(FULL, path, value))


@given(changes=st.lists(st.tuples(st.sampled_from(places(FULL)), ODD), max_size=3))
def test_both_ways_give_the_same(changes: list[tuple[tuple[Any, ...], object]]) -> None:
    """For any values at any positions: the same normal form, or the same problems in the same order."""
    spec: Any = FULL
    for path, value in changes:
        try:
            spec = with_value(spec, path, value)
        except (AttributeError, KeyError, TypeError, ValueError):  # an earlier change removed this place
            continue
    quick = outcome(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "has_exact_types", lambda _: False)
        assert outcome(spec) == quick
