"""Text is parsed to plain values or refused with reason and position, and parsing is always safe."""

import json
from typing import Any

import pytest

from jobledger.store.model.errors import InvalidSpec
from jobledger.store.model.limits import SPEC_MAX_DEPTH, SPEC_MAX_NODES
from jobledger.store.spec.formats import format_of, parse
from jobledger.store.spec.reader import load_spec

JOB = {"Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}
YAML = "Type: batch\nTasks:\n  - Name: main\n    Engine: {Type: noop}\n"


def parse_refusal(text: str, **options: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        parse(text, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the document is empty"),
        ("# nothing\n", "the document is empty"),
        ("- a\n", "an object with fields, got a list"),
        ("just words", 'got "just words"'),
        ("Name: a\nName: b\n", 'line 2, column 1: the key "Name" appears twice'),
        ("Name: a\n---\nName: b\n", "line 2, column 1: a second document"),
        ("Name: !secret a\n", 'line 1, column 7: the tag "!secret" is not accepted'),
        ("Name: !!python/name:os.system\n", "is not accepted"),
        ("Name: !!binary aGk=\n", "is not accepted"),
        ("Name: &a [*a]\n", "line 1, column 11: the alias *a contains itself"),
        ("Name: *a\n", "undefined alias"),
        ("? [a]\n: b\n", "a key must be plain text"),
        ("a: b: c\n", "line 1, column 5: not YAML"),
        ("a: !!int 0x_\n", "can't be read as int"),
        ("a: " + "9" * 5000, "can't be read as int"),
        ("a: '\0'", "not YAML"),
        ("a: " + "[" * (SPEC_MAX_DEPTH + 1), "nested deeper"),
        ("[" * 100_000, "nested deeper"),
        ("a: " + "- " * 100_000, "not"),
        (b"a: \xff\n", "line 1: the text is not UTF-8"),
        (b"a: b\nc: \xff\n", "line 2: the text is not UTF-8"),
        ("a: \ud800", "surrogate"),
        ('{"a": 1,}', "line 1, column 9: not JSON"),
        ('{"a": 1, "a": 2}', 'the key "a" appears twice'),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": ' + "9" * 5000 + "}", "thousands of digits"),
        ('{"a":' * 100_000, "nested deeper"),
        ("[1]", "got a list"),
    ],
)
def test_bad_text_is_refused_with_its_reason(text: str, part: str) -> None:
    """InvalidSpec has the reason, and line and column if the parser knows them."""
    assert part in parse_refusal(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (".".join("a" * 500_000) + " = 1", "nested deeper"),
        (" . ".join(["'a'", '"b"'] * 50_000) + " = 1", "nested deeper"),
        ("a = ", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
        ("", "empty"),
        (".".join("a" * 3000) + " = 1", "nested deeper"),
        ("a = " + "[" * 100_000, "nested deeper"),
        ("a = " + "9" * 5000, "thousands of digits"),
    ],
)
def test_bad_toml_is_refused_with_its_reason(text: str, part: str) -> None:
    """As for YAML and JSON."""
    assert part in parse_refusal(text, format="toml")


def test_aliases_count_as_expanded() -> None:
    """A few lines that expand to billions of values are refused before values are created."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert f"more than {SPEC_MAX_NODES} values" in parse_refusal("\n".join(lines))


def test_aliases_add_to_the_depth() -> None:
    """The depth includes expanded aliases."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, SPEC_MAX_DEPTH)]
    assert "nested deeper" in parse_refusal("\n".join(lines))
    assert parse("\n".join(lines[:-1]))


def test_depth_is_that_of_the_alias_and_its_value() -> None:
    """Half of SPEC_MAX_DEPTH around an alias to another half is the limit."""
    half = SPEC_MAX_DEPTH // 2
    anchored = f"a: &a {'[' * half}{']' * half}\n"
    assert parse(f"{anchored}b: {'[' * (half - 1)}*a{']' * (half - 1)}\n")
    assert "nested deeper" in parse_refusal(f"{anchored}b: {'[' * half}*a{']' * half}\n")


