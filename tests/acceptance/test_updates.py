"""New specs for old jobs: Bacalhau's `TestUpdateJob*`, endpoint and integration tests, over HTTP."""

import pytest

from tests.acceptance.api import ROOT, Api
from tests.acceptance.jobs import wire_spec

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_update_job(api: Api) -> None:
    """TestUpdateJob: Version 2, the new values, Pending again, a later ModifyTime, the same CreateTime."""
    await api.submit("basic", Priority=1, Count=1, Labels={"a": "1"}, Meta={"m": "1"})
    await api.set_state("basic", "Running", "on node-1")
    before = await api.get("basic")
    await api.submit("basic", Priority=9, Count=3, Labels={"b": "2"}, Meta={"n": "2"})
    after = await api.get("basic")
    assert (after["Version"], after["Revision"]) == (2, 3)
    assert (after["Priority"], after["Count"]) == (9, 3)
    assert (after["Labels"], after["Meta"]) == ({"b": "2"}, {"n": "2"})
    assert after["State"] == {"StateType": "Pending"}
    assert after["ModifyTime"] > before["ModifyTime"]
    assert after["CreateTime"] == before["CreateTime"]


async def test_update_job_without_an_id(api: Api) -> None:
    """TestUpdateJobWithoutID: there is no such route; the collection's PUT goes by the name."""
    await api.call("PUT", f"{ROOT}/%20", status=404, body={"Job": wire_spec()})


async def test_update_job_that_does_not_exist(api: Api) -> None:
    """TestUpdateJobNonExistent: 404."""
    await api.call("PUT", f"{ROOT}/nothing", status=404, body={"Job": wire_spec()})


async def test_update_cannot_change_name_or_namespace(api: Api) -> None:
    """TestUpdateJobCannotChangeName, …Namespace: 400, and nothing is written."""
    made = await api.submit("fixed")
    route = f"{ROOT}/{made['JobID']}"
    await api.call("PUT", route, status=400, body={"Job": wire_spec("renamed")})
    await api.call("PUT", route, status=400, body={"Job": wire_spec("fixed", Namespace="moved")})
    assert (await api.get("fixed"))["Revision"] == 1


async def test_update_by_id_needs_no_name(api: Api) -> None:
    """PUT /jobs/{id}: name and namespace may be left out of the new spec."""
    made = await api.submit("kept", Namespace="team")
    body = {"Job": wire_spec(Priority=5)}
    answer = await api.call("PUT", f"{ROOT}/{made['JobID']}", body=body)
    assert (answer["JobID"], answer["Version"]) == (made["JobID"], 2)


async def test_version_history(api: Api) -> None:
    """TestUpdateJobVersionHistory: the record of v1 keeps its Priority and ModifyTime; the job is v2."""
    await api.submit("recorded", Priority=1)
    before = await api.get("recorded")
    await api.submit("recorded", Priority=2)
    assert await api.get("recorded", job_version=1) == before
    assert (await api.get("recorded"))["Version"] == 2


async def test_multiple_updates(api: Api) -> None:
    """TestUpdateJobMultipleUpdates: 3 updates: Version 4, 4 versions, the last values."""
    for priority in range(4):
        await api.submit("several", Priority=priority)
    assert (await api.get("several"))["Priority"] == 3
    assert len(await api.versions("several")) == 4


async def test_constraints_and_tasks_are_replaced(api: Api) -> None:
    """TestUpdateJobConstraints, …Tasks: replaced as a whole. A second task is dropped, with a warning."""
    await api.submit("whole", Constraints=[{"Key": "zone", "Operator": "=", "Values": ["a"]}])
    await api.submit("whole", Constraints=[{"Key": "gpu", "Operator": "exists"}])
    assert [each["Key"] for each in (await api.get("whole"))["Constraints"]] == ["gpu"]
    tasks = [{"Name": name, "Engine": {"Type": "noop"}} for name in ("one", "two")]
    answer = await api.submit("whole", Tasks=tasks)
    assert [task["Name"] for task in (await api.get("whole"))["Tasks"]] == ["one"]
    assert any("ask" in warning for warning in answer["Warnings"])


