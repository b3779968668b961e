"""Blame over HTTP: of all fields, of a part, as of a point; and within its bounds."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from jobledger.service.api import versions
from jobledger.service.blame import Blame
from jobledger.service.wiring import Service
from jobledger.store.model.events import Record
from tests.support.api import ok, running_api, submitted, tag


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """One service for the module; each test has a job of its own."""
    async with running_api(tmp_path_factory.mktemp("api"), {"Jobledger-Actor": "alice"}) as running:
        yield running


@pytest.fixture
def client(api: tuple[Service, httpx.AsyncClient]) -> httpx.AsyncClient:
    return api[1]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_blame_tells_who_set_each_field(client: httpx.AsyncClient) -> None:
    """Who, when, by which event and why; of all fields, of a part, and as of an earlier point."""
    path = await submitted(client, "blamed", 1, 2)
    state = {"StateType": "Running", "Reason": "capacity"}
    ok(await client.put(f"{path}/state", json=state, headers={"Jobledger-Actor": "scheduler"}))
    await tag(client, path, "golden", 1)
    result = ok(await client.get(f"{path}/blame"))
    fields = {item["Path"]: item for item in result["Items"]}
    assert (result["Version"], result["Revision"]) == (2, 3)
    priority = fields["Priority"]
    assert (priority["Value"], priority["Version"], priority["Reason"], priority["Actor"]) == (
        2,
        2,
        "try 2",
        "alice",
    )
    assert (fields["Name"]["Version"], fields["Name"]["EventType"]) == (1, "jobledger.job.created.v1")
    assert (fields["State.StateType"]["Actor"], fields["State.StateType"]["Reason"]) == (
        "scheduler",
        "capacity",
    )
    assert fields["Tags.golden"]["Sequence"] == result["Sequence"]
    image = fields["Tasks[0].Engine.Params.Image"]
    assert image["Pointer"] == "/Tasks/0/Engine/Params/Image"
    assert image["EventID"]
    assert image["Time"].endswith("Z")
    part = ok(await client.get(f"{path}/blame", params={"path": "Tasks[0].Engine"}))
    assert [item["Path"] for item in part["Items"]] == [
        each for each in fields if each.startswith("Tasks[0].Engine.")
    ]
    assert (ok(await client.get(f"{path}/blame", params={"path": "Task"})))["Items"] == []


async def test_blame_at_a_point_is_of_the_job_as_it_was(client: httpx.AsyncClient) -> None:
    """A sequence, a cursor, a revision, a time; a point before the job, or beyond it, is refused."""
    path = await submitted(client, "then")
    history = (ok(await client.get(f"{path}/history?all_job_versions=true")))["Items"]
    second = history[1]
    for at in (str(second["Sequence"]), second["Cursor"], "r2", "revision:2", second["Time"]):
        result = ok(await client.get(f"{path}/blame", params={"at": at, "path": "Priority"}))
        assert (result["Revision"], result["Items"][0]["Value"], result["Items"][0]["Sequence"]) == (
            2,
            2,
            second["Sequence"],
        ), at
    before = str(history[0]["Sequence"] - 1)
    for at, status, words in (
        (before, 404, "did not exist"),
        ("r9", 404, "has no revision 9"),
        ("soon", 400, "use an RFC 3339"),
    ):
        assert words in ok(await client.get(f"{path}/blame", params={"at": at}), status)["detail"]


async def test_a_blame_that_is_too_large_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit it is returned, one byte more is 413, and a part of it is still returned."""
    path = await submitted(client, "large")
    size = len((await client.get(f"{path}/blame")).content)
    monkeypatch.setattr(versions, "BLAME_MAX_BYTES", size)
    ok(await client.get(f"{path}/blame"))
    monkeypatch.setattr(versions, "BLAME_MAX_BYTES", size - 1)
    assert "name a part" in (ok(await client.get(f"{path}/blame"), 413))["detail"]
    ok(await client.get(f"{path}/blame?path=Labels"))


async def test_a_long_history_is_blamed_in_chunks(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is cut, the answer is the same."""
    path = await submitted(client, "chunks", 1, 2, 1, 2, 3)
    whole = (await client.get(f"{path}/blame")).content
    then = (await client.get(f"{path}/blame?at=r3")).content
    sizes: list[int] = []
    add_all = versions._add_all

    def counting(blame: Blame, records: list[Record]) -> None:
        sizes.append(len(records))
        add_all(blame, records)

    monkeypatch.setattr(versions, "_add_all", counting)
    for size in (1, 2, 3):
        monkeypatch.setattr(versions, "BLAME_CHUNK_EVENTS", size)
        sizes.clear()
        assert (await client.get(f"{path}/blame")).content == whole
        assert (sum(sizes), max(sizes)) == (5, size)
        assert (await client.get(f"{path}/blame?at=r3")).content == then
