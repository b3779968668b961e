"""Bacalhau's endpoint, model and public API tests, over HTTP: rerun, stop, states, validation, errors."""

from typing import Any

import pytest

from tests.acceptance.api import ROOT, Api
from tests.acceptance.jobs import wire_spec

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATES = ("Pending", "Queued", "Running", "Completed", "Failed", "Stopped")


@pytest.mark.parametrize("state", STATES)
async def test_rerunnable_table(api: Api, state: str) -> None:
    """models/job_test, rerunnable table: Running and the terminal states can be run again, the others not."""
    name = f"rerun-{state}"
    await api.submit(name)
    await api.set_state(name, state)
    if state in {"Pending", "Queued"}:
        problem = await api.rerun(name, status=409)
        assert problem["Code"] == "ConflictJobState"
        return
    answer = await api.rerun(name)
    assert (answer["JobVersion"], answer["Version"]) == (2, 2)
    assert (await api.get(name))["State"]["StateType"] == "Pending"


async def test_rerun_of_what_is_not_there(api: Api) -> None:
    """endpoint_test Rerun, failed look-ups. Differs: 404, where Bacalhau wraps it into a 400."""
    await api.rerun("nothing", status=404)
    await api.submit("once")
    await api.set_state("once", "Running")
    await api.rerun("once", 7, status=404)
    assert (await api.get("once"))["Revision"] == 2  # and nothing is locked or written by a failed one
    assert (await api.rerun("once"))["JobVersion"] == 2


async def test_rerun_keeps_its_reason(api: Api) -> None:
    """RerunJob. Differs: the reason that is given is kept; Bacalhau's history always says `job rerun`."""
    await api.submit("why")
    await api.set_state("why", "Failed")
    await api.rerun("why", reason="the input is complete now")
    items = (await api.history("why"))["Items"]
    assert [item["Reason"] for item in items] == ["the input is complete now"]


async def test_put_get_list_history_executions_results_stop(api: Api) -> None:
    """publicapi/test/job_test: the life of a job. Differs: stopping a completed one is 409, not 500."""
    made = await api.submit("alive", image="busybox")
    job = await api.get(made["JobID"])
    assert job["Tasks"][0]["Engine"] == wire_spec(image="busybox")["Tasks"][0]["Engine"]
    assert "alive" in await api.names()
    for state in ("Running", "Completed"):
        await api.set_state("alive", state)
    items = (await api.history("alive"))["Items"]
    assert {item["JobID"] for item in items} == {made["JobID"]}
    for word in ("executions", "results"):
        assert await api.call("GET", f"{ROOT}/alive/{word}") == {"Items": [], "NextToken": ""}
    assert (await api.stop("alive", status=409))["Code"] == "ConflictJobState"


async def test_stop(api: Api) -> None:
    """StopJob: Stopped, with the reason of the query or the body; again: nothing is written."""
    for name, more in (("by-query", {"reason": "bye"}), ("by-body", {"body": {"reason": "bye"}})):
        await api.submit(name)
        assert (await api.stop(name, **more))["EvaluationID"]
        assert (await api.get(name))["State"] == {"StateType": "Stopped", "Message": "bye"}
        assert (await api.stop(name))["EvaluationID"] == ""
    await api.stop("nothing", status=404)
    await api.submit("failed")
    await api.set_state("failed", "Failed")
    await api.stop("failed", status=409)  # where Bacalhau's guard answers 500


@pytest.mark.parametrize("state", STATES)
async def test_terminal_states_are_final(api: Api, state: str) -> None:
    """UpdateJobState: any state can follow a live one, none a terminal one. Differs: 409, not 500."""
    name = f"final-{state}"
    await api.submit(name)
    await api.set_state(name, state)
    if state not in {"Completed", "Failed", "Stopped"}:
        await api.set_state(name, "Queued", "again")
        return
    problem = await api.set_state(name, "Running", status=409)
    assert problem["Code"] == "ConflictJobState"
    assert "terminal" in problem["Message"]


async def test_expected_revision(api: Api) -> None:
    """ExpectedRevision. Differs: 412 with the revision and the events that were missed, not a bare 500."""
    await api.submit("raced")
    await api.set_state("raced", "Running", revision=1)
    problem = await api.set_state("raced", "Completed", revision=1, status=412)
    assert (problem["Code"], problem["Revision"]) == ("ConflictJobRevision", 2)
    assert [item["Event"]["Message"] for item in problem["Missed"]] == ["Running"]


async def test_states_are_read_in_any_case(api: Api) -> None:
    """States are parsed without case. Differs: an unknown one is refused, not stored as Undefined."""
    await api.submit("cased")
    await api.set_state("cased", "rUNNING")
    assert (await api.get("cased"))["State"]["StateType"] == "Running"
    for word in ("Undefined", "Lost", ""):
        await api.set_state("cased", word, status=400)


