"""Events as pages: the same documents as the live feed, complete, each once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.access.principal import Role, local_principal
from jobledger.service.api.events import operations
from jobledger.service.api.request import Request
from jobledger.service.errors import NotReady
from jobledger.service.feed.hub import FeedConnection
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body, ok
from tests.support.web_pages import running_ui


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def put(client: httpx.AsyncClient, name: str, **fields: Any) -> int:
    return int(ok(await client.put(paths.JOBS, json=job_body(name, **fields)))["Sequence"])


async def page(client: httpx.AsyncClient, **query: str) -> dict[str, Any]:
    found: dict[str, Any] = ok(await client.get(paths.EVENTS_PAGE, params=query))
    return found


def sequences(found: dict[str, Any]) -> list[int]:
    return [int(each["sequence"]) for each in found["Items"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_have_every_event_once(api: tuple[Service, httpx.AsyncClient], limit: int) -> None:
    """Oldest first; the cursor of the last page is the end of the log."""
    service, client = api
    for number in range(5):
        last = await put(client, f"job-{number}", Labels={"n": str(number % 2), "data: ": "\ndata: "})
    found: list[int] = []
    after = "0"
    while not after.endswith(f"-{last}"):
        part = await page(client, after=after, limit=str(limit), wait_for=str(last))
        assert len(part["Items"]) <= limit
        assert part["Cursor"] == f"{service.stream_tag}-{part['Sequence']}"
        found, after = found + sequences(part), part["Cursor"]
    assert found == [1, 2, 3, 4, 5]
    assert sequences(await page(client, labels="n=1", wait_for=str(last))) == [2, 4]
    assert (await page(client, labels="n=1"))["Items"][0]["matches"] == "after"


async def test_a_page_of_rare_events_ends_early(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a limited number of reads it has what was found, and the cursor to continue."""
    _, client = api
    for number in range(3):
        last = await put(client, f"job-{number}")
    monkeypatch.setattr("jobledger.service.api.events.EVENTS_PAGE_READS", 0)
    found = await page(client, after="1", wait_for=str(last))
    assert (found["Items"], found["Sequence"]) == ([], 1)
    monkeypatch.setattr("jobledger.service.api.events.EVENTS_PAGE_READS", 1)
    assert sequences(await page(client, after=found["Cursor"])) == [2, 3]


@pytest.mark.parametrize("bound", ["EVENTS_PAGE_READS", "EVENTS_PAGE_SECONDS"])
async def test_a_filter_that_matches_nothing_does_not_read_the_whole_log(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Each read of the log counts, also one without a match; the page then ends with the cursor."""
    service, client = api
    for number in range(4):
        last = await put(client, f"job-{number}")
    await service.projector.wait_for(last, 10)
    service.hub.ring.restart(last)  # so that all events are read from the log
    monkeypatch.setattr("jobledger.service.feed.catchup.READ_PAGE_EVENTS", 1)
    monkeypatch.setattr(f"jobledger.service.api.events.{bound}", 2 if bound == "EVENTS_PAGE_READS" else 0)
    found = await page(client, state="Failed")
    assert (found["Items"], found["Sequence"]) == ([], 2 if bound == "EVENTS_PAGE_READS" else 1)
    seen = found["Sequence"]
    while seen < last:
        found = await page(client, state="Failed", after=found["Cursor"])
        assert seen < found["Sequence"] <= last
        seen = found["Sequence"]


async def test_a_page_ends_when_its_client_disconnects(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further read of the log, and its turn is free."""
    service, client = api
    for number in range(4):
        last = await put(client, f"job-{number}")
    await service.projector.wait_for(last, 10)
    service.hub.ring.restart(last)
    monkeypatch.setattr("jobledger.service.feed.catchup.READ_PAGE_EVENTS", 1)
    reads = 0
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    take = FeedConnection._take

    async def counted(connection: FeedConnection) -> Any:
        nonlocal reads
        reads += 1
        gone.set()
        return await take(connection)

    monkeypatch.setattr(FeedConnection, "_take", counted)
    operation = next(each for each in operations.operations if each.id == "listEvents")
    scope = {
        "method": "GET",
        "path": paths.EVENTS_PAGE,
        "query_string": b"state=Failed",
        "state": {"headers": {}, "service": service, "principal": local_principal("")},
    }
    with pytest.raises(NotReady, match="the client is gone"):
        await operation.handler(Request(operation, {}, scope, receive, ()))
    assert reads == 1


async def test_a_page_is_limited_in_bytes(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has at least one read of the log, and then ends."""
    _, client = api
    last = await put(client, "job")
    monkeypatch.setattr("jobledger.service.api.events.EVENTS_PAGE_BYTES", 1)
    assert sequences(await page(client, wait_for=str(last))) == [1]


async def test_a_token_reads_its_namespaces_only(tmp_path: Path) -> None:
    """As in the feed; a cursor of another log is refused."""
    async with running_ui(tmp_path) as (service, client):
        await put(client, "secret")
        last = await put(client, "mine", Namespace="other")
        _, token = service.tokens.create("eve", Role.READER, ["other"])
        client.headers["Authorization"] = f"Bearer {token}"
        assert sequences(await page(client, wait_for=str(last))) == [2]
        assert (await client.get(paths.EVENTS_PAGE, params={"namespace": "default"})).status_code == 403
        assert (await client.get(paths.EVENTS_PAGE, params={"after": "0123456789ab-1"})).status_code == 410
        assert (await client.get(paths.EVENTS_PAGE, params={"after": "99"})).status_code in {400, 410}
