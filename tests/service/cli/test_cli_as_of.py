"""`--at` and `jobledger diff` against a real service."""

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
    """Runs commands against that service."""
    return Operator(service, tmp_path)


def test_describe_at_a_point_shows_the_job_as_it_was(operator: Operator) -> None:
    """Shows spec, state and timeline, and nothing later; a revision is a point."""
    operator("job", "run", operator.spec("then"))
    operator("job", "set-state", "then", "running")
    operator("job", "run", operator.spec("then", Priority=7), "--reason", "later")
    shown = operator("job", "describe", "then", "--at", "r2").stdout
    assert "Running" in shown
    assert "later" not in shown
    document = operator.json("job", "describe", "then", "--at", "r1")
    assert (document["Job"]["Revision"], len(document["History"]["Items"])) == (1, 1)
    assert "no revision 9" in operator("job", "describe", "then", "--at", "r9", code=3).stderr
    assert "RFC 3339" in operator("job", "describe", "then", "--at", "soon", code=2).stderr
    early = operator("job", "describe", "then", "--at", "2000-01-01T00:00:00Z", code=3).stderr
    assert "did not exist at 2000-01-01T00:00:00.000000000Z: it was created at " in early
    assert "by event" in early


def test_list_at_a_point_shows_the_jobs_as_they_were(operator: Operator) -> None:
    """With filters and pages; ages and local dates are points."""
    first = operator.json("job", "run", operator.spec("one", Labels={"test": "lists"}))["Sequence"]
    operator("job", "run", operator.spec("two", Labels={"test": "lists"}))
    operator("job", "stop", "one")
    label = ("-l", "test=lists", "--all")
    at = ("--at", str(first))
    [then] = operator.json("job", "list", *label, *at)["Items"]
    assert (then["Name"], then["State"]["StateType"]) == ("one", "Pending")
    assert operator.json("job", "list", *label, "--state", "stopped", *at)["Items"] == []
    assert "No jobs found" in operator("job", "list", *label, "--at", "2000-01-01").stderr
    assert len(operator.json("job", "list", *label, "--at", "now")["Items"]) == 2
    assert "needs a job" in operator("job", "list", "--at", "r1", code=2).stderr
    page = operator("job", "list", "--limit", "1", "--at", str(first + 1))
    token = page.stderr.split("--next-token ")[1].split()[0]
    [next_one] = operator.json("job", "list", "--limit", "1", "--next-token", token)["Items"]
    assert next_one["Name"] == "one"


def test_diff_shows_changed_tags(operator: Operator) -> None:
    """In the line of the event, as a changed path, and for programs."""
    operator("job", "run", operator.spec("named"))
    operator("job", "tag", "named", "1", "golden")
    start = operator.json("job", "history", "named")["Items"][-1]["Sequence"]
    operator("job", "run", operator.spec("named", Priority=7))
    operator("job", "tag", "named", "2", "golden")
    operator("job", "tag", "named", "1", "quiet")
    operator("job", "tag", "named", "quiet", "--delete")
    asked = ("diff", "--from", str(start), "--job", "named")
    shown = operator(*asked).stdout
    assert "~ Tags.golden: 1 → 2\n" in shown
    assert "Version 2 tagged golden\n" in shown
    assert "Tags.quiet" not in shown
    assert "Tag quiet removed\n" in shown
    [item] = operator.json(*asked)["Items"]
    tagged = [(each["Tag"], each["TagVersion"]) for each in item["Events"] if "Tag" in each]
    assert tagged == [("golden", 2), ("quiet", 1), ("quiet", 0)]
    assert "- Tags.golden: 2\n" in _after(operator, "named", "golden", "--delete")
    assert "+ Tags.fresh: 1\n" in _after(operator, "named", "1", "fresh")


def _after(operator: Operator, job: str, *words: str) -> str:
    """The output of a diff after one more change of tags."""
    start = operator.json("job", "history", job)["Items"][-1]["Sequence"]
    operator("job", "tag", job, *words)
    return operator("diff", "--from", str(start), "--job", job).stdout


def test_diff_shows_changes_with_their_actors(operator: Operator) -> None:
    """For people and for programs, in pages, for all jobs or for one."""
    start = operator.json("job", "run", operator.spec("before"))["Sequence"]
    operator("job", "run", operator.spec("before", Priority=7), "--reason", "urgent")
    operator("job", "set-state", "before", "running")
    end = operator.json("job", "run", operator.spec("fresh"))["Sequence"]
    asked = ("diff", "--from", str(start), "--to", str(end))
    shown = operator(*asked).stdout
    assert "default/before" in shown
    assert "v1 r1 → v2 r3" in shown
    assert "+ Priority: 7" in shown
    assert "urgent" in shown
    assert "created → v1 r1" in shown
    document = operator.json(*asked)
    assert [item["Name"] for item in document["Items"]] == ["before", "fresh"]
    assert (document["From"]["Sequence"], document["To"]["Sequence"]) == (start, end)
    lines = operator(*asked, "-o", "ndjson").stdout.splitlines()
    assert [json.loads(line)["Name"] for line in lines] == ["before", "fresh"]
    assert len(operator(*asked, "-q").stdout.split()) == 2
    page = operator(*asked, "--limit", "1")
    token = page.stderr.split("--next-token ")[1].split()[0]
    assert "default/fresh" in operator("diff", "--next-token", token).stdout
    of_one = operator("diff", "--from", "r1", "--to", "r2", "--job", "before").stdout
    assert "v1 r1 → v2 r2" in of_one
    assert operator("diff", "--from", str(end), "--to", str(end)).stderr == "Nothing changed.\n"
    assert "--from is required" in operator("diff", code=2).stderr
