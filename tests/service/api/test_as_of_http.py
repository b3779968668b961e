"""`?at=` and `/diff` over HTTP: points, pages that stay on them, and what a token may see of the past."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from jobledger.projections.errors import AsOfBusy
from jobledger.service.access.principal import Role
from jobledger.service.cursor import format_cursor
from jobledger.service.limits import VERSIONS_SCANS_MAX
from jobledger.service.wiring import Service
from jobledger.store.timestamps import format_rfc3339
from tests.support.api import client_of, job_body, running_api

DIFF = "http://127.0.0.1/api/v1/diff"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service with eight events:

    1 to 5: the jobs j0 to j4; 6: j0 runs; 7: j1 has a new spec; 8: j0 is completed.
    """  # noqa: D415 - a list
    async with running_api(tmp_path / "data") as (service, client):
        for number in range(5):
            await client.put("/jobs", json=job_body(f"j{number}", Labels={"odd": str(number % 2)}))
        await client.put("/jobs/j0/state", json={"StateType": "Running", "Reason": "go"})
        await client.put("/jobs", json=job_body("j1", Priority=3))
        await client.put("/jobs/j0/state", json={"StateType": "Completed"})
        yield service, client


async def ask(client: httpx.AsyncClient, path: str, code: Any = 200, **query: Any) -> Any:
    """The answer's plain values."""
    answer = await client.get(path, params=query)
    assert answer.status_code == code, answer.text
    return answer.json()


def names(page: dict[str, Any]) -> list[str]:
    """The names on a page."""
    return [item["Name"] for item in page["Items"]]


