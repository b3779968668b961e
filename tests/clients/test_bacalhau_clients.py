"""Bacalhau's published Python clients, unchanged, against a real service process."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.clients.environments import HERE, python_of
from tests.support.service_process import clean_env, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a fresh machine installs the clients first
SESSION_TIMEOUT_SECONDS = 120
Outcomes = dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """What every step of `session.py` came to."""
    home = tmp_path_factory.mktemp("clients")
    python = python_of("bacalhau.txt", Path(request.config.cache.mkdir("environments")))
    with running_service(home) as service:
        address = urlsplit(service.url)
        env = clean_env(
            home,
            {
                "BACALHAU_API_HOST": str(address.hostname),
                "BACALHAU_API_PORT": str(address.port),
                "BACALHAU_DIR": str(home),  # has to exist
            },
        )
        done = subprocess.run(
            [str(python), str(HERE / "session.py")],
            capture_output=True,
            text=True,
            timeout=SESSION_TIMEOUT_SECONDS,
            check=False,
            env=env,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield json.loads(done.stdout)


def test_submit(outcomes: Outcomes) -> None:
    """`Jobs.put` returns the job's id; repeated, the same id and a warning; changed, the same id."""
    first, again, changed = (outcomes[f"sdk.{step}"] for step in ("put", "put_again", "put_changed"))
    assert first["job_id"].startswith("j-")
    assert first["evaluation_id"]
    assert first["warnings"] is None
    assert again["job_id"] == changed["job_id"] == first["job_id"]
    assert again["evaluation_id"] == ""
    assert "no changes detected" in again["warnings"][0]
    assert changed["evaluation_id"] not in {"", first["evaluation_id"]}


def test_get(outcomes: Outcomes) -> None:
    """`Jobs.get` reads the job by id, name and short id, as the client's own classes."""
    job = outcomes["sdk.get"]["job"]
    assert (job["name"], job["namespace"], job["type"], job["count"]) == ("from-sdk", "default", "batch", 1)
    assert (job["version"], job["revision"], job["state"]["state_type"]) == (2, 2, "Pending")
    assert job["tasks"][0]["engine"]["params"]["Image"] == "ubuntu:24.04"
    assert job["create_time"] < job["modify_time"]
    for step in ("sdk.get_by_name", "sdk.get_by_short_id"):
        assert outcomes[step]["job"] == job


def test_get_with_history(outcomes: Outcomes) -> None:
    """`include=history,executions` brings both lists; executions are none."""
    answer = outcomes["sdk.get_with_history"]
    assert [item["event"]["message"] for item in answer["history"]["items"]] == ["Job updated"]
    assert answer["executions"]["items"] == []
    stopped = outcomes["sdk.get_stopped"]
    state = stopped["job"]["state"]
    assert (state["state_type"], state["message"]) == ("Stopped", "bye")
    assert stopped["history"]["items"][-1]["event"]["message"] == "Stopped: bye"


def test_history(outcomes: Outcomes) -> None:
    """`Jobs.history` shows topic, message and time; the SDK's default asks for executions, and gets none."""
    [item] = outcomes["sdk.history"]["items"]
    assert (item["type"], item["event"]["topic"]) == ("JobLevel", "Submission")
    assert item["time"] == item["event"]["timestamp"]
    assert item["job_id"] == outcomes["sdk.put"]["job_id"]
    assert outcomes["sdk.history_of_executions"]["items"] == []
    assert len(outcomes["api.history"]["items"]) == 1


def test_executions_and_results(outcomes: Outcomes) -> None:
    """Both lists exist, and are empty."""
    for step in ("sdk.executions", "sdk.results", "api.executions", "api.results"):
        assert outcomes[step]["items"] == [], step


def test_list(outcomes: Outcomes) -> None:
    """`Jobs.list` pages by the token; `reverse` turns the order round."""
    first, rest = outcomes["sdk.list"], outcomes["sdk.list_next"]
    names = [job["name"] for job in (*first["items"], *rest["items"])]
    assert names == ["from-sdk", "more-0", "more-1", "more-2"]
    assert first["next_token"]
    assert rest["next_token"] == ""
    assert [job["name"] for job in outcomes["sdk.list_reverse"]["items"]] == names[::-1]
    assert "from-api" in outcomes["api.list_names"]


def test_versions(outcomes: Outcomes) -> None:
    """The list without a call in the generated client, through its transport."""
    [version] = outcomes["api.versions"]["Items"]
    assert (version["Name"], version["Version"]) == ("from-api", 1)


def test_stop(outcomes: Outcomes) -> None:
    """`Jobs.stop` returns an evaluation id; a second time it is empty and nothing is written."""
    assert outcomes["sdk.stop"]["evaluation_id"]
    assert outcomes["sdk.stop_again"]["evaluation_id"] == ""


def test_agent(outcomes: Outcomes) -> None:
    """`agentalive` and `agentversion` are answered."""
    assert "OK" in str(outcomes["api.alive"])
    assert outcomes["api.version"]["git_version"].startswith("v")


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        ("error.get_job", 404, "NotFound"),
        ("error.stop_job", 404, "NotFound"),
        ("error.job_history", 404, "NotFound"),
        ("error.job_results", 404, "NotFound"),
        ("error.job_executions", 404, "NotFound"),
        ("error.invalid", 400, "ValidationError"),
        ("error.no_job", 400, "BadRequest"),
        ("error.token", 400, "BadRequest"),
        ("error.order", 400, "BadRequest"),
        ("error.conflict", 412, "ConflictJobRevision"),
        ("error.stop_completed", 409, "ConflictJobState"),
    ],
)
def test_errors(outcomes: Outcomes, step: str, status: int, code: str) -> None:
    """A refusal is an `ApiException` with the status and Bacalhau's fields in its body."""
    refusal = outcomes[step]
    assert refusal["status"] == status
    assert refusal["content_type"] == "application/problem+json"
    body = refusal["body"]
    assert (body["Status"], body["Code"]) == (status, code)
    assert body["Message"] == body["detail"]
    assert body["RequestID"]


def test_the_sdk_prints_the_refusal(outcomes: Outcomes) -> None:
    """With the service's message in it, and returns nothing."""
    assert outcomes["sdk.get_missing"] is None
    assert "(404)" in outcomes["sdk.printed"]
    assert "missing" in outcomes["sdk.printed"]