async def test_type_can_change(api: Api) -> None:
    """UpdateJob. Differs: a changed Type is stored; Bacalhau makes a version that keeps the old one."""
    await api.submit("typed", Type="batch")
    await api.submit("typed", Type="service")
    assert (await api.get("typed"))["Type"] == "service"


async def test_invalid_data(api: Api) -> None:
    """TestUpdateJobInvalidData: no tasks: 400; every problem at once, with its path; nothing is written."""
    await api.submit("judged")
    problem = await api.submit("judged", status=400, Tasks=[], Count=-1)
    assert problem["Code"] == "ValidationError"
    assert {each["Path"] for each in problem["Problems"]} == {"Tasks", "Count"}
    assert "missing job tasks" in problem["Message"]
    assert (await api.get("judged"))["Version"] == 1


async def test_every_state_is_left_by_an_update(api: Api) -> None:
    """TestUpdateJobStatePendingReset: a new spec leads out of any state, also a terminal one."""
    for number, state in enumerate(("Queued", "Running", "Completed", "Failed", "Stopped"), 1):
        await api.submit("reset", Priority=number)
        await api.set_state("reset", state)
        await api.submit("reset", Priority=number + 1)
        assert (await api.get("reset"))["State"]["StateType"] == "Pending"


async def test_no_change(api: Api) -> None:
    """endpoint_test Submit, 19_jobs_update: an equal spec. Differs: 200 with a warning, not a 500."""
    first = await api.submit("same", Priority=1)
    again = await api.submit("same", Priority=1)
    assert (again["EvaluationID"], again["Version"], again["Revision"]) == ("", 1, 1)
    assert again["JobID"] == first["JobID"]
    assert "no changes detected for new job spec" in again["Warnings"][-1]


async def test_force(api: Api) -> None:
    """endpoint_test Submit, forced: an equal spec makes a new version all the same."""
    await api.submit("forced")
    answer = await api.submit("forced", force=True)
    assert answer["Version"] == 2
    assert answer["EvaluationID"]


async def test_diff(api: Api) -> None:
    """19_jobs_update, dry run: both texts are shown, nothing is written; no name: 400; no such job: 404."""
    await api.submit("compared", image="ubuntu:1")
    answer = await api.call("PUT", f"{ROOT}/diff", body={"Job": wire_spec("compared", image="ubuntu:2")})
    assert "-" in answer["Diff"]
    assert "ubuntu:1" in answer["Diff"]
    assert "ubuntu:2" in answer["Diff"]
    assert answer["Patch"] == [{"op": "replace", "path": "/Tasks/0/Engine/Params/Image", "value": "ubuntu:2"}]
    assert (await api.get("compared"))["Version"] == 1
    same = await api.call("PUT", f"{ROOT}/diff", body={"Job": wire_spec("compared", image="ubuntu:1")})
    assert (same["Diff"], same["Patch"]) == ("", [])
    await api.call("PUT", f"{ROOT}/diff", status=400, body={"Job": wire_spec()})
    await api.call("PUT", f"{ROOT}/diff", status=404, body={"Job": wire_spec("unknown")})


@pytest.mark.parametrize("job_type", ["batch", "daemon"])
async def test_the_whole_story_of_an_update(api: Api, job_type: str) -> None:
    """19_jobs_update: submit, change, force, rerun, rerun an old version; by id and by name."""
    name = f"story-{job_type}"
    first = await api.submit(name, image="v1", Type=job_type)
    await api.set_state(name, "Running")
    await api.submit(name, image="v2", Type=job_type)
    for ref in (name, first["JobID"]):
        assert (await api.get(ref))["Version"] == 2
        assert (await api.get(ref, job_version=1))["Tasks"][0]["Engine"]["Params"]["Image"] == "v1"
    assert (await api.submit(name, image="v2", Type=job_type, force=True))["Version"] == 3
    await api.set_state(name, "Running")
    assert (await api.rerun(name))["JobVersion"] == 4
    await api.set_state(name, "Running")
    assert (await api.rerun(name, 1))["JobVersion"] == 5
    job = await api.get(name)
    assert job["Tasks"][0]["Engine"]["Params"]["Image"] == "v1"
    assert job["ID"] == first["JobID"]
    assert len(await api.versions(name)) == 5
