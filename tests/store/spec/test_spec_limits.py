"""Every limit of a spec at its edge: the limit is accepted, and one more is refused by its name."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidSpec
from jobledger.store.model.limits import (
    DOMAIN_MAX_CHARACTERS,
    LABEL_MAX_CHARACTERS,
    LABELS_MAX_COUNT,
    NAME_MAX_CHARACTERS,
    NAMESPACE_MAX_BYTES,
    SPEC_FILE_MAX_BYTES,
    SPEC_MAX_BYTES,
    SPEC_MAX_DEPTH,
    SPEC_MAX_NODES,
    TASKS_MAX_COUNT,
)
from jobledger.store.spec.formats import Format, parse
from jobledger.store.spec.reader import read_spec
from jobledger.store.spec.spec import InputSource, JobSpec, Network, Port, SpecConfig, Task, encode_spec
from jobledger.store.spec.validate import problems_of

GOOD = JobSpec(
    name="n",
    namespace="default",
    type="batch",
    count=1,
    tasks=(Task(name="main", engine=SpecConfig(type="x")),),
)
ABOVE_PARAMS = 4  # levels around an engine's Params: job, Tasks, task, Engine
ABOVE_SOURCE_PARAMS = 6  # job, Tasks, task, InputSources, source, Source


def with_task(**fields: Any) -> JobSpec:
    return replace(GOOD, tasks=(replace(GOOD.tasks[0], **fields),))


def nested(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


def params(levels: int) -> JobSpec:
    return with_task(engine=SpecConfig(type="x", params={"p": nested(levels - 1)}))


def source_params(levels: int) -> JobSpec:
    config = SpecConfig(type="x", params={"p": nested(levels - 1)})
    return with_task(input_sources=(InputSource(source=config, target="/a"),))


def sized(size: int) -> JobSpec:
    empty = len(encode_spec(with_task(engine=SpecConfig(type="x", params={"p": ""}))))
    return with_task(engine=SpecConfig(type="x", params={"p": "x" * (size - empty)}))


def port(name: str) -> JobSpec:
    return with_task(network=Network(type="Bridge", ports=(Port(name=name),)))


LIMITS = [
    ("Name", NAME_MAX_CHARACTERS, lambda n: replace(GOOD, name="é" * n)),
    ("Namespace", NAMESPACE_MAX_BYTES, lambda n: replace(GOOD, namespace="é" * (n // 2) + "x" * (n % 2))),
    ("Labels", LABELS_MAX_COUNT, lambda n: replace(GOOD, labels={str(i): "" for i in range(n)})),
    ("Meta", LABELS_MAX_COUNT, lambda n: replace(GOOD, meta={str(i): "" for i in range(n)})),
    ("Labels.k", LABEL_MAX_CHARACTERS, lambda n: replace(GOOD, labels={"k": "x" * n})),
    ("Meta.k", LABEL_MAX_CHARACTERS, lambda n: replace(GOOD, meta={"k": "x" * n})),
    (None, LABEL_MAX_CHARACTERS, lambda n: replace(GOOD, labels={"k" * n: "x"})),
    ("Tasks", TASKS_MAX_COUNT, lambda n: replace(GOOD, tasks=GOOD.tasks * n)),
    (None, SPEC_MAX_DEPTH, lambda n: params(n - ABOVE_PARAMS)),
    (None, SPEC_MAX_DEPTH, lambda n: source_params(n - ABOVE_SOURCE_PARAMS)),
    ("", SPEC_MAX_BYTES, sized),
    (
        "Tasks[0].Network.Domains[0]",
        DOMAIN_MAX_CHARACTERS,
        lambda n: with_task(network=Network(type="HTTP", domains=("a" * (n - 4) + ".com",))),
    ),
    ("Tasks[0].Network.Ports[0].Name", 237, lambda n: port("a" * n)),
]


@pytest.mark.parametrize(("path", "limit", "build"), LIMITS)
def test_a_spec_at_the_limit_passes_and_one_above_is_refused(
    path: str | None, limit: int, build: Callable[[int], JobSpec]
) -> None:
    """The problem has the path of the value and names the limit."""
    assert problems_of(build(limit)) == []
    (problem,) = problems_of(build(limit + 1))
    assert str(limit) in problem.message
    assert path is None or problem.path == path


def test_a_text_at_the_limit_is_parsed_and_one_byte_more_is_refused() -> None:
    """SPEC_FILE_MAX_BYTES limits the text, in bytes of UTF-8, before it is parsed."""
    text = "a: " + "é" * ((SPEC_FILE_MAX_BYTES - 4) // 2) + "x"
    assert len(text.encode()) == SPEC_FILE_MAX_BYTES
    assert parse(text)
    with pytest.raises(InvalidSpec, match=str(SPEC_FILE_MAX_BYTES)):
        parse(text + "x")


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_depth_is_counted_the_same_in_text_and_in_values(kind: Format) -> None:
    """SPEC_MAX_DEPTH levels are read and validated; one more is refused."""

    def text(levels: int) -> str:
        inner = levels - ABOVE_PARAMS - 1
        engine = '{"Type": "x", "Params": {"p": ' + "[" * inner + "]" * inner + "}}"
        return '{"Type": "batch", "Tasks": [{"Name": "n", "Engine": ' + engine + "}]}"

    assert (
        problems_of(
            replace(
                read_spec(parse(text(SPEC_MAX_DEPTH), format=kind), strict=True).spec, name="n", namespace="d"
            )
        )
        == []
    )
    with pytest.raises(InvalidSpec, match=f"deeper than {SPEC_MAX_DEPTH}"):
        read_spec(parse(text(SPEC_MAX_DEPTH + 1), format=kind), strict=True)


def test_a_document_of_too_many_values_is_refused() -> None:
    """SPEC_MAX_NODES values are read; one more is refused, in YAML by the first pass."""
    around = 2  # the object and its list
    assert parse("a: [" + "x," * (SPEC_MAX_NODES - around - 1) + "]")  # the key counts too
    with pytest.raises(InvalidSpec, match=str(SPEC_MAX_NODES)):
        parse("a: [" + "x," * (SPEC_MAX_NODES - around) + "]")
    with pytest.raises(InvalidSpec, match="not a field"):
        read_spec({"a": ["x"] * (SPEC_MAX_NODES - around)}, strict=True)
    with pytest.raises(InvalidSpec, match=str(SPEC_MAX_NODES)):
        read_spec({"a": ["x"] * (SPEC_MAX_NODES - around + 1)}, strict=True)