async def test_every_form_of_a_point_returns_the_job_as_it_was(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """By sequence, cursor, time and revision; with the history up to there, and where that is."""
    service, client = api
    record = await service.log.read_at(6)
    assert record is not None
    for at in (
        "6",
        "7",
        format_cursor(service.stream_tag, 6),
        format_rfc3339(record.time),
        "r2",
        "revision:2",
    ):
        answer = await ask(client, "/jobs/j0", at=at, include="history")
        assert answer["Job"]["State"]["StateType"] == "Running"
        assert answer["Job"]["Revision"] == 2
        assert answer["Sequence"] == (7 if at == "7" else 6)
        assert [item["Revision"] for item in answer["History"]["Items"]] == [1, 2]
        assert answer["History"]["NextToken"] == ""
    before = format_rfc3339(record.time - 1)
    assert (await ask(client, "/jobs/j0", at=before))["Job"]["State"]["StateType"] == "Pending"
    now = await ask(client, "/jobs/j0", at="now")
    assert (now["Job"]["Revision"], now["Sequence"]) == (3, 8)


async def test_the_spec_and_its_versions_are_those_of_the_point(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """The latest version is the one that was it then; a later one was not there."""
    _, client = api
    then = await ask(client, "/jobs/j1", at="6")
    assert (then["Job"]["Version"], then["Job"].get("Priority")) == (1, 0)
    assert (await ask(client, "/jobs/j1", at="7"))["Job"]["Priority"] == 3
    await ask(client, "/jobs/j1", at="6", job_version="2", code=404)
    assert (await ask(client, "/jobs/j1", at="8", job_version="1"))["Job"]["Version"] == 1


@pytest.mark.parametrize(
    ("at", "code", "what"),
    [
        ("0", 404, "did not exist at the sequence 0"),
        ("2000-01-01T00:00:00Z", 404, "did not exist at 2000-01-01T00:00:00.000000000Z: it was created at 2"),
        ("r9", 404, "has no revision 9"),
        ("9", 400, "the log; use one up to 8"),
        ("2199-01-01T00:00:00Z", 400, "in the future"),
        ("0123456789ab-5", 410, "another stream"),
        ("yesterday", 400, "RFC 3339"),
    ],
)
async def test_invalid_points_are_distinguished(
    api: tuple[Service, httpx.AsyncClient], at: str, code: int, what: str
) -> None:
    """Not yet there, not there any more, never there."""
    assert what in (await ask(api[1], "/jobs/j0", at=at, code=code))["detail"]


async def test_a_list_stays_on_its_point_page_by_page(api: tuple[Service, httpx.AsyncClient]) -> None:
    """The token has the point, even if `at` is an age or absent, while new events arrive."""
    _, client = api
    for more in ({}, {"at": "now"}, {"at": "3"}, {"at": "1h"}):
        found, token = [], ""
        query: dict[str, Any] = {"at": "3"}
        while True:
            page = await ask(client, "/jobs", limit=1, next_token=token, **query)
            assert page["Sequence"] == 3
            found += names(page)
            await client.put("/jobs/j0", json=job_body("j0"))
            token, query = page["NextToken"], more
            if not token:
                break
        assert found == ["j0", "j1", "j2"]


async def test_a_token_that_contradicts_the_point_is_refused(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """Rather than one of the two being taken."""
    _, client = api
    token = (await ask(client, "/jobs", at="5", limit=2))["NextToken"]
    result = await ask(client, "/jobs", at="4", limit=2, next_token=token, code=400)
    assert "as of 5, and at is 4" in result["detail"]
    token = (await ask(client, "/jobs", limit=2))["NextToken"]
    assert "without `at`" in (await ask(client, "/jobs", at="4", next_token=token, code=400))["detail"]
    await ask(client, "/jobs", next_token="0123456789ab-5.abc", code=410)


async def test_filters_and_orders_apply_at_any_point(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """State, labels and order are judged as they were."""
    _, client = api
    assert names(await ask(client, "/jobs", at="6", state="running")) == ["j0"]
    assert names(await ask(client, "/jobs", at="5", state="running")) == []
    assert names(await ask(client, "/jobs", at="7", order_by="modified_at", reverse="true"))[:2] == [
        "j1",
        "j0",
    ]
    assert names(await ask(client, "/jobs", at="6", labels="odd=1")) == ["j1", "j3"]
    assert names(await ask(client, "/jobs", at="7", labels="odd=1")) == ["j3"]
    assert names(await ask(client, "/jobs", at="0")) == []


async def test_a_history_ends_at_its_point(api: tuple[Service, httpx.AsyncClient]) -> None:
    """Page by page, and without a token to follow it by."""
    _, client = api
    found, token = [], ""
    while True:
        page = await ask(client, "/jobs/j0/history", at="6", limit=1, next_token=token)
        found += [item["Sequence"] for item in page["Items"]]
        token = page["NextToken"]
        if not token:
            break
    assert found == [1, 6]


async def test_a_request_before_the_snapshot_is_built_gets_retry_after(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """503 with Retry-After, and a code that programs can test."""
    service, client = api
    busy = AsOfBusy("the view as of 5 is being made", retry_after_seconds=5)
    with patch.object(service.asof.snapshots, "_await_build", side_effect=busy):
        answer = await client.get("/jobs", params={"at": "5", "order_by": "modified_at"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["Code"] == "AsOfBusy"


async def test_changes_are_listed_with_who_and_why(api: tuple[Service, httpx.AsyncClient]) -> None:
    """Version, revision and state at both points, the states between them, and each change of the spec."""
    _, client = api
    answer = await ask(client, DIFF, **{"from": "4"})
    assert (answer["From"]["Sequence"], answer["To"]["Sequence"], answer["NextToken"]) == (4, 8, "")
    ran, spec_changed, created = answer["Items"]
    assert (ran["Name"], ran["From"]["Revision"], ran["To"]["Revision"]) == ("j0", 1, 3)
    assert (ran["States"], ran["Changes"]) == (["Running", "Completed"], [])
    assert [(event["Sequence"], event["Reason"]) for event in ran["Events"]] == [(6, "go"), (8, "")]
    assert spec_changed["Changes"] == [
        {"Change": "removed", "Path": "Labels", "Before": {"odd": "1"}},
        {"Change": "added", "Path": "Priority", "After": 3},
    ] or {change["Path"] for change in spec_changed["Changes"]} == {"Labels", "Priority"}
    assert (created["Name"], created["From"], created["To"]["Version"]) == ("j4", None, 1)


async def test_pages_of_a_diff_keep_both_points(api: tuple[Service, httpx.AsyncClient]) -> None:
    """The token has both; events that arrive meanwhile are in none of the pages."""
    _, client = api
    found, query = [], {"from": "0", "to": "7"}
    while True:
        page = await ask(client, DIFF, limit=1, **query)
        found += names(page)
        await client.put("/jobs/j2/state", json={"StateType": "Running"})
        assert page["To"]["Sequence"] == 7
        query = {"next_token": page["NextToken"]}
        if not page["NextToken"]:
            break
    assert found == ["j0", "j1", "j2", "j3", "j4"]


async def test_a_diff_of_one_job_takes_its_revisions(api: tuple[Service, httpx.AsyncClient]) -> None:
    """From one to another; without a job, a revision is not a point."""
    _, client = api
    [item] = (await ask(client, DIFF, **{"from": "r1", "to": "r2"}, job="j0"))["Items"]
    assert [event["Revision"] for event in item["Events"]] == [2]
    assert (await ask(client, DIFF, **{"from": "7", "to": "8"}, job="j1"))["Items"] == []
    assert "needs a job" in (await ask(client, DIFF, **{"from": "r1"}, code=400))["detail"]


async def test_a_diff_of_invalid_points_is_refused(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """A missing start, an end before it, the token of something else."""
    _, client = api
    assert "from is required" in (await ask(client, DIFF, code=400))["detail"]
    assert "swap them" in (await ask(client, DIFF, **{"from": "5", "to": "4"}, code=400))["detail"]
    for token in (
        "5",
        "abc",
        "x.y.z",
        f"{api[0].stream_tag}-1.{api[0].stream_tag}-2.x",
        f"{api[0].stream_tag}-1.5",
    ):
        assert "next_token" in (await ask(client, DIFF, next_token=token, code=400))["detail"]


async def test_specs_that_are_too_large_are_not_compared(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """At the limit they are; the rest of the response is complete either way."""
    _, client = api
    [compared] = (await ask(client, DIFF, **{"from": "6", "to": "7"}))["Items"]
    assert compared["IsCompared"]
    with patch("jobledger.service.api.changes.DIFF_MAX_BYTES", 10):
        [left_out] = (await ask(client, DIFF, **{"from": "6", "to": "7"}))["Items"]
    assert (left_out["IsCompared"], left_out["Changes"], left_out["To"]["Version"]) == (False, [], 2)
    with patch("jobledger.service.api.changes.CHANGES_SHOWN", 1):
        [short] = (await ask(client, DIFF, **{"from": "6", "to": "7"}))["Items"]
    assert (len(short["Changes"]), short["MoreChanges"]) == (1, len(compared["Changes"]) - 1)


async def test_the_past_of_other_namespaces_is_hidden(tmp_path: Path) -> None:
    """At any point, a token sees the jobs, lists and changes of its namespaces, as in the present."""
    async with running_api(tmp_path / "data") as (service, _):

        def client(name: str, role: Role, *namespaces: str) -> httpx.AsyncClient:
            token = service.tokens.create(name=name, role=role, namespaces=namespaces or None)[1]
            return client_of(service, {"Authorization": f"Bearer {token}"})

        root = client("root", Role.ADMIN)
        for namespace, name in (("mine", "a"), ("theirs", "b"), ("ours", "c"), ("mine", "d")):
            await root.put("/jobs", json=job_body(name, Namespace=namespace))
        alice, both = client("alice", Role.READER, "mine"), client("both", Role.READER, "mine", "ours")
        secret = (await ask(root, "/jobs/b", namespace="theirs"))["Job"]["ID"]
        assert names(await ask(alice, "/jobs", at="3")) == ["a"]
        assert names(await ask(both, "/jobs", at="3", namespace="ours")) == ["c"]
        assert names(await ask(alice, DIFF, **{"from": "0", "to": "3"})) == ["a"]
        assert names(await ask(both, DIFF, **{"from": "0"})) == ["a", "c", "d"]
        assert names(await ask(root, DIFF, **{"from": "0"})) == ["a", "b", "c", "d"]
        await ask(alice, "/jobs", at="3", namespace="theirs", code=403)
        await ask(alice, DIFF, **{"from": "0", "namespace": "theirs"}, code=403)
        for path in (f"/jobs/{secret}", f"/jobs/{secret}/history", f"/jobs/{secret}/tags"):
            result = await ask(alice, path, at="3", code=404)
            assert "did not exist" not in result["detail"]
        await ask(alice, DIFF, **{"from": "0", "job": secret}, code=404)


async def test_an_invented_next_token_does_not_wait(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """A point beyond the log is refused at once, and names no file; it took others' turns meanwhile."""
    service, client = api
    valid = (await ask(client, "/jobs", at="8", limit=1))["NextToken"].partition(".")[2]
    beyond = format_cursor(service.stream_tag, 99)
    pair = f"{format_cursor(service.stream_tag, 1)}.{beyond}.0"
    for path, token in (("/jobs", f"{beyond}.{valid}"), (DIFF, pair), ("/jobs/j0/history", f"{beyond}.0")):
        answer = await ask(client, path, code=400, next_token=token)
        assert (
            "next_token is the sequence 99, beyond the end of the log; use one up to 8" in answer["Message"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/jobs/j0", "/jobs/j0/history", "/jobs/j0/tags"])
async def test_the_number_of_concurrent_history_reads_is_limited(
    api: tuple[Service, httpx.AsyncClient], path: str
) -> None:
    """Reads of a job's past take turns, so that many of them do not block writers."""
    service, client = api
    for at in ("r2", "6"):
        async with AsyncExitStack() as taken:
            for number in range(VERSIONS_SCANS_MAX):
                await taken.enter_async_context(service.scans.turn(str(number)))
            asked = asyncio.create_task(ask(client, path, at=at))
            await ask(client, "/jobs/j0")  # a read of the present does not wait
            done, _ = await asyncio.wait({asked}, timeout=0.3)  # long enough for one that does not wait
            assert not done
        await asyncio.wait_for(asked, 30)
