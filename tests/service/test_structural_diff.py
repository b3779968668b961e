"""The structural diff: its edits lead from one document to the other, and are readable."""

import json
import time
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings, strategies as st

from jobledger.service import structural_diff as structure
from jobledger.service.structural_diff import aligned, edits, leaves, patch_of, path_text, pointer

scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([1.0, 0.5, "", "a", "b/~"])
keys = st.sampled_from(["a", "b", "Name", "x.y", "p/q", "t~0", ""])
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
named = st.lists(
    st.fixed_dictionaries(
        {"Name": st.sampled_from("abcde"), "Env": st.dictionaries(keys, scalars, max_size=2)}
    ),
    max_size=4,
)


def same(one: Any, other: Any) -> bool:
    """Equality of JSON: `1`, `1.0` and `true` are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def told(old: Any, new: Any) -> list[tuple[str, str, Any, Any]]:
    return [(each.verb, path_text(each.path), each.before, each.after) for each in edits(old, new)]


@settings(deadline=None)  # a busy machine is no failure
@given(st.one_of(st.tuples(documents, documents), st.tuples(named, named)))
def test_the_patch_leads_to_the_new_document(pair: tuple[Any, Any]) -> None:
    """The library `jsonpatch` applies it."""
    old, new = ({"it": each} for each in pair)
    patch = json.loads(json.dumps(patch_of(edits(old, new))))
    assert same(jsonpatch.apply_patch(old, patch), new)
    assert bool(patch) is not same(old, new)


@settings(deadline=None)
@given(documents)
def test_a_document_is_its_leaves(document: Any) -> None:
    """Every leaf is at its pointer, none is missing, and paths are unique."""
    found = list(leaves(document))
    for path, value in found:
        assert same(jsonpatch.JsonPointer(pointer(path)).resolve(document), value)
    assert len({path_text(path) for path, _ in found}) == len(found)
    patch = [edit for edit in edits({}, {"it": document}) if edit.verb == "add"]
    assert len(patch) == 1


def test_each_edit_has_path_and_values() -> None:
    """Changed, added and removed, in the order of the document."""
    old = {"Priority": 1, "Labels": {"env": "prod", "old": "x"}, "Meta": {}}
    new = {"Priority": 2, "Labels": {"env": "prod", "a.b": "y"}, "Meta": {}, "Count": 1}
    assert told(old, new) == [
        ("replace", "Priority", 1, 2),
        ("remove", "Labels.old", "x", None),
        ("add", 'Labels["a.b"]', None, "y"),
        ("add", "Count", None, 1),
    ]


def test_a_task_is_matched_by_its_name() -> None:
    """One that is inserted or removed does not make the others look changed."""
    first, second, third = ({"Name": name, "Env": {"A": name}} for name in "abc")
    assert told([first, second], [third, first, second]) == [("add", "[0]", None, third)]
    assert told([first, second, third], [first, third]) == [("remove", "[1]", second, None)]
    changed_too = {"Name": "a", "Env": {"A": "other"}}
    changed = {"Name": "b", "Env": {"A": "new"}}
    assert told([first, second], [third, changed_too, changed]) == [
        ("add", "[0]", None, third),
        ("replace", "[1].Env.A", "a", "other"),
        ("replace", "[2].Env.A", "b", "new"),
    ]
    assert told([first, second], [third, first, changed]) == [
        ("add", "[0]", None, third),
        ("replace", "[2].Env.A", "b", "new"),
    ]


def test_a_renamed_task_is_a_change_of_its_name() -> None:
    """Between matched elements position counts: one field changed."""
    tasks = [{"Name": name, "Image": "busybox"} for name in "abc"]
    renamed = [tasks[0], {"Name": "new", "Image": "busybox"}, tasks[2]]
    assert told(tasks, renamed) == [("replace", "[1].Name", "b", "new")]


def test_texts_in_a_list_are_matched() -> None:
    """An argument inserted in a command is one addition; a changed one is one change."""
    assert told(["sh", "-c", "run"], ["sh", "-e", "-c", "run"]) == [("add", "[1]", None, "-e")]
    assert told(["sh", "-c", "run"], ["sh", "-c", "stop"]) == [("replace", "[2]", "run", "stop")]
    assert told(["a", "a", "b"], ["a", "b"]) == [("remove", "[1]", "a", None)]


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), ({}, []), (None, 0), ("1", 1)])
def test_a_type_that_changes_is_a_change(old: Any, new: Any) -> None:
    """Python considers some of these equal; JSON does not."""
    assert told({"a": old}, {"a": new}) == [("replace", "a", old, new)]
    assert len(told({"a": [old]}, {"a": [new]})) == 1


def test_lists_beyond_the_limit_are_compared_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the common order is found; beyond it only common ends; the patch is correct."""
    old, new = ["x", "a", "b", "y"], ["x", "b", "c", "y"]
    monkeypatch.setattr(structure, "DIFF_MAX_PAIRS", 4)
    assert aligned(old, new) == ([(0, 0), (2, 1), (3, 3)], [])
    monkeypatch.setattr(structure, "DIFF_MAX_PAIRS", 3)
    assert aligned(old, new) == ([(0, 0), (1, 2), (3, 3)], [(2, 1)])
    assert jsonpatch.apply_patch(old, patch_of(edits(old, new))) == new


def test_the_worst_lists_take_bounded_time() -> None:
    """Thousands of elements in the worst order."""
    old, new = [["a", "b"] * 1_000, ["b", "a"] * 250], [["b", "a"] * 1_000, ["a", "b"] * 250]
    begun = time.process_time()
    assert edits(old, new)
    assert time.process_time() - begun < 5


def test_paths_are_formatted_unambiguously() -> None:
    """Plain words are unquoted, others quoted, and pointers escaped as in RFC 6901."""
    path = ("Tasks", 0, "Env", "a.b/c~")
    assert path_text(path) == 'Tasks[0].Env["a.b/c~"]'
    assert pointer(path) == "/Tasks/0/Env/a.b~1c~0"
    assert (path_text(()), pointer(())) == ("", "")


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        ("abc", "cab", [(2, 0)]),
        ("abc", "bca", [(0, 2)]),
        ("abcd", "dcba", [(2, 1), (1, 2), (0, 3)]),
        ("aab", "baa", [(2, 0)]),
        ("abx", "yba", [(0, 2)]),
        ("ab", "ab", []),
    ],
)
def test_an_element_that_moved_is_the_same_element(old: str, new: str, moved: list[tuple[int, int]]) -> None:
    """Equal elements outside the longest common subsequence are matched before positions."""
    assert sorted(aligned(list(old), list(new)).moved) == sorted(moved)


@given(st.lists(st.sampled_from("abcde"), max_size=7), st.lists(st.sampled_from("abcde"), max_size=7))
def test_a_patch_with_moves_leads_to_the_new_list(old: list[str], new: list[str]) -> None:
    """Also for named elements that moved and changed."""
    assert jsonpatch.apply_patch(old, patch_of(edits(old, new))) == new
    before = [{"Name": name, "at": at} for at, name in enumerate(dict.fromkeys(old))]
    after = [{"Name": name, "at": at} for at, name in enumerate(dict.fromkeys(new))]
    assert jsonpatch.apply_patch(before, patch_of(edits(before, after))) == after
