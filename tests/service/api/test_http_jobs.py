"""Jobs over HTTP: the results of writes, what reads see, and what conflicts report."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings, strategies as st

from jobledger import Ledger, State, StateType, named_job_id
from jobledger.service import own_writes
from jobledger.service.api import compare, jobs
from jobledger.service.wiring import Service
from jobledger.store.model.events import Record
from tests.support.api import job_body, ok, running_api

ID = named_job_id("default", "etl")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """One service for the module; each test has a namespace of its own."""
    async with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def client(api: tuple[Service, httpx.AsyncClient]) -> httpx.AsyncClient:
    return api[1]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def submit(client: httpx.AsyncClient, namespace: str, **fields: Any) -> dict[str, Any]:
    answer = await client.put("/jobs", json=job_body(Namespace=namespace, **fields))
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def test_every_write_tells_where_it_stands(client: httpx.AsyncClient) -> None:
    """Id, version, revision, sequence and cursor in the body; the revision as a strong ETag."""
    created = await submit(client, "team")
    assert created["JobID"] == named_job_id("team", "etl")
    assert (created["Version"], created["Revision"], created["Warnings"]) == (1, 1, None)
    path = f"/jobs/{created['JobID']}"
    state = await client.put(f"{path}/state", json={"StateType": "running", "Message": "go"})
    assert (state.headers["ETag"], state.json()["Version"], state.json()["Revision"]) == ('"2"', 1, 2)
    updated = await client.put(path, json=job_body(Namespace="team", Priority=2))
    assert (updated.headers["ETag"], updated.json()["Version"], updated.json()["Revision"]) == ('"3"', 2, 3)
    stopped = await client.delete(path, params={"reason": "too dear"})
    rerun = await client.put(f"{path}/rerun", json={"JobVersion": 1})
    assert (rerun.json()["JobVersion"], rerun.json()["Revision"]) == (3, 5)
    sequences = [answer.json()["Sequence"] for answer in (state, updated, stopped, rerun)]
    assert sequences == sorted({created["Sequence"], *sequences})[1:]
    assert rerun.json()["Cursor"].endswith(f"-{sequences[-1]}")
    history = (await client.get(f"{path}/history", params={"all_job_versions": "true"})).json()["Items"]
    assert [item["EventID"] for item in history] == [
        result["EvaluationID"]
        for result in (created, *(answer.json() for answer in (state, updated, stopped, rerun)))
    ]


async def test_a_history_is_filtered_by_type_and_actor(client: httpx.AsyncClient) -> None:
    """In both directions, page by page, and with the job; an unknown type is refused."""
    path = f"/jobs/{(await submit(client, 'default', Name='etl'))['JobID']}"
    for number in range(6):
        state = "Running" if number % 2 else "Queued"
        actor = {"Jobledger-Actor": ("ci-prod", "ci-test", "alice")[number % 3]}
        ok(await client.put(f"{path}/state", json={"StateType": state}, headers=actor))
    for query, revisions in (
        ({"type": "created"}, [1]),
        ({"type": "jobledger.job.state.v1"}, [2, 3, 4, 5, 6, 7]),
        ({"actor": "ci-*"}, [2, 3, 5, 6]),
        ({"actor": "ci"}, []),
        ({"actor": "alice", "type": "state,updated"}, [4, 7]),
    ):
        for reverse in ("false", "true"):
            found: list[int] = []
            token = ""
            while len(found) <= 7:
                asked = {"all_job_versions": "true", "reverse": reverse, "limit": "2", "next_token": token}
                page = ok(await client.get(f"{path}/history", params={**asked, **query}))
                found += [item["Revision"] for item in page["Items"]]
                token = page["NextToken"]
                if not token or not page["Items"]:
                    break
            assert (found[::-1] if reverse == "true" else found) == revisions, query
        shown = ok(await client.get(path, params={"include": "history", **query}))
        assert [item["Revision"] for item in shown["History"]["Items"]] == revisions
    assert (await client.get(f"{path}/history", params={"type": "nothing"})).status_code == 400


async def test_a_read_sees_what_this_service_has_acknowledged(client: httpx.AsyncClient) -> None:
    """Without `wait_for`: a client that creates a job and reads it at once must not get 404."""
    for number in range(20):
        result = await submit(client, "own", Name=f"job-{number}")
        assert (await client.get(f"/jobs/{result['JobID']}")).status_code == 200
        listed = (await client.get("/jobs", params={"namespace": "own"})).json()
        assert len(listed["Items"]) == number + 1


async def test_a_job_that_was_answered_here_is_not_read_from_a_view_that_lacks_it(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created, changed, or named in a 412: read from the log; any other job from the view."""
    service, client = api
    for name in ("changed", "raced", "other"):
        await submit(client, "lag", Name=name)
    await client.get("/jobs")  # the view has them
    go_on, project = asyncio.Event(), service.projector._project

    async def held(records: Sequence[Record]) -> None:
        await go_on.wait()
        await project(records)

    monkeypatch.setattr(own_writes, "OWN_WRITE_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(service.projector, "_project", held)
    running, where = {"StateType": "Running"}, {"namespace": "lag"}
    try:
        await submit(client, "lag", Name="created")
        assert (await client.put("/jobs/changed/state", json=running, params=where)).status_code == 200
        elsewhere = Ledger(service.log)
        for name in ("raced", "other"):
            await elsewhere.set_state(named_job_id("lag", name), State(StateType.RUNNING))
        late = await client.put("/jobs/raced/state", json=running, params=where, headers={"If-Match": '"1"'})
        assert (late.status_code, late.json()["Revision"]) == (412, 2)
        for name, revision in (("created", 1), ("changed", 2), ("raced", 2), ("other", 1)):
            read = await client.get(f"/jobs/{name}", params=where)
            assert read.status_code == 200, read.text
            assert (name, read.json()["Job"]["Revision"]) == (name, revision)
        assert (await client.get("/jobs/never", params=where)).status_code == 404
    finally:
        go_on.set()
    position = {**where, "wait_for": str(late.json()["Sequence"])}
    assert (await client.get("/jobs/raced", params=position)).json()["Job"]["Revision"] == 2


async def test_of_two_writers_with_if_match_exactly_one_wins(client: httpx.AsyncClient) -> None:
    """The other one gets 412, the current revision, and the events that it missed."""
    job_id = (await submit(client, "race"))["JobID"]
    for revision in range(1, 11):
        answers = await asyncio.gather(
            *(
                client.put(
                    f"/jobs/{job_id}/state",
                    json={"StateType": "Running", "Message": f"{writer} at {revision}"},
                    headers={"If-Match": f'"{revision}"'},
                )
                for writer in ("a", "b")
            )
        )
        won, lost = sorted(answers, key=lambda answer: answer.status_code)
        assert (won.status_code, lost.status_code) == (200, 412)
        problem = lost.json()
        assert (problem["Code"], problem["Revision"]) == ("ConflictJobRevision", revision + 1)
        assert problem["Sequence"] == won.json()["Sequence"]
        [missed] = problem["Missed"]
        assert (missed["EventID"], missed["Revision"]) == (won.json()["EvaluationID"], revision + 1)


async def test_if_none_match_creates_and_never_updates(client: httpx.AsyncClient) -> None:
    """`If-None-Match: *`: the job must not exist."""
    body, headers = job_body(Namespace="new"), {"If-None-Match": "*"}
    assert (await client.put("/jobs", json=body, headers=headers)).status_code == 200
    again = await client.put("/jobs", json=job_body(Namespace="new", Priority=9), headers=headers)
    assert again.status_code == 412
    both = await client.put("/jobs", json=body, headers={**headers, "If-Match": '"1"'})
    assert both.status_code == 400


async def test_an_unchanged_spec_writes_nothing_unless_forced(client: httpx.AsyncClient) -> None:
    """Where Bacalhau answers 500, this is a 200 with a warning; `Force` makes a new version."""
    await submit(client, "same")
    again = (await client.post("/jobs", json=job_body(Namespace="same"))).json()
    assert (again["EvaluationID"], again["Revision"]) == ("", 1)
    assert "no changes detected" in again["Warnings"][0]
    forced = (await client.put("/jobs", json={**job_body(Namespace="same"), "force": True})).json()
    assert (forced["Version"], forced["Revision"], forced["Warnings"]) == (2, 2, None)


async def test_unknown_keys_are_told_or_refused_but_never_lost(client: httpx.AsyncClient) -> None:
    """A warning with the path; with `?strict=true` a 400 with every problem."""
    body = job_body(Namespace="keys", Constraits=[])
    result = (await client.put("/jobs", json=body)).json()
    assert "Constraits: not a field of Job; did you mean `Constraints`?" in result["Warnings"][0]
    strict = await client.put("/jobs?strict=true", json=body)
    assert strict.status_code == 400
    assert [problem["Path"] for problem in strict.json()["Problems"]] == ["Constraits"]


async def test_a_slip_in_a_field_of_the_body_is_told(client: httpx.AsyncClient) -> None:
    """`Mesage` must not lose the message without a word; with `strict` nothing is written."""
    job_id = (await submit(client, "slips"))["JobID"]
    body = {"StateType": "Running", "Mesage": "typo", "Credential": {}}
    strict = await client.put(f"/jobs/{job_id}/state?strict=true", json=body)
    assert strict.status_code == 400
    result = (await client.put(f"/jobs/{job_id}/state", json=body)).json()
    assert result["Warnings"] == ["mesage: not a field of this request; did you mean `Message`?"]
    assert result["Revision"] == 2


async def test_the_history_of_a_version_that_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    """An empty page would say that nothing happened to it."""
    job_id = (await submit(client, "noversion"))["JobID"]
    assert (await client.get(f"/jobs/{job_id}/history?job_version=1")).status_code == 200
    assert (await client.get(f"/jobs/{job_id}/history?job_version=2")).status_code == 404


async def test_a_read_that_is_known_already_is_not_sent_again(client: httpx.AsyncClient) -> None:
    """`If-None-Match` with the ETag gives 304, until the job changes."""
    job_id = (await submit(client, "known"))["JobID"]
    first = await client.get(f"/jobs/{job_id}")
    headers = {"If-None-Match": first.headers["ETag"]}
    assert (await client.get(f"/jobs/{job_id}", headers=headers)).status_code == 304
    await client.delete(f"/jobs/{job_id}")
    assert (await client.get(f"/jobs/{job_id}", headers=headers)).status_code == 200


async def test_a_version_is_read_with_its_spec_and_the_state_it_was_left_in(
    client: httpx.AsyncClient,
) -> None:
    """Also the revision and the modify time are that version's last ones."""
    job_id = (await submit(client, "versions", Priority=1))["JobID"]
    await client.put(f"/jobs/{job_id}/state", json={"StateType": "Failed", "Message": "disk full"})
    await submit(client, "versions", Priority=2)
    versions = (await client.get(f"/jobs/{job_id}/versions")).json()["Items"]
    result = [
        (job["Version"], job["Revision"], job["Priority"], job["State"]["StateType"]) for job in versions
    ]
    assert result == [(1, 2, 1, "Failed"), (2, 3, 2, "Pending")]
    first = (await client.get(f"/jobs/{job_id}", params={"job_version": 1})).json()["Job"]
    assert first == versions[0]
    assert first["State"]["Message"] == "disk full"
    assert (await client.get(f"/jobs/{job_id}", params={"job_version": 9})).status_code == 404
    page = (await client.get(f"/jobs/{job_id}/versions", params={"limit": 1})).json()
    rest = (
        await client.get(f"/jobs/{job_id}/versions", params={"limit": 1, "next_token": page["NextToken"]})
    ).json()
    assert ([*page["Items"], *rest["Items"]], rest["NextToken"]) == (versions, "")


async def test_a_history_without_a_limit_has_a_page_and_with_0_the_longest(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in docs/API.md; the rest follows with the token."""
    job_id = (await submit(client, "pages"))["JobID"]
    for number in range(4):
        await client.put(f"/jobs/{job_id}/state", json={"StateType": "Running", "Message": str(number)})
    monkeypatch.setattr(jobs, "HISTORY_DEFAULT_LIMIT", 2)
    monkeypatch.setattr(jobs, "HISTORY_MAX_LIMIT", 4)
    for query, status, items in (
        ("", 200, 2),
        ("?limit=0", 200, 4),
        ("?limit=4", 200, 4),
        ("?limit=5", 400, 0),
    ):
        answer = await client.get(f"/jobs/{job_id}/history{query}")
        assert (answer.status_code, len(answer.json().get("Items", ()))) == (status, items), query


async def test_a_diff_tells_what_submitting_would_change(client: httpx.AsyncClient) -> None:
    """As text and as a JSON patch; nothing is written."""
    result = await submit(client, "diff", Priority=1)
    answer = (await client.put("/jobs/diff", json=job_body(Namespace="diff", Priority=5))).json()
    assert '-  "Priority": 1,' in answer["Diff"]
    assert answer["Patch"] == [{"op": "replace", "path": "/Priority", "value": 5}]
    same = (await client.put("/jobs/diff", json=job_body(Namespace="diff", Priority=1))).json()
    assert (same["Diff"], same["Patch"]) == ("", [])
    assert (await client.get(f"/jobs/{result['JobID']}")).json()["Job"]["Revision"] == 1
    assert (await client.put("/jobs/diff", json=job_body("none"))).status_code == 404
    new = (await client.put("/jobs/diff?compare=true", json=job_body("none"))).json()
    assert new["Version"] == 0
    assert {"Change": "added", "Path": "Name", "After": "none"} in new["Changes"]
    assert (await client.put("/jobs/diff", json=job_body(""))).status_code == 400


@pytest.mark.parametrize("name", ["diff", "state", "a/b", "/", "//", "x/diff", "..%2F", "wait"])
async def test_a_job_of_any_name_is_reached_like_any_other(client: httpx.AsyncClient, name: str) -> None:
    """Fixed paths next to `{id}` and slashes in names hide no job."""
    path = f"/jobs/{quote(name, safe='')}"
    result = (await client.put("/jobs", json=job_body(name))).json()
    assert (await client.get(path)).json()["Job"]["ID"] == result["JobID"]
    updated = await client.put(path, json=job_body(name, Priority=7))
    assert (updated.status_code, updated.json()["Revision"]) == (200, 2)
    assert (await client.put(f"{path}/state", json={"StateType": "Running"})).json()["Revision"] == 3
    assert len((await client.get(f"{path}/versions")).json()["Items"]) == 2
    assert (await client.get(f"{path}/wait?state=running&timeout=1s")).status_code == 200
    assert (await client.delete(path)).json()["Revision"] == 4
    compared = await client.put("/jobs/diff?compare=true", json=job_body(name, Priority=9))
    assert '"Priority": 9' in compared.json()["Diff"]
    for version in ("v1.9.3", ""):  # sent by Bacalhau's clients, also by a build without a version
        bacalhau = {"X-Bacalhau-Git-Version": version}
        answer = await client.put("/jobs/diff", json=job_body(name, Priority=9), headers=bacalhau)
        assert "Diff" in answer.json()
    assert (await client.get(path)).json()["Job"]["Revision"] == 4


async def test_long_specs_are_not_compared(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit they are; one byte over it the answer is 413, with which one it is."""
    service, client = api
    await submit(client, "long")
    await service.own_writes.visible()
    size = len((await service.view.get_by_name("long", "etl")).spec)
    for limit, status in ((size, 200), (size - 1, 413)):
        monkeypatch.setattr(compare, "DIFF_MAX_BYTES", limit)
        answer = await client.put("/jobs/diff", json=job_body(Namespace="long"))
        assert answer.status_code == status, answer.text
    assert answer.json()["detail"].startswith(f"the present spec has {size} bytes")


async def test_a_job_of_another_replica_can_be_changed_before_this_view_has_it(tmp_path: Path) -> None:
    """A write looks into the log before it answers "not found"; a read waits with `wait_for`."""
    async with running_api(tmp_path / "a") as (first, one):
        assert first.server is not None
        async with running_api(tmp_path / "b", nats_url=first.server.url) as (second, other):
            await second.projector.stop()  # this replica applies nothing more
            result = (await one.put("/jobs", json=job_body())).json()
            assert (await other.get("/jobs/etl")).status_code == 404
            for ref in ("etl", result["JobID"]):
                answer = await other.put(f"/jobs/{ref}/state", json={"StateType": "Running", "Message": ref})
                assert answer.status_code == 200, answer.text
            await second.projector.start()
            read = await other.get(f"/jobs/etl?wait_for={answer.json()['Cursor']}")
            assert read.json()["Job"]["Revision"] == 3


@pytest.mark.parametrize(
    "path",
    [
        "/jobs?wait_for={}",
        "/jobs/{job_id}?wait_for={}",
        "/jobs/{job_id}/wait?state=Pending&wait_for={}",
        "/jobs/{job_id}/history?next_token={}",
    ],
)
async def test_a_position_of_another_stream_is_gone(client: httpx.AsyncClient, path: str) -> None:
    """410 wherever one is taken: its sequence means another event here."""
    job_id = (await submit(client, "gone"))["JobID"]
    answer = await client.get(path.format("0123456789ab-1", job_id=job_id))
    assert (answer.status_code, answer.json()["Code"]) == (410, "CursorGone")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
bodies = st.one_of(
    st.binary(max_size=40),
    json_values.map(msgspec.json.encode),
    st.fixed_dictionaries({"Job": json_values}).map(msgspec.json.encode),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("StateType", "Message", "Details", "Reason", "JobVersion"), json_values)
    ).map(msgspec.json.encode),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=bodies,
    route=st.sampled_from(
        [
            ("PUT", "/jobs"),
            ("PUT", "/jobs/diff"),
            ("PUT", "/jobs/x"),
            ("PUT", "/jobs/x/state"),
            ("DELETE", "/jobs/x"),
        ]
    ),
)
async def test_no_body_makes_a_server_error(
    client: httpx.AsyncClient, body: bytes, route: tuple[str, str]
) -> None:
    """Every malformed request gets a response with the reason."""
    method, path = route
    answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text
    assert "json" in answer.headers["Content-Type"]