@pytest.mark.parametrize(
    ("job_type", "sent", "stored"),
    [
        ("batch", {}, 1),
        ("batch", {"Count": 0}, 0),
        ("batch", {"Count": 3}, 3),
        ("service", {}, 1),
        ("service", {"Count": 0}, 0),
        ("daemon", {}, 0),
        ("daemon", {"Count": 1}, 0),
        ("ops", {}, 0),
        ("ops", {"Count": 1}, 0),
    ],
)
async def test_count(api: Api, job_type: str, sent: dict[str, Any], stored: int) -> None:
    """models/job_test, JSON count handling: missing is 1 for batch and service; others have none."""
    made = await api.submit(Type=job_type, **sent)
    assert (await api.get(made["JobID"]))["Count"] == stored


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Type": ""}, "missing job type"),
        ({"Type": "cron"}, 'invalid job type: "cron"'),
        ({"Count": -1}, "job count must be >= 0"),
        ({"Type": "daemon", "Count": 2}, "ount"),
        ({"Tasks": []}, "missing job tasks"),
        ({"Tasks": [{"Name": "main"}]}, "missing spec type"),
        ({"Constraints": [{"Key": "a", "Operator": "in"}]}, "alues"),
    ],
)
async def test_validation(api: Api, fields: dict[str, Any], message: str) -> None:
    """models/job_test, models/task_test, validation: 400 with Bacalhau's words, and a code that says so."""
    problem = await api.submit("judged", status=400, **fields)
    assert problem["Code"] == "ValidationError"
    assert message in problem["Message"]


async def test_sanitize(api: Api) -> None:
    """models/job_test, sanitize: what the ledger decides is dropped, with one warning each."""
    ignored: dict[str, Any] = {
        "State": {"StateType": "Running"},
        "Version": 7,
        "Revision": 8,
        "CreateTime": 9,
        "ModifyTime": 10,
    }
    answer = await api.submit("clean", ID="mine", Meta={"bacalhau.org/x": "1", "own": "2"}, **ignored)
    job = await api.get("clean")
    assert (job["Version"], job["Revision"], job["State"]["StateType"]) == (1, 1, "Pending")
    assert job["ID"] == answer["JobID"] != "mine"
    assert job["Meta"] == {"own": "2"}
    for word in ("ID", "State", "Version", "Revision", "CreateTime", "ModifyTime", "bacalhau.org/x"):
        assert any(word in warning for warning in answer["Warnings"]), word


async def test_keys_are_read_in_any_case(api: Api) -> None:
    """models: JSON keys are read without case, and written as PascalCase."""
    job = {"name": "lower", "TYPE": "batch", "tasks": [{"name": "main", "engine": {"type": "noop"}}]}
    await api.call("POST", ROOT, body={"job": job})
    assert (await api.get("lower"))["Tasks"][0]["Engine"]["Type"] == "noop"


async def test_unknown_keys(api: Api) -> None:
    """Spec files. Differs: an unknown nested key is not lost: a warning, or with `strict` a 400."""
    body = {"Job": wire_spec("extra", Tasks=[{"Name": "main", "Engine": {"Type": "noop"}, "outputs": []}])}
    answer = await api.call("PUT", ROOT, body=body)
    assert any("outputs" in warning for warning in answer["Warnings"])
    await api.call("PUT", ROOT, status=400, body=body, strict=True)


async def test_errors_have_one_shape(api: Api) -> None:
    """publicapi/middleware/error_handler_test: typed errors, unknown routes, HEAD, the request's id."""
    problem = await api.call("GET", f"{ROOT}/nothing", status=404, headers={"X-Request-ID": "request-7"})
    assert problem["RequestID"] == api.last.headers["x-request-id"] == "request-7"
    assert {"Status", "Message", "Code", "Component", "Hint"} <= problem.keys()
    unknown = await api.call("GET", "/api/v1/nothing", status=404)
    assert (unknown["Code"], unknown["Status"]) == ("NotFound", 404)
    wrong = await api.call("PATCH", ROOT, status=405)
    assert wrong["Code"] == "MethodNotAllowed"
    head = await api.client.head("/api/v1/nothing")
    assert (head.status_code, head.content) == (404, b"")


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b'{"Job": 1}', b'{"Job"', b"\xff", b"[" * 9_000]
)
async def test_a_body_that_is_no_job(api: Api, content: bytes) -> None:
    """Bind failures: 400. Differs: the code is BadRequest or ValidationError, not InternalError."""
    answer = await api.client.put(ROOT, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["Code"] in {"BadRequest", "ValidationError"}
