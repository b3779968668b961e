"""Versions over HTTP: tags in every place of a version, differences, going back, and blame."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
import pytest
import pytest_asyncio

from jobledger.service.access.principal import Role
from jobledger.service.api import compare
from jobledger.service.wiring import Service
from jobledger.store.model.limits import TAGS_MAX_COUNT
from tests.support.api import client_of, job_body, ok, running_api, submitted, tag


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """One service for the module; each test has a job of its own."""
    async with running_api(tmp_path_factory.mktemp("api"), {"Jobledger-Actor": "alice"}) as running:
        yield running


@pytest.fixture
def client(api: tuple[Service, httpx.AsyncClient]) -> httpx.AsyncClient:
    return api[1]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_tag_is_written_moved_and_removed(client: httpx.AsyncClient) -> None:
    """Each is one event with who and why; version, revision and ETag stay; a repetition gets a warning."""
    path = await submitted(client, "tagged")
    before = await client.get(path)
    result = await tag(client, path, "golden", 2, Reason="proven")
    assert (result["Version"], result["Revision"], result["Warnings"]) == (3, 3, None)
    assert (ok(await client.get(f"{path}/tags")))["Items"] == [{"Tag": "golden", "JobVersion": 2}]
    after = await client.get(path)
    assert (after.content, after.headers["ETag"]) == (before.content, before.headers["ETag"])
    again = await tag(client, path, "golden", 2)
    assert (again["EvaluationID"], again["Warnings"]) == (
        "",
        ["the tag already names this version: nothing was written"],
    )
    await tag(client, path, "golden", 0)  # the latest
    await tag(client, path, "also", "golden")  # what the other names
    assert (ok(await client.get(f"{path}/tags")))["Items"] == [
        {"Tag": "also", "JobVersion": 3},
        {"Tag": "golden", "JobVersion": 3},
    ]
    gone = ok(await client.delete(f"{path}/tags/golden", params={"reason": "no more"}))
    assert gone["Sequence"] > again["Sequence"]
    nothing = ok(await client.delete(f"{path}/tags/golden"))
    assert nothing["Warnings"] == ["the job has no such tag: nothing was written"]
    items = (ok(await client.get(f"{path}/history?all_job_versions=true")))["Items"]
    said = [(item["Tag"], item["TagVersion"], item["Reason"]) for item in items if "Tag" in item]
    assert said == [("golden", 2, "proven"), ("golden", 3, ""), ("also", 3, ""), ("golden", 0, "no more")]
    last = items[-1]
    assert (last["Revision"], last["SeqNum"], last["JobVersion"], last["Actor"]) == (3, 3, 3, "alice")
    assert (last["Event"]["Topic"], last["Event"]["Message"]) == ("Tag", "Tag golden removed")
    assert "Tag" not in items[0]


async def test_a_history_with_tags_is_read_page_by_page(client: httpx.AsyncClient) -> None:
    """Several events of one revision: none is lost between pages, and none comes twice."""
    path = await submitted(client, "paged")
    for name in ("a", "b", "c"):
        await tag(client, path, name, 1)
    ok(await client.put(f"{path}/state", json={"StateType": "Completed"}))
    sequences: list[int] = []
    token = ""
    while True:
        query = {"all_job_versions": "true", "limit": "2", "next_token": token}
        page = ok(await client.get(f"{path}/history", params=query))
        sequences += [item["Sequence"] for item in page["Items"]]
        token = page["NextToken"]
        if not token:
            break
    assert len(sequences) == len(set(sequences)) == 7
    assert sequences == sorted(sequences)


@pytest.mark.parametrize("name", ["golden", "2"])
async def test_a_tag_stands_wherever_a_version_is_asked(client: httpx.AsyncClient, name: str) -> None:
    """Reading a job, its history, a rerun, a difference, a revert: each takes the number or the tag."""
    path = await submitted(client, f"wherever-{name}")
    await tag(client, path, "golden", 2)
    asked = ok(await client.get(path, params={"job_version": name}))
    assert (asked["Job"]["Version"], asked["Job"]["Priority"]) == (2, 2)
    items = (ok(await client.get(f"{path}/history", params={"job_version": name})))["Items"]
    assert {item["JobVersion"] for item in items} == {2}
    difference = ok(await client.get(f"{path}/diff", params={"from": name}))
    assert (difference["From"], difference["To"]) == (2, 3)
    number: int | str = int(name) if name.isdecimal() else name
    ok(await client.put(f"{path}/revert", json={"JobVersion": number}))
    ok(await client.delete(path))
    rerun = ok(await client.put(f"{path}/rerun", json={"JobVersion": number}))
    assert rerun["JobVersion"] == 5
    assert (ok(await client.get(path)))["Job"]["Priority"] == 2


async def test_what_names_no_version_is_refused(client: httpx.AsyncClient) -> None:
    """A tag or a number that there is not is 404; what can be neither is 400; nothing is written."""
    path = await submitted(client, "refused")
    last = (ok(await client.get(f"{path}/history?all_job_versions=true")))["Items"][-1]["Sequence"]
    for name, status in (
        ("golden", 404),
        ("9", 404),
        ("no tag", 400),
        ("-1", 400),
        ("9" * 19, 400),
        ("9" * 5_000, 400),
    ):
        for answer in (
            await client.get(path, params={"job_version": name}),
            await client.get(f"{path}/history", params={"job_version": name}),
            await client.get(f"{path}/diff", params={"from": name}),
            await client.put(f"{path}/revert", json={"JobVersion": name}),
            await client.put(f"{path}/rerun", json={"JobVersion": name}),
            await client.put(f"{path}/tags/other", json={"JobVersion": name}),
        ):
            problem = ok(answer, status)
            assert problem["status"] == status, (name, answer.url)
    wrong: Any
    for wrong in (1.5, True, [], -1, 2**63):
        ok(await client.put(f"{path}/revert", json={"JobVersion": wrong}), 400)
    ok(await client.put(f"{path}/revert", json={}), 400)
    ok(await client.get(f"{path}/diff"), 400)
    for name in ("3", "no tag", "a" * 65, "%20"):
        assert (
            "invalid tag"
            in (ok(await client.put(f"{path}/tags/{name}", json={"JobVersion": 1}), 400))["detail"]
        )
    history = ok(await client.get(f"{path}/history?all_job_versions=true"))
    assert history["Items"][-1]["Sequence"] == last


async def test_the_number_of_tags_is_bounded(client: httpx.AsyncClient) -> None:
    """The one too many is a conflict that says what to do."""
    path = await submitted(client, "many", 1)
    for number in range(TAGS_MAX_COUNT):
        await tag(client, path, f"t{number}", 1)
    problem = ok(await client.put(f"{path}/tags/more", json={"JobVersion": 1}), 409)
    assert "remove one first" in problem["detail"]


async def test_conditions_and_keys_hold_for_tags_and_reverts(client: httpx.AsyncClient) -> None:
    """`If-Match` is checked, and the same key again writes nothing, also once the tag it named is gone."""
    path = await submitted(client, "held")
    for method, end, body in (
        ("PUT", "/tags/golden", {"JobVersion": 1}),
        ("PUT", "/revert", {"JobVersion": 1}),
    ):
        stale = await client.request(method, f"{path}{end}", json=body, headers={"If-Match": '"2"'})
        assert [item["Revision"] for item in (ok(stale, 412))["Missed"]] == [3]
    fresh = await client.put(f"{path}/tags/golden", json={"JobVersion": 1}, headers={"If-Match": '"3"'})
    assert (ok(fresh))["Revision"] == 3
    key = {"Idempotency-Key": "revert-once", "If-Match": '"3"'}
    first = await client.put(f"{path}/revert", json={"JobVersion": "golden"}, headers=key)
    assert (ok(first))["Revision"] == 4
    ok(await client.delete(f"{path}/tags/golden"))
    again = await client.put(f"{path}/revert", json={"JobVersion": "golden"}, headers=key)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")


async def test_a_condition_on_the_history_sees_a_tag(client: httpx.AsyncClient) -> None:
    """The job itself is unchanged, 304; with its history it is not, since that has grown."""
    path = await submitted(client, "cached")
    header = {"If-None-Match": (await client.get(path)).headers["ETag"]}
    await tag(client, path, "golden", 1)
    assert (await client.get(path, headers=header)).status_code == 304
    with_history = ok(await client.get(path, params={"include": "history"}, headers=header))
    assert with_history["History"]["Items"][-1]["Tag"] == "golden"


async def test_a_revert_is_a_new_version_with_the_old_spec(client: httpx.AsyncClient) -> None:
    """The default reason names the version; the spec is the old one, byte for byte; again writes nothing."""
    path = await submitted(client, "reverted")
    result = ok(await client.put(f"{path}/revert", json={"JobVersion": 1}))
    assert (result["Version"], result["Revision"]) == (4, 4)
    found = ok(await client.get(f"{path}/versions"))
    old, new = (msg for msg in (found["Items"][0], found["Items"][3]))
    assert {key: old[key] for key in ("Priority", "Labels", "Tasks")} == {
        key: new[key] for key in ("Priority", "Labels", "Tasks")
    }
    assert new["State"]["StateType"] == "Pending"
    assert found["Versions"][3]["Reason"] == "reverted to version 1"
    again = ok(await client.put(f"{path}/revert", json={"JobVersion": 1}))
    assert again["Warnings"] == ["the job already has the spec of that version: nothing was written"]
    await tag(client, path, "second", 2)
    ok(await client.put(f"{path}/revert", json={"JobVersion": "second"}))
    ok(await client.put(f"{path}/revert", json={"JobVersion": 3, "Reason": "mine"}))
    facts = (ok(await client.get(f"{path}/versions")))["Versions"]
    assert [each["Reason"] for each in facts[4:]] == ["reverted to version 2 (second)", "mine"]


async def test_versions_tell_who_when_why_and_their_tags(client: httpx.AsyncClient) -> None:
    """Of the event that brought each; a tag on an old version moves neither its state nor its times."""
    path = await submitted(client, "versions")
    before = (ok(await client.get(f"{path}/versions")))["Items"]
    await tag(client, path, "b", 1)
    await tag(client, path, "a", 1)
    await tag(client, path, "c", 3)
    found = ok(await client.get(f"{path}/versions"))
    assert found["Items"] == before
    await submitted(client, "versions", 4)
    later = ok(await client.get(f"{path}/versions"))
    assert later["Items"][:3] == before
    result = [(each["Version"], each["Tags"], each["Actor"], each["Reason"]) for each in found["Versions"]]
    assert result == [
        (1, ["a", "b"], "alice", "try 1"),
        (2, [], "alice", "try 2"),
        (3, ["c"], "alice", "try 3"),
    ]
    assert [each["EventType"].split(".")[2] for each in found["Versions"]] == [
        "created",
        "updated",
        "updated",
    ]
    page = ok(await client.get(f"{path}/versions?limit=1&next_token=1"))
    assert [each["Version"] for each in page["Versions"]] == [2]


async def test_two_versions_are_compared_place_by_place(client: httpx.AsyncClient) -> None:
    """As text, as a patch that another library applies, and as changes; in either direction."""
    path = await submitted(client, "compared")
    result = ok(await client.get(f"{path}/diff?from=1&to=3"))
    assert result["Changes"] == [
        {"Change": "changed", "Path": "Priority", "Before": 1, "After": 3},
        {"Change": "changed", "Path": "Labels.v", "Before": "1", "After": "3"},
    ]
    assert result["Diff"].startswith("--- version 1\n+++ version 3\n")
    old, new = [
        ok(await client.get(f"{path}?job_version={number}"))["Job"] | {"State": {}} for number in (1, 3)
    ]
    counters = {key: new[key] for key in ("Version", "Revision", "ModifyTime")}
    assert jsonpatch.apply_patch(old, result["Patch"]) | counters == new
    back = ok(await client.get(f"{path}/diff?from=3&to=1"))
    assert [(each["Before"], each["After"]) for each in back["Changes"]] == [(3, 1), ("3", "1")]
    same = ok(await client.get(f"{path}/diff?from=2&to=2"))
    assert (same["Changes"], same["Patch"], same["Diff"]) == ([], [], "")


async def test_long_versions_are_not_compared(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte over the limit is 413, and says which version it is."""
    path = await submitted(client, "long")
    monkeypatch.setattr(compare, "DIFF_MAX_BYTES", 10)
    problem = ok(await client.get(f"{path}/diff?from=1"), 413)
    assert problem["detail"].startswith("version 1 has ")


