"""Specs with the same meaning have one normal form; values of the user are not changed."""

from typing import Any

import pytest
from msgspec import UNSET, UnsetType

from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.spec import (
    InputSource,
    JobSpec,
    Network,
    Resources,
    ResultPath,
    SpecConfig,
    Task,
    Timeouts,
    decode_spec,
    encode_spec,
)

TASK = Task(name="main", engine=SpecConfig(type="noop"))


def normal_task(**fields: Any) -> Task:
    return normalize(JobSpec(type="batch", tasks=(Task(name="main", **fields),))).tasks[0]


@pytest.mark.parametrize(
    ("job_type", "count", "after"),
    [
        ("batch", UNSET, 1),
        ("service", UNSET, 1),
        ("batch", 0, 0),
        ("service", 7, 7),
        ("daemon", UNSET, 0),
        ("ops", UNSET, 0),
        ("daemon", 0, 0),
        ("ops", 1, 0),
    ],
)
def test_a_missing_count_is_not_zero(job_type: str, count: int | UnsetType, after: int) -> None:
    """A missing Count is 1 for batch and service, an explicit 0 stays 0; daemon and ops jobs have 0."""
    assert normalize(JobSpec(type=job_type, count=count)).count == after


@pytest.mark.parametrize(("job_type", "count"), [("daemon", 3), ("ops", -1), ("batch", -5)])
def test_a_count_that_is_refused_is_not_hidden(job_type: str, count: int | UnsetType) -> None:
    """A Count that validation refuses is refused after normalization too."""
    assert normalize(JobSpec(type=job_type, count=count)).count == count


def test_an_empty_namespace_is_the_default_and_an_empty_name_stays() -> None:
    """The namespace has a default; the ledger sets the name."""
    spec = normalize(JobSpec(type="batch"))
    assert (spec.namespace, spec.name) == ("default", "")


def test_white_space_around_words_is_removed() -> None:
    """In types of engine and publisher, aliases, targets, result names and paths, and domains."""
    task = normal_task(
        engine=SpecConfig(type=" Docker "),
        publisher=SpecConfig(type="\ts3"),
        input_sources=(InputSource(source=SpecConfig(type="s3"), alias=" a ", target=" /a\n"),),
        result_paths=(ResultPath(name=" r ", path=" /r "),),
        network=Network(type="HTTP", domains=(" Example.COM ",)),
    )
    assert task.engine.type == "Docker"
    assert task.publisher.type == "s3"
    assert (task.input_sources[0].alias, task.input_sources[0].target) == ("a", "/a")
    assert (task.result_paths[0].name, task.result_paths[0].path) == ("r", "/r")
    assert task.network.domains == ("example.com",)


def test_resources_are_compact_and_lower_case() -> None:
    """Resources lose spaces and upper case, except a CPU unit whose meaning depends on its case."""
    task = normal_task(resources=Resources(cpu="1 Ki", memory="1.5 GB", disk="1\nGi", gpu=" 1 "))
    assert task.resources == Resources(cpu="1ki", memory="1.5gb", disk="1gi", gpu="1")
    assert normal_task(resources=Resources(cpu="500M")).resources.cpu == "500M"


def test_values_of_the_user_are_not_changed() -> None:
    """Params, Env, Meta and Labels stay the same."""
    own = {" Key ": " Value "}
    spec = JobSpec(
        type="batch",
        meta=own,
        labels=own,
        tasks=(Task(name=" n ", env=own, meta=own, engine=SpecConfig(type="x", params={" K ": [" V "]})),),
    )
    done = normalize(spec)
    assert (done.meta, done.labels, done.tasks[0].env, done.tasks[0].meta) == (own, own, own, own)
    assert done.tasks[0].engine.params == {" K ": [" V "]}


def test_normalizing_twice_changes_nothing() -> None:
    """Normalization is idempotent, to the byte."""
    spec = JobSpec(type="ops", count=1, tasks=(Task(resources=Resources(cpu=" 1 ", memory="1 GB")),))
    once = normalize(spec)
    assert encode_spec(normalize(once)) == encode_spec(once)


def test_empty_parts_and_missing_parts_are_the_same_bytes() -> None:
    """A spec with empty objects and one without them have the same normal form."""
    empty = Task(name="main", resources=Resources(cpu="  "), network=Network(), timeouts=Timeouts(), env={})
    written = encode_spec(normalize(JobSpec(type="batch", tasks=(empty,))))
    assert written == encode_spec(normalize(JobSpec(type="batch", tasks=(Task(name="main"),))))
    assert b"Resources" not in written
    assert b"Network" not in written
    assert b"Timeouts" not in written


def test_identity_type_and_count_are_always_written() -> None:
    """The JSON always has Name, Namespace, Type and Count, and a task's Name, Engine and Publisher."""
    assert encode_spec(normalize(JobSpec(type="batch", tasks=(TASK,)))) == (
        b'{"Name":"","Namespace":"default","Type":"batch","Count":1,'
        b'"Tasks":[{"Name":"main","Engine":{"Type":"noop"},"Publisher":{"Type":""}}]}'
    )


def test_a_missing_count_survives_the_wire() -> None:
    """Before normalization, a missing Count differs from 0."""
    assert decode_spec(encode_spec(JobSpec(type="batch"))).count is UNSET
    assert decode_spec(encode_spec(JobSpec(type="batch", count=0))).count == 0


def test_equal_maps_are_equal_bytes_in_any_order() -> None:
    """The order of keys does not make another version."""
    one = JobSpec(
        labels={"a": "1", "b": "2"}, tasks=(Task(engine=SpecConfig(params={"x": 1, "y": {"b": 1, "a": 2}})),)
    )
    two = JobSpec(
        labels={"b": "2", "a": "1"}, tasks=(Task(engine=SpecConfig(params={"y": {"a": 2, "b": 1}, "x": 1})),)
    )
    assert encode_spec(one) == encode_spec(two)


def test_one_as_integer_float_and_boolean_are_three_settings() -> None:
    """In Params 1, 1.0 and true are different bytes, although Python compares them as equal."""
    specs = [JobSpec(tasks=(Task(engine=SpecConfig(params={"x": value})),)) for value in (1, 1.0, True)]
    assert len({encode_spec(spec) for spec in specs}) == 3
    assert [type(decode_spec(encode_spec(spec)).tasks[0].engine.params["x"]) for spec in specs] == [
        int,
        float,
        bool,
    ]
