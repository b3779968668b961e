"""Any input gives a spec or InvalidSpec, and a spec survives every step."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidSpec
from jobledger.store.spec.formats import Format, parse
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.reader import load_spec, read_spec
from jobledger.store.spec.spec import (
    NETWORK_TYPES,
    OPERATORS,
    JobSpec,
    decode_spec,
    encode_spec,
)
from jobledger.store.spec.validate import problems_of, submission_problems

SPECS = [
    path for path in sorted((Path(__file__).parents[2] / "specs").iterdir()) if path.stat().st_size < 10_000
]
TEXTS = [path.read_bytes() for path in SPECS if path.suffix != ".md"]
VALUES = [parse(text) for text in TEXTS]

# Surrogates, NUL and non-characters too: JSON can spell them all.
words = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["main", "docker", "batch", "1", "500m", "/a", "A"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.just(10**4000)
keys = words | st.sampled_from(
    [
        "Name",
        "name",
        "Type",
        "Tasks",
        "tasks",
        "Engine",
        "Params",
        "Env",
        "Meta",
        "Labels",
        "Count",
        "Resources",
        "CPU",
        "Network",
        "Ports",
        "Constraints",
        "Operator",
        "Values",
        "InputSources",
        "Source",
        "Target",
        "ResultPaths",
        "Path",
        "Timeouts",
        "ID",
        "State",
    ]
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
maps = st.dictionaries(texts, texts, max_size=3)
configs = st.fixed_dictionaries(
    {"Type": st.sampled_from(["docker", " S3 ", "noop"])},
    optional={"Params": st.dictionaries(texts, plain, max_size=3)},
)
tasks = st.fixed_dictionaries(
    {"Name": st.just("main"), "Engine": configs, "Publisher": configs},
    optional={
        "Env": st.dictionaries(
            st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True), texts.filter(bool), max_size=3
        ),
        "Meta": maps,
        "Resources": st.fixed_dictionaries(
            {},
            optional={
                "CPU": st.sampled_from(["", " ", "500m", 1, "1 Ki"]),
                "Memory": st.sampled_from(["1 GB", "512Mb"]),
            },
        ),
        "Network": st.fixed_dictionaries({"Type": st.sampled_from(NETWORK_TYPES)}),
        "Timeouts": st.fixed_dictionaries({}, optional={"QueueTimeout": st.integers(0, 9)}),
        "ResultPaths": st.lists(st.just({"Name": " r ", "Path": "/r "}), max_size=1),
        "InputSources": st.lists(
            st.fixed_dictionaries({"Source": configs, "Target": st.just(" /t")}), max_size=1
        ),
    },
)
jobs = st.fixed_dictionaries(
    {"Type": st.sampled_from(["batch", "service", "daemon", "ops"]), "Tasks": tasks.map(lambda task: [task])},
    optional={
        "Name": texts.filter(lambda text: text.strip() and "\0" not in text),
        "Count": st.integers(0, 1),
        "Priority": st.integers(-(2**63), 2**63 - 1),
        "Labels": maps,
        "Constraints": st.lists(
            st.fixed_dictionaries(
                {"Key": st.just("k"), "Operator": st.sampled_from(OPERATORS[-4:]), "Values": st.just(["v"])}
            ),
            max_size=2,
        ),
    },
)


def check_refusal(error: InvalidSpec) -> None:
    """A refusal has problems, and each is one line of valid text."""
    assert error.problems
    for problem in error.problems:
        assert problem.message
        assert "\n" not in str(problem)
        str(problem).encode()


def read_or_refuse(value: object, *, strict: bool) -> JobSpec | None:
    """Read, validate and normalize: the steps of every value from outside."""
    try:
        spec = read_spec(value, strict=strict).spec
    except InvalidSpec as error:
        check_refusal(error)
        return None
    if submission_problems(spec):
        return None
    named = normalize(replace(spec, name=spec.name or "j-1"))
    if not problems_of(named):
        assert decode_spec(encode_spec(named)) == named
    return spec


@given(anything, st.booleans())
def test_any_value_is_a_spec_or_refused(value: Any, strict: bool) -> None:
    """For any JSON value, reading raises only InvalidSpec."""
    read_or_refuse(value, strict=strict)


@given(st.binary(max_size=200), st.sampled_from(["yaml", "json", "toml", None]))
def test_any_bytes_are_a_spec_or_refused(raw: bytes, kind: Format | None) -> None:
    """For any bytes, loading raises only InvalidSpec."""
    try:
        load_spec(raw, format=kind)
    except InvalidSpec as error:
        check_refusal(error)


@given(
    st.text("{}[]:,&*!<>|-?'\"\\ \n\t#%@`~0x_.eE1a\u2028\x00\ud800", max_size=60),
    st.sampled_from(["yaml", "json", "toml"]),
)
@settings(max_examples=400)
def test_any_punctuation_is_a_spec_or_refused(text: str, kind: Format | None) -> None:
    """Also for text of the characters that parsers treat specially."""
    try:
        load_spec(text, format=kind)
    except InvalidSpec as error:
        check_refusal(error)


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_real_spec_is_a_spec_or_refused(data: st.DataObject) -> None:
    """Real specs with a few bytes changed, removed or doubled raise only InvalidSpec."""
    raw = bytearray(data.draw(st.sampled_from(TEXTS)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(start + 10, len(raw))))
        raw[start:stop] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b": ", b"- ", b"{{ .x }}", b"&a ", b"*a", b"~"])
        )
    try:
        load_spec(bytes(raw))
    except InvalidSpec as error:
        check_refusal(error)


@given(st.data(), anything, st.booleans())
@settings(max_examples=300)
def test_a_real_spec_with_another_value_is_a_spec_or_refused(
    data: st.DataObject, other: Any, strict: bool
) -> None:
    """Real specs with any value at any position."""
    root = json.loads(json.dumps(data.draw(st.sampled_from(VALUES))))
    place = root
    while True:
        key = data.draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else 0
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = other
    read_or_refuse(root, strict=strict)


@given(jobs)
def test_a_valid_spec_survives_every_step(value: Any) -> None:
    """Read, normalize, encode and decode give the same spec; a repetition gives the same bytes."""
    spec = read_spec(value, strict=True).spec
    assert submission_problems(spec) == []
    once = normalize(replace(spec, name=spec.name or "j-1"))
    assert problems_of(once) == []
    raw = encode_spec(once)
    assert decode_spec(raw) == once
    assert encode_spec(decode_spec(raw)) == raw
    assert encode_spec(normalize(once)) == raw
    assert encode_spec(normalize(decode_spec(raw))) == raw
    assert encode_spec(normalize(replace(load_spec(json.dumps(value)).spec, name=once.name))) == raw
    assert encode_spec(read_spec(json.loads(raw), strict=True).spec) == raw


@pytest.mark.parametrize("text", TEXTS)
def test_every_prefix_of_a_real_spec_is_a_spec_or_refused(text: str) -> None:
    """A truncated file raises only InvalidSpec."""
    for end in range(0, len(text), 7):
        try:
            load_spec(text[:end])
        except InvalidSpec as error:
            check_refusal(error)
