"""Label selectors: the Kubernetes grammar, its meaning, and SQL that means the same."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from jobledger.projections.errors import InvalidSelector
from jobledger.projections.limits import (
    SELECTOR_MAX_CHARACTERS,
    SELECTOR_MAX_REQUIREMENTS,
    SELECTOR_MAX_VALUES,
)
from jobledger.projections.query.planner import drivers_of
from jobledger.projections.query.query import ListQuery
from jobledger.projections.query.selectors import (
    GRAMMAR,
    Operator,
    Requirement,
    check_requirements,
    matches,
    parse_int64,
    parse_selector,
)
from tests.support.view_file import ViewFile

IN, NOT_IN, EXISTS, MISSING = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.MISSING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n", []),
        ("k", [Requirement("k", EXISTS)]),
        ("!k", [Requirement("k", MISSING)]),
        (" ! k ", [Requirement("k", MISSING)]),
        ("k=v", [Requirement("k", IN, ("v",))]),
        ("k==v", [Requirement("k", IN, ("v",))]),
        ("k = v", [Requirement("k", IN, ("v",))]),
        ("k!=v", [Requirement("k", NOT_IN, ("v",))]),
        ("k=", [Requirement("k", IN, ("",))]),
        ("k!=,l==", [Requirement("k", NOT_IN, ("",)), Requirement("l", IN, ("",))]),
        ("k>1", [Requirement("k", Operator.GREATER, ("1",))]),
        ("k < -1", [Requirement("k", Operator.LESS, ("-1",))]),
        ("k in (a,b)", [Requirement("k", IN, ("a", "b"))]),
        ("k in(a , b,a)", [Requirement("k", IN, ("a", "b"))]),
        ("k notin (a)", [Requirement("k", NOT_IN, ("a",))]),
        ("k in ()", [Requirement("k", IN, ("",))]),
        ("k in (,a)", [Requirement("k", IN, ("", "a"))]),
        ("k in (a,)", [Requirement("k", IN, ("a", ""))]),
        ("a,b", [Requirement("a", EXISTS), Requirement("b", EXISTS)]),
        ("example.org/k=v-1_2.3", [Requirement("example.org/k", IN, ("v-1_2.3",))]),
        ("größe=ü", [Requirement("größe", IN, ("ü",))]),
        ("in in (in,notin)", [Requirement("in", IN, ("in", "notin"))]),
        ("in,notin", [Requirement("in", EXISTS), Requirement("notin", EXISTS)]),
    ],
)
def test_the_grammar_of_kubernetes_is_read(text: str, expected: list[Requirement]) -> None:
    """Every form of a requirement, with and without blanks."""
    assert list(parse_selector(text)) == expected


@pytest.mark.parametrize(
    ("text", "character", "found"),
    [
        (",", 1, "','"),
        ("a,", 3, "the end"),
        ("a,,b", 3, "','"),
        ("a b", 3, "'b'"),
        ("=v", 1, "'='"),
        ("k=v w", 5, "'w'"),
        ("k>=1", 3, "'='"),
        ("k>", 3, "the end"),
        ("k>x", 3, "'x'"),
        ("k>9223372036854775808", 3, "'9223372036854775808'"),
        ("k gt 1", 3, "'gt'"),
        ("!k=v", 3, "'='"),
        ("!", 2, "the end"),
        ("k in a", 6, "'a'"),
        ("k in (a", 8, "the end"),
        ("k in (a b)", 9, "'b'"),
        ("k in (a=)", 8, "'='"),
        ("(k)", 1, "'('"),
    ],
)
def test_an_invalid_selector_is_refused_with_the_position(text: str, character: int, found: str) -> None:
    """The message has the character, the token found, and the grammar in one line."""
    with pytest.raises(InvalidSelector) as caught:
        parse_selector(text)
    assert f"at character {character}, found {found};" in str(caught.value)
    assert GRAMMAR in str(caught.value)


def test_a_selector_has_a_length_limit() -> None:
    """At the limit it is accepted, one more character is refused."""
    assert parse_selector("k" * SELECTOR_MAX_CHARACTERS)
    with pytest.raises(InvalidSelector, match=str(SELECTOR_MAX_CHARACTERS)):
        parse_selector("k" * (SELECTOR_MAX_CHARACTERS + 1))


def test_a_selector_has_a_limit_of_requirements() -> None:
    """At the limit it is accepted, one more requirement is refused."""
    assert len(parse_selector(",".join(["k"] * SELECTOR_MAX_REQUIREMENTS))) == SELECTOR_MAX_REQUIREMENTS
    with pytest.raises(InvalidSelector, match=str(SELECTOR_MAX_REQUIREMENTS)):
        parse_selector(",".join(["k"] * (SELECTOR_MAX_REQUIREMENTS + 1)))


def test_a_requirement_has_a_limit_of_values() -> None:
    """At the limit it is accepted, one more value is refused."""
    values = [str(number) for number in range(SELECTOR_MAX_VALUES + 1)]
    assert parse_selector(f"k in ({','.join(values[1:])})")
    with pytest.raises(InvalidSelector, match=str(SELECTOR_MAX_VALUES)):
        parse_selector(f"k in ({','.join(values)})")


@pytest.mark.parametrize(
    "requirement",
    [
        Requirement("k", EXISTS, ("v",)),
        Requirement("k", IN),
        Requirement("k", Operator.LESS, ("1", "2")),
        Requirement("\ud800", EXISTS),
        Requirement("k", IN, ("\ud800",)),
    ],
)
def test_a_requirement_built_in_python_is_checked_too(requirement: Requirement) -> None:
    """A wrong number of values, and text that SQLite cannot store, are refused."""
    with pytest.raises(InvalidSelector):
        check_requirements([requirement])
    with pytest.raises(InvalidSelector):
        ListQuery(selector=(requirement,))


def test_half_a_surrogate_pair_is_refused() -> None:
    """A selector is valid text or an InvalidSelector, never an encoding error."""
    with pytest.raises(InvalidSelector):
        parse_selector("k=\ud800")


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("", {}, True),
        ("k", {"k": ""}, True),
        ("k", {}, False),
        ("!k", {"k": ""}, False),
        ("!k", {}, True),
        ("k=v", {"k": "v"}, True),
        ("k=v", {"K": "v"}, False),
        ("k=", {"k": ""}, True),
        ("k=", {}, False),
        ("k in ()", {"k": ""}, True),
        ("k in (a,b)", {"k": "b"}, True),
        ("k in (a,b)", {}, False),
        ("k!=v", {}, True),
        ("k!=v", {"k": "v"}, False),
        ("k!=v", {"k": "w"}, True),
        ("k notin (a,b)", {}, True),
        ("k notin (a,b)", {"k": "a"}, False),
        ("k>1", {"k": "2"}, True),
        ("k>1", {"k": "1"}, False),
        ("k>1", {"k": "10"}, True),
        ("k>1", {}, False),
        ("k>1", {"k": "2x"}, False),
        ("k>1", {"k": "2.5"}, False),
        ("k>1", {"k": " 2"}, False),
        ("k>1", {"k": "٢"}, False),
        ("k<1", {"k": "-5"}, True),
        ("k<1", {"k": "+0"}, True),
        ("k>1", {"k": "9223372036854775807"}, True),
        ("k>1", {"k": "9223372036854775808"}, False),
        ("k<1", {"k": "-9223372036854775808"}, True),
        ("k<1", {"k": "-9223372036854775809"}, False),
        ("k=v,l", {"k": "v", "l": "x"}, True),
        ("k=v,l", {"k": "v"}, False),
    ],
)
def test_a_selector_means_what_kubernetes_means(
    selector: str, labels: dict[str, str], expected: bool
) -> None:
    """A missing key matches only `!`, `!=` and `notin`; only 64-bit integers are compared."""
    assert matches(parse_selector(selector), labels) is expected


def test_a_comparison_with_text_never_matches() -> None:
    """A requirement built in Python may compare with any text; no label is greater or less than it."""
    assert not matches([Requirement("k", Operator.GREATER, ("x",))], {"k": "1"})


def test_a_very_long_number_is_no_integer() -> None:
    """Python refuses to parse very long integers; a label may contain one."""
    assert parse_int64("0" * 5_000 + "7") == 7
    assert parse_int64("7" * 5_000) is None


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewFile]:
    """One file for all examples, emptied before each."""
    made = ViewFile(tmp_path_factory.mktemp("selectors") / "view.db")
    yield made
    made.close()


KEYS = st.sampled_from(["a", "b", "in"])
NUMBERS = st.sampled_from(
    [
        "0",
        "1",
        "-1",
        "+1",
        "007",
        "-0",
        str(2**63 - 1),
        str(2**63),
        str(-(2**63)),
        str(-(2**63) - 1),
        "0" * 30 + "5",
    ]
)
TEXTS = st.sampled_from(
    ["", "x", "X", "1x", "x1", " 1", "--1", "+-1", "+", "-", "1\0", "\0001", "1\x002", "\uff11", "1e3"]
)
VALUES = NUMBERS | TEXTS | st.integers(-3, 3).map(str) | st.text(max_size=3)
REQUIREMENTS = st.one_of(
    st.builds(Requirement, KEYS, st.sampled_from([EXISTS, MISSING])),
    st.builds(
        Requirement, KEYS, st.sampled_from([IN, NOT_IN]), st.lists(VALUES, min_size=1, max_size=3).map(tuple)
    ),
    st.builds(
        Requirement, KEYS, st.sampled_from([Operator.GREATER, Operator.LESS]), st.tuples(NUMBERS | TEXTS)
    ),
)
LABELS = st.dictionaries(KEYS, VALUES, max_size=3)


@given(jobs=st.lists(LABELS, max_size=6), selector=st.lists(REQUIREMENTS, max_size=3).map(tuple))
@settings(max_examples=300, deadline=None)
def test_sql_finds_what_the_requirements_match(
    file: ViewFile, jobs: list[dict[str, str]], selector: tuple[Requirement, ...]
) -> None:
    """Whichever index is used, SQLite and `matches` agree on every job."""
    for table in ("jobs", "specs", "labels"):
        file.execute(f"DELETE FROM {table}")
    for sequence, labels in enumerate(jobs, start=1):
        file.add(sequence, labels=labels)
    query = ListQuery(selector=selector)
    expected = [sequence for sequence, labels in enumerate(jobs, start=1) if matches(selector, labels)]
    for driver in (None, *drivers_of(query)):
        assert file.keys(query, driver) == expected
