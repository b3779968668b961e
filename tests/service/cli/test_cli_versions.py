"""`job tag`, `revert`, `versions`, `diff` and `blame` against a real service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Operator
from tests.support.service_process import RunningService, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests of this module; each uses its own jobs."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def operator(service: RunningService, tmp_path: Path) -> Operator:
    return Operator(service, tmp_path)


def with_versions(operator: Operator, name: str) -> None:
    """A job with three versions."""
    for number in (1, 2, 3):
        spec = operator.spec(name, Priority=number, Labels={"v": str(number)} if number < 3 else {})
        operator("job", "run", spec, "--reason", f"try {number}")


def test_tag_is_set_shown_moved_and_removed(operator: Operator) -> None:
    """The line names the version; `versions`, `describe`, `history` and the tail show the tag."""
    with_versions(operator, "tagged")
    line = operator("job", "tag", "tagged", "2", "golden", "--reason", "proven").stdout
    assert line.startswith("tagged (j-")
    assert line.endswith(" has version 2 tagged golden: version 3, revision 3\n")
    assert " unchanged: version 3" in operator("job", "tag", "tagged", "2", "golden").stdout
    rows = [row.split() for row in operator("job", "versions", "tagged").stdout.splitlines()]
    assert rows[0] == ["Version", "Tags", "Revision", "State", "Made", "Who", "Changed", "Why"]
    assert [row[:2] for row in rows[1:]] == [["1", "-"], ["2", "golden"], ["3", "-"]]
    assert rows[2][-2:] == ["try", "2"]
    machine = operator.json("job", "versions", "tagged")
    assert [each["Tags"] for each in machine["Versions"]] == [[], ["golden"], []]
    assert "golden=version 2" in operator("job", "describe", "tagged").stdout
    assert operator.json("job", "describe", "tagged")["Tags"] == [{"Tag": "golden", "JobVersion": 2}]
    history = operator("job", "history", "tagged").stdout
    assert "Version 2 tagged golden" in history
    assert "proven" in history
    tail = operator(
        "events", "tail", "--after", "0", "--type", "tagged", "--job", "tagged", "--limit", "1"
    ).stdout
    assert "Version 2 tagged golden" in tail
    operator("job", "tag", "tagged", "3", "golden")
    assert "no longer has the tag golden" in operator("job", "tag", "tagged", "golden", "--delete").stdout
    assert "unchanged" in operator("job", "tag", "tagged", "golden", "--delete").stdout


def test_tag_is_accepted_wherever_a_version_is(operator: Operator) -> None:
    """In describe, history, rerun, diff and revert; an unknown tag is exit code 3."""
    with_versions(operator, "wherever")
    operator("job", "tag", "wherever", "2", "golden")
    assert operator.json("job", "describe", "wherever", "--version", "golden")["Job"]["Priority"] == 2
    assert {
        item["JobVersion"]
        for item in operator.json("job", "history", "wherever", "--version", "golden")["Items"]
    } == {2}
    assert operator.json("job", "diff", "wherever", "golden", "3")["From"] == 2
    operator("job", "stop", "wherever")
    assert "version 4" in operator("job", "rerun", "wherever", "--version", "golden").stdout
    words: tuple[str, ...]
    for words in (
        ("describe", "wherever", "--version", "none"),
        ("diff", "wherever", "none"),
        ("revert", "wherever", "--to", "none"),
        ("tag", "wherever", "none", "more"),
        ("blame", "nowhere"),
    ):
        operator("job", *words, code=3)
    for words in (
        ("describe", "wherever", "--version", "no tag"),
        ("diff", "wherever", "0"),
        ("diff", "wherever", "1", "2", "3"),
        ("revert", "wherever"),
        ("tag", "wherever", "3"),
        ("tag", "wherever", "3", "golden", "--delete"),
    ):
        operator("job", *words, code=2)
    operator("job", "tag", "wherever", "1", "no tag", code=2)


def test_diff_shows_changes_between_two_versions(operator: Operator) -> None:
    """By path, with both values; against the latest if one is named; files as before."""
    with_versions(operator, "differ")
    shown = operator("job", "diff", "differ", "1", "3").stdout.splitlines()
    assert shown == ["version 1 → version 3", "~ Priority: 1 → 3", '- Labels.v: "1"']
    operator("job", "tag", "differ", "1", "first")
    assert operator("job", "diff", "differ", "first").stdout.splitlines() == [
        "version 1 (first) → version 3",
        *shown[1:],
    ]
    back = operator("job", "diff", "differ", "3", "1", "--exit-code", code=1).stdout.splitlines()
    assert back == ["version 3 → version 1", "~ Priority: 3 → 1", '+ Labels.v: "1"']
    assert operator("job", "diff", "differ", "2", "2", "--exit-code").stdout == ""
    assert operator.json("job", "diff", "differ", "1", "2")["Patch"][0]["op"] == "replace"
    changed = operator.spec("differ", Priority=9)
    assert "~ Priority: 3 → 9\n" in operator("job", "diff", changed).stdout
    operator("job", "diff", str(operator.home / "none.yaml"), code=2)


def test_revert_restores_a_version(operator: Operator) -> None:
    """As a new version whose reason names it; reverting to the current spec changes nothing."""
    with_versions(operator, "back")
    line = operator("job", "revert", "back", "--to", "1").stdout
    assert line.endswith(" reverted to version 1: version 4, revision 4\n")
    assert operator.json("job", "describe", "back")["Job"]["Priority"] == 1
    assert operator.json("job", "versions", "back")["Versions"][3]["Reason"] == "reverted to version 1"
    assert "unchanged: version 4, revision 4" in operator("job", "revert", "back", "--to", "1").stdout
    assert "revision 4" in operator("job", "revert", "back", "--to", "2", "--if-revision", "3", code=5).stderr
    operator("job", "revert", "back", "--to", "2", "--if-revision", "4", "--reason", "mine")
    assert operator.json("job", "versions", "back")["Versions"][4]["Reason"] == "mine"


def test_blame_names_the_event_of_each_field(operator: Operator) -> None:
    """As a table, for programs, for a part, and as of an earlier point."""
    with_versions(operator, "blamed")
    operator("job", "set-state", "blamed", "Running", "--message", "no \x1b[31mred", "--reason", "capacity")
    table = operator("job", "blame", "blamed").stdout
    head, *rows = table.splitlines()
    assert head.split() == ["Field", "Value", "Age", "Event", "Version", "Revision", "Who", "Why"]
    by_field = {row.split()[0]: row for row in rows}
    assert by_field["Priority"].split()[1:2] == ["3"]
    assert by_field["Priority"].endswith("try 3")
    assert by_field["Name"].endswith("try 1")
    assert by_field["Labels"].split()[1] == "{}"
    assert by_field["State.StateType"].endswith("capacity")
    assert "\x1b" not in table
    items = operator.json("job", "blame", "blamed", "--path", "Tasks[0]")["Items"]
    assert {item["Version"] for item in items} == {1}
    earlier = operator.json("job", "blame", "blamed", "--at", "r2", "--path", "Priority")["Items"]
    assert [(item["Value"], item["Reason"]) for item in earlier] == [(2, "try 2")]
    lines = operator("job", "blame", "blamed", "--path", "State", "-o", "ndjson").stdout.splitlines()
    assert [json.loads(line)["Path"] for line in lines] == ["State.StateType", "State.Message"]
    operator("job", "blame", "blamed", "--at", "r9", code=3)