async def test_tags_and_reverts_are_for_writers_of_the_namespace(tmp_path: Path) -> None:
    """A reader reads versions, differences and blame; who is of another namespace learns nothing."""
    async with running_api(tmp_path / "service") as (service, open_client):
        ok(await open_client.put("/jobs", json=job_body(Namespace="mine")))

        def of(name: str, role: Role, namespace: str) -> httpx.AsyncClient:
            text = service.tokens.create(name=name, role=role, namespaces=(namespace,))[1]
            return client_of(service, {"Authorization": f"Bearer {text}"})

        writer, reader, other = (
            of("w", Role.WRITER, "mine"),
            of("r", Role.READER, "mine"),
            of("o", Role.WRITER, "x"),
        )
        path = "/jobs/etl"
        writes: tuple[tuple[str, str, dict[str, Any], int], ...] = (
            ("PUT", f"{path}/tags/golden?namespace=mine", {"JobVersion": 1}, 200),
            ("PUT", f"{path}/revert?namespace=mine", {"JobVersion": "golden"}, 200),
            ("DELETE", f"{path}/tags/golden?namespace=mine", {}, 200),
        )
        reads = ("versions", "tags", "diff?from=1", "blame")
        async with writer, reader, other:
            for method, where, body, status in writes:
                assert (await reader.request(method, where, json=body)).status_code == 403
                assert (await other.request(method, where, json=body)).status_code == 404
                assert (await writer.request(method, where, json=body)).status_code == status
            for each in reads:
                where = f"{path}/{each}{'&' if '?' in each else '?'}namespace=mine"
                assert (await reader.get(where)).status_code == 200
                assert (await other.get(where)).status_code == 404


async def test_a_tag_of_another_replica_is_known_to_a_write_at_once(tmp_path: Path) -> None:
    """A write resolves tags in the log, because this view may be stale."""
    async with running_api(tmp_path / "a") as (first, one):
        assert first.server is not None
        async with running_api(tmp_path / "b", nats_url=first.server.url) as (second, other):
            path = await submitted(one, "etl")
            ok(await other.get(f"{path}?wait_for=3"))
            await second.projector.stop()  # this replica applies nothing more
            await tag(one, path, "golden", 1)
            ok(await other.get(f"{path}?job_version=golden"), 404)
            await tag(other, path, "also", "golden")
            assert (await first.ledger.load(path.rpartition("/")[2])).status.tags == {"also": 1, "golden": 1}
            result = ok(await other.put(f"{path}/revert", json={"JobVersion": "golden"}))
            assert (result["Version"], result["Revision"]) == (4, 4)
