"""Real specs: those of Bacalhau are valid; those that lose settings in Bacalhau are refused here."""

from pathlib import Path
from textwrap import dedent

import pytest
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidSpec
from jobledger.store.spec.formats import format_of
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.reader import load_spec
from jobledger.store.spec.spec import decode_spec, encode_spec
from jobledger.store.spec.validate import problems_of

SPECS = Path(__file__).parents[2] / "specs"

# file -> Type, Count after normalization, type of the engine. Only compute nodes know the valid engines.
EXPECTED = {
    "bacalhau-testdata-custom-task-type.yaml": ("batch", 1, "flibble"),
    "bacalhau-testdata-docker-hello.yaml": ("batch", 1, "docker"),
    "bacalhau-testdata-docker-output.json": ("batch", 1, "docker"),
    "bacalhau-testdata-docker-output.yaml": ("batch", 1, "docker"),
    "bacalhau-testdata-docker-s3.yaml": ("batch", 1, "docker"),
    "bacalhau-testdata-docker.yaml": ("batch", 1, "docker"),
    "bacalhau-testdata-nameless.yaml": ("batch", 1, "noop"),
    "bacalhau-testdata-noop.yaml": ("batch", 1, "noop"),
    "bacalhau-testdata-wasm.yaml": ("batch", 1, "wasm"),
    "bacalhau-testdata-wasm_legacy.yaml": ("batch", 1, "wasm"),
    "integration-19-basic-daemon-job-v1.yaml": ("daemon", 0, "docker"),
    "integration-19-basic-daemon-job-v2.yaml": ("daemon", 0, "docker"),
    "integration-19-basic-hello-world-v1.yaml": ("batch", 2, "docker"),
    "integration-19-basic-hello-world-v2.yaml": ("batch", 2, "docker"),
    "integration-20-s3managed-publisher.yaml": ("batch", 1, "docker"),
    "integration-log_emitter.yaml": ("batch", 1, "docker"),
    "integration-unsupported_engine_type.yaml": ("batch", 1, "vroomvroom"),
}


def test_the_table_names_every_file() -> None:
    """Every spec is tested, and the license is next to them."""
    assert {path.name for path in SPECS.iterdir()} == {*EXPECTED, "NOTICE.md"}


@pytest.mark.parametrize(("file", "expected"), EXPECTED.items(), ids=EXPECTED.keys())
def test_a_spec_of_the_project_is_valid(file: str, expected: tuple[str, int, str]) -> None:
    """It loads in strict mode without a warning, can be stored with a name, and survives the wire."""
    read = load_spec((SPECS / file).read_bytes(), format=format_of(file))
    spec = normalize(read.spec)
    assert read.warnings == ()
    assert (spec.type, spec.count, spec.tasks[0].engine.type) == expected
    assert problems_of(replace(spec, name=spec.name or "j-1")) == []
    assert encode_spec(decode_spec(encode_spec(spec))) == encode_spec(spec)


# The five real files whose settings Bacalhau silently ignores, shortened.
SLIPS = {
    "outputs": (
        """
        Name: a
        Type: batch
        Tasks:
          - Name: main
            Engine: {Type: docker, Params: {Image: a}}
            outputs: [{Name: out, Path: /out}]
        """,
        {"Tasks[0].outputs": "did you mean `ResultPaths`?"},
    ),
    "resources-and-engine": (
        """
        Name: a
        Type: batch
        Tasks:
          - Name: main
            Engine:
              Type: docker
              Params: {Image: a}
              Entrypoint: [sh]
              Parameters: [-c, ls]
            ResourcesConfig: {GPU: '1'}
        """,
        {
            "Tasks[0].Engine.Entrypoint": "did you mean `Params.Entrypoint`?",
            "Tasks[0].Engine.Parameters": "did you mean `Params.Parameters`?",
            "Tasks[0].ResourcesConfig": "did you mean `Resources`?",
        },
    ),
    "constraits": (
        """
        name: a
        type: ops
        constraits: [{key: region, operator: '=', values: [eu]}]
        tasks: [{name: main, engine: {type: docker, params: {Image: a}}}]
        """,
        {"constraits": "did you mean `Constraints`?"},
    ),
    "annotations on the job": (
        """
        Name: a
        Type: batch
        annotations: [x]
        Tasks: [{Name: main, Engine: {Type: noop}}]
        """,
        {"annotations": "did you mean `Labels` or `Meta`?"},
    ),
    "annotations on the task": (
        """
        Name: a
        Type: batch
        Tasks: [{Name: main, Engine: {Type: noop}, annotations: {x: y}}]
        """,
        {"Tasks[0].annotations": "did you mean `Meta`?"},
    ),
}


@pytest.mark.parametrize(("text", "expected"), SLIPS.values(), ids=SLIPS.keys())
def test_a_real_mistake_is_refused_with_a_suggestion(text: str, expected: dict[str, str]) -> None:
    """Each ignored key is a problem with the field that was meant."""
    with pytest.raises(InvalidSpec) as caught:
        load_spec(dedent(text))
    found = {each.path: each.remedy for each in caught.value.problems}
    assert found.keys() == expected.keys()
    assert all(expected[path] in remedy for path, remedy in found.items())


def test_a_real_mistake_is_dropped_with_a_warning_when_lenient() -> None:
    """The HTTP API accepts the job as Bacalhau does, and reports what it ignores."""
    for text, expected in SLIPS.values():
        assert {each.path for each in load_spec(dedent(text), strict=False).warnings} == expected.keys()
