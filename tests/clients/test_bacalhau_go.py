"""Bacalhau's own Go API client, unchanged, against a real service: without a token, and with one."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.golang import copied, go
from tests.support.service_process import clean_env, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a fresh machine compiles the client first
SESSION_TIMEOUT_SECONDS = 120
Steps = dict[str, Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of `go/bacalhau`, compiled."""
    home = tmp_path_factory.mktemp("go")
    go("build", "-o", str(home / "program"), ".", cwd=copied("bacalhau", home))
    return home / "program"


def session(program: Path, home: Path, url: str, token: str = "") -> Steps:
    """What every call of the program returned."""
    done = subprocess.run(
        [program],
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_SECONDS,
        check=False,
        env=clean_env(home, {"JOBLEDGER_TEST_URL": url, "JOBLEDGER_TEST_TOKEN": token}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps: Steps = json.loads(done.stdout)
    return steps


def create_token(home: Path) -> str:
    """A token of the service whose data is in this folder."""
    words = ("token", "create", "--name", "go", "--role", "writer", "--all-namespaces")
    made = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", *words, "--data-dir", str(home / "data")],
        capture_output=True,
        text=True,
        check=True,
        env=clean_env(home),
    )
    found = re.search(r"\S{20,}", made.stdout)
    assert found, made.stdout
    return found[0]


@pytest.fixture(scope="module", params=["without a token", "with a token"])
def steps(
    program: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Steps]:
    """The outcomes of one session."""
    home = tmp_path_factory.mktemp("session")
    token = ""
    if request.param == "with a token":
        token = create_token(home)
    with running_service(home) as service:
        yield {"token": token, **session(program, home, service.url, token)}


def test_without_a_token_the_client_logs_in_first(steps: Steps) -> None:
    """With a token it does not."""
    if steps["token"]:
        assert "auth.methods" not in steps
    else:
        assert steps["auth.methods"]["Methods"]["clientkey"]["type"] == "challenge"
        assert steps["auth.authenticate"]["Authentication"]["success"] is True


def test_with_tokens_a_client_without_one_is_refused(program: Path, tmp_path: Path) -> None:
    """The list of login methods is empty, which the `bacalhau` command explains; nothing is written."""
    create_token(tmp_path)
    with running_service(tmp_path) as service:
        outcome = session(program, tmp_path, service.url)
        wrong = session(program, tmp_path, service.url, "wrong")
    assert outcome["auth.methods"]["Methods"] == {}
    assert "API key" in outcome["put"]["Error"]
    assert (wrong["put"]["Status"], wrong["put"]["Code"]) == (401, "Unauthorized")


def test_the_version_is_decoded(steps: Steps) -> None:
    """With a build date that is a time."""
    version = steps["agent.version"]
    assert version["GitVersion"].startswith("v")
    assert version["BuildDate"] > "2000"
    assert steps["agent.alive"] == {"Status": "OK"}


def test_a_put_creates_and_updates_without_a_warning(steps: Steps) -> None:
    """With every zero value that a typed client sends; an equal spec writes nothing."""
    first, again, changed = (steps[step] for step in ("put", "put_again", "put_changed"))
    assert first["Warnings"] is None
    assert changed["Warnings"] is None
    assert first["JobID"] == again["JobID"] == changed["JobID"]
    assert again["EvaluationID"] == ""
    assert "no changes detected" in again["Warnings"][0]


def test_a_diff_shows_what_would_change(steps: Steps) -> None:
    """And nothing for an equal spec."""
    assert '+          "Image": "busybox:2"' in steps["diff"]["Diff"]
    assert steps["diff_same"]["Diff"] == ""


def test_a_job_is_read_with_history_and_executions(steps: Steps) -> None:
    """As Bacalhau's own types; an older version by its number."""
    answer = steps["get"]
    job = answer["Job"]
    assert (job["Name"], job["Version"], job["Revision"]) == ("from-go", 2, 2)
    assert job["State"] == {"StateType": "Pending"}
    assert job["Tasks"][0]["Engine"]["Params"]["Image"] == "busybox:2"
    assert [item["Event"]["Message"] for item in answer["History"]["Items"]] == ["Job updated"]
    assert answer["Executions"]["Items"] == []
    assert steps["get_version"]["Job"]["Tasks"][0]["Engine"]["Params"]["Image"] == "busybox:1"


def test_the_lists_of_a_job_are_read(steps: Steps) -> None:
    """History, versions, executions and results."""
    [item] = steps["history"]["Items"]
    assert (item["Type"], item["Event"]["Topic"], item["JobVersion"]) == ("JobLevel", "Submission", 2)
    assert steps["executions"]["Items"] == steps["results"]["Items"] == []
    assert [version["Version"] for version in steps["versions"]["Items"]] == [1, 2]


def test_a_job_is_stopped_and_run_again(steps: Steps) -> None:
    """The rerun takes the spec of version 1 as version 3."""
    assert steps["stop"]["EvaluationID"]
    assert steps["get_stopped"]["Job"]["State"] == {"StateType": "Stopped", "Message": "enough"}
    assert (steps["rerun"]["JobVersion"], steps["rerun"]["Warnings"]) == (3, None)
    job = steps["get_rerun"]["Job"]
    assert (job["State"]["StateType"], job["Version"]) == ("Pending", 3)
    assert job["Tasks"][0]["Engine"]["Params"]["Image"] == "busybox:1"


def test_the_list_of_jobs_goes_on_with_its_token(steps: Steps) -> None:
    """Two pages of two."""
    pages = (steps["list"], steps["list_next"])
    names = [[job["Name"] for job in page["Items"]] for page in pages]
    assert names == [["from-go", "more-0"], ["more-1", "more-2"]]
    assert [bool(page["NextToken"]) for page in pages] == [True, False]


def test_a_request_for_logs_ends_with_an_explanation(steps: Steps) -> None:
    """`bacalhau job logs` and `bacalhau job run --follow` print it; a refused handshake would hide it."""
    assert "Jobledger does not store the output of executions" in steps["error.logs"]["Error"]


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        ("error.get", 404, "NotFound"),
        ("error.history", 404, "NotFound"),
        ("error.put", 400, "ValidationError"),
    ],
)
def test_a_refusal_is_bacalhaus_error(steps: Steps, step: str, status: int, code: str) -> None:
    """With status, code, message and hint."""
    refusal = steps[step]
    assert (refusal["Status"], refusal["Code"]) == (status, code)
    assert refusal["Error"]
    assert refusal["Hint"]