def test_yaml_surprises_are_removed() -> None:
    """Times, dates and base-60 numbers stay text; merge keys and anchors work."""
    text = "a: 22:22\nb: 2024-01-01\nc: 1:30.5\nd: 010\ne: &e {x: 1, y: 2}\nf: {<<: *e, y: 3}\ng: yes\n"
    text += "h: =\ni: [<<]\n"
    assert parse(text) == {
        "a": "22:22",
        "b": "2024-01-01",
        "c": "1:30.5",
        "d": 8,
        "e": {"x": 1, "y": 2},
        "f": {"x": 1, "y": 3},
        "g": True,
        "h": "=",
        "i": ["<<"],
    }


@pytest.mark.parametrize("text", ["=", "<<", "~x", "2001-12-14t21:59:43.10-05:00", "0o8", "1_0:3", "y"])
@pytest.mark.parametrize("place", ["{}", "[{}]", "[[{}, {}]]", "{{a: {}}}", "{{a: [{{b: {}}}]}}"])
def test_a_plain_scalar_without_a_type_is_text_everywhere(text: str, place: str) -> None:
    """As values, `=` and `<<` are text; PyYAML has tags for them without a constructor."""
    quoted = parse("k: " + place.format(f"'{text}'", f"'{text}'"))
    assert parse("k: " + place.format(text, text)) == quoted


# The result of the Go package sigs.k8s.io/yaml, which Bacalhau uses, for each of these.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("010", 8),
            ("0o10", 8),
            ("0O10", 8),
            ("08", 8),
            ("09", 9),
            ("0_8", 8),
            ("-010", -8),
            ("0777", 511),
        ],
        *[("0X1F", 31), ("-0x1F", -31), ("0B101", 5), ("0b1_1", 3), ("1__0", 10), ("-_1", -1), ("+1", 1)],
        *[("1e3", 1000), ("1E3", 1000), ("1.5e3", 1500), ("1.e3", 1000), ("5e-1", 0.5), ("1e1_0", 1e10)],
        *[("+.5", 0.5), ("-.5e-3", -0.0005), ("3.14_15", 3.1415), ("0e0", 0), ("1.", 1), ("01.5", 1.5)],
        *[("0b12", "0b12"), ("0xZZ", "0xZZ"), ("0x", "0x"), ("1e", "1e"), ("e1", "e1"), (".e1", ".e1")],
        *[("1e999", "1e999"), ("0x1.8p3", "0x1.8p3"), ("1_2:3", "1_2:3"), ("-_", "-_"), ("1.2.3", "1.2.3")],
    ],
)
def test_a_number_is_what_bacalhau_reads(text: str, value: object) -> None:
    """A file is the same job in both; `1.0` and `1` are the same JSON number."""
    assert parse(f"k: {text}\nl: [{text}]") == {"k": value, "l": [value]}


def test_a_tag_without_a_name_is_refused() -> None:
    """In YAML `! 5` is the text 5, and PyYAML reads the number."""
    assert "the tag" in parse_refusal("k: ! 5")


def test_an_equals_sign_is_text_as_a_key() -> None:
    """Only `<<` has a meaning as a key."""
    assert parse("k: {=: 1}\n=: 2\n") == {"k": {"=": 1}, "=": 2}


def test_toml_dates_are_text() -> None:
    """In ISO 8601."""
    text = "Type = 'batch'\n[[Tasks]]\nName = 'main'\n[Tasks.Engine]\nType = 'noop'\n"
    text += "Params = {d = 2024-01-01, t = 07:32:00}"
    assert load_spec(text, format="toml").spec.tasks[0].engine.params == {"d": "2024-01-01", "t": "07:32:00"}


def test_the_format_is_detected() -> None:
    """Text that starts with { is JSON, other text is YAML, with or without a byte order mark."""
    assert parse(json.dumps(JOB)) == parse("\ufeff \n" + json.dumps(JOB)) == parse(YAML) == JOB
    assert parse(b"\xef\xbb\xbf" + YAML.encode()) == JOB
    assert [format_of(name) for name in ("a.YAML", "b.yml", "c.json", "d.toml", "e", "-")] == [
        "yaml",
        "yaml",
        "json",
        "toml",
        None,
        None,
    ]
