"""Events as pages: the same documents as the live feed, complete, each once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.feed.events import FeedEvent
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


async def test_a_page_is_limited_in_time(
    api: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long search ends with the cursor to continue."""
    _, client = api
    last = await put(client, "job")
    await page(client, wait_for=str(last))

    async def hang(_: FeedConnection) -> list[FeedEvent]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(FeedConnection, "_take", hang)
    monkeypatch.setattr("jobledger.service.api.events.EVENTS_PAGE_SECONDS", 0.01)
    found = await page(client, after="0")
    assert (found["Items"], found["Sequence"]) == ([], 0)


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
