"""Jobs, ids, names and versions: the behaviours of Bacalhau's `boltdb/store_test.go`, over HTTP."""

import pytest
import pytest_asyncio

from tests.acceptance.api import Api
from tests.acceptance.jobs import make_fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ids(api: Api) -> dict[str, str]:
    return await make_fixture(api)


async def test_get_job(api: Api, ids: dict[str, str]) -> None:
    """TestGetJob: 110 is found; 100 is not (404, with what a client needs to tell it apart)."""
    assert (await api.get(ids["110"]))["Name"] == "110"
    problem = await api.refused("100", 404)
    assert problem["Code"] == "NotFound"
    assert problem["Status"] == problem["status"] == 404
    assert problem["Component"] == "Jobledger"


async def test_short_ids(api: Api, ids: dict[str, str]) -> None:
    """TestShortIDs: none: 404; one job: that; several: 409, with the candidates. Differs: a 500 there."""
    await api.refused("j-00000000", 404)
    assert (await api.get(ids["110"][:12]))["ID"] == ids["110"]
    await api.refused("j-", 404)  # that is no part of an id yet
    beginning = await api.ambiguous()
    problem = await api.refused(beginning, 409)
    assert problem["Code"] == "MultipleJobsFound"
    assert len(problem["Candidates"]) > 1
    assert all(candidate.startswith(beginning) for candidate in problem["Candidates"])


async def test_an_exact_name_is_no_prefix(api: Api) -> None:
    """Short ids. Differs: an exact id or name that begins another one is not ambiguous."""
    for name in ("alpha", "alpha-2"):
        await api.submit(name)
    assert (await api.get("alpha"))["Name"] == "alpha"


async def test_get_job_version(api: Api, ids: dict[str, str]) -> None:
    """TestGetJobVersion: v1 is there; v999 and an unknown job's are not; version 0 is the latest (API)."""
    assert (await api.get(ids["110"], job_version=1))["Version"] == 1
    assert (await api.get(ids["110"], job_version=0))["Version"] == 1
    assert (await api.refused(ids["110"], 404, job_version=999))["Code"] == "NotFound"
    await api.refused("100", 404, job_version=1)


async def test_get_job_version_with_short_id(api: Api, ids: dict[str, str]) -> None:
    """TestGetJobVersionWithShortID: the beginning of the id is enough."""
    assert (await api.get(ids["120"][:12], job_version=1))["ID"] == ids["120"]


async def test_get_job_version_with_multiple_versions(api: Api) -> None:
    """TestGetJobVersionWithMultipleVersions: each version keeps its own labels; v3 is not there."""
    for value in ("1", "2"):
        await api.submit("labelled", Labels={"v": value})
    for version, value in ((1, "1"), (2, "2")):
        assert (await api.get("labelled", job_version=version))["Labels"] == {"v": value}
    await api.refused("labelled", 404, job_version=3)


@pytest.mark.parametrize("version", [-1, 2**64 - 1, "1.5"])
async def test_get_job_version_with_invalid_version(api: Api, ids: dict[str, str], version: object) -> None:
    """TestGetJobVersionWithInvalidVersion. Differs: what can be neither a version nor a tag is a 400."""
    await api.refused(ids["110"], 400, job_version=version)


async def test_get_job_versions(api: Api, ids: dict[str, str]) -> None:
    """TestGetJobVersions (and ShortID, NonExistent): all, ascending, each with its last state."""
    versions = await api.versions(ids["170"])
    assert [(each["Version"], each["State"]["StateType"]) for each in versions] == [
        (1, "Stopped"),
        (2, "Running"),
    ]
    assert [each["Revision"] for each in versions] == [3, 5]
    assert len(await api.versions(ids["110"][:12])) == 1
    await api.versions("100", status=404)


async def test_get_job_versions_multiple_updates(api: Api) -> None:
    """TestGetJobVersionsMultipleUpdates, TestGetLatestJobVersion: 4 updates make 5, the last the latest."""
    for priority in range(5):
        await api.submit("often", Priority=priority)
    versions = await api.versions("often")
    assert [(each["Version"], each.get("Priority", 0)) for each in versions] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
        (5, 4),
    ]
    assert versions[-1] == await api.get("often")


async def test_get_job_by_id_or_name(api: Api) -> None:
    """TestGetJobByIDOrName: by id, by name, by the beginning of the id; neither: 404."""
    made = await api.submit("either", Namespace="team")
    for ref in (made["JobID"], "either", made["JobID"][:12]):
        assert (await api.get(ref, namespace="team"))["ID"] == made["JobID"]
    await api.refused("neither", 404, namespace="team")


async def test_an_id_works_with_any_namespace(api: Api) -> None:
    """TestGetJobByIDOrName: the namespace limits the name only, so a nameless job is found everywhere."""
    made = await api.submit()
    assert (await api.get(made["JobID"], namespace="elsewhere"))["Name"] == made["JobID"]


async def test_a_name_wins_over_an_id(api: Api) -> None:
    """TestGetJobByIDOrName: where a name is another job's id, the name counts."""
    other = await api.submit("first-of-two")
    named = await api.submit(other["JobID"])
    assert named["JobID"] != other["JobID"]
    assert (await api.get(other["JobID"]))["ID"] == named["JobID"]


async def test_get_job_by_name(api: Api) -> None:
    """TestGetJobByName: `default` if none is said; each namespace has its own names; 404 elsewhere."""
    here = await api.submit("twice")
    there = await api.submit("twice", Namespace="team")
    assert here["JobID"] != there["JobID"]
    assert (await api.get("twice"))["ID"] == here["JobID"]
    assert (await api.get("twice", namespace=""))["ID"] == here["JobID"]
    assert (await api.get("twice", namespace="default"))["ID"] == here["JobID"]
    assert (await api.get("twice", namespace="team"))["ID"] == there["JobID"]
    await api.refused("twice", 404, namespace="nowhere")


@pytest.mark.parametrize("name", ["with-dash", "with_underscore", "with.dot", "123", "job-1.2_3"])
async def test_names_with_special_characters(api: Api, name: str) -> None:
    """TestGetJobByName, TestGetJobIDByJobName: `-_.` and digits are fine in names."""
    made = await api.submit(name)
    assert (await api.get(name))["ID"] == made["JobID"]


async def test_names_are_case_sensitive(api: Api) -> None:
    """TestGetJobByName, TestGetJobIDByJobName, TestJobExistsByName: `Hello` is not `hello`."""
    await api.submit("Case")
    await api.refused("case", 404)


async def test_an_empty_name_is_no_job(api: Api) -> None:
    """TestJobExistsByName, TestGetJobIDByJobName, empty name or key: there is nothing to find."""
    await api.call("GET", "/api/v1/orchestrator/jobs/%20", status=404)


async def test_submitting_a_name_again_is_the_same_job(api: Api) -> None:
    """SubmitJob: the same name in a namespace keeps its id and gets a new version."""
    first = await api.submit("again", Priority=1)
    second = await api.submit("again", Priority=2)
    assert first["JobID"] == second["JobID"]
    assert (second["Version"], second["Revision"]) == (2, 2)


async def test_nameless_jobs_never_collide(api: Api) -> None:
    """SubmitJob: a job without a name takes its id as its name."""
    first, second = await api.submit(), await api.submit()
    assert first["JobID"] != second["JobID"]
    assert (await api.get(first["JobID"]))["Name"] == first["JobID"]
