"""The events of the log: pages of them to read, and the live tail in a browser."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.web.events import EventsState
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body, ok
from tests.support.browser import Browser
from tests.support.service_process import running_service
from tests.support.web_pages import Page, checked_page, running_ui, sign_in

EVIL = "<img src=x onerror=alert(1)>"
ROWS = "[...document.querySelectorAll('#tail-rows tr')]"
SEQUENCES = f"{ROWS}.map(row => Number(row.id.slice(2)))"
LIVE = "document.getElementById('tail-status').dataset.state === 'live'"


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def put(client: httpx.AsyncClient, name: str, **fields: Any) -> str:
    return str(ok(await client.put(paths.JOBS, json=job_body(name, **fields)))["JobID"])


async def seen(service: Service, sequence: int) -> None:
    """Wait until the view has an event."""
    await service.projector.wait_for(sequence, 5)


async def set_state(client: httpx.AsyncClient, job_id: str, state: str) -> int:
    answer = await client.put(paths.expand(paths.JOB_STATE, id=job_id), json={"StateType": state})
    return int(ok(answer)["Sequence"])


def sequences(page: Page) -> list[int]:
    return [int(each["id"][2:]) for each in page.all("tr", lambda each: each["id"].startswith("e-"))]


async def test_the_newest_events_are_shown_as_they_are(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Newest first, each with the whole CloudEvent of the API; the stream starts after them."""
    service, client = ui
    job_id = await put(client, EVIL, Labels={"x": EVIL})
    await seen(service, await set_state(client, job_id, "Running"))
    answer = await client.get(paths.UI_EVENTS)
    page = checked_page(answer)
    assert sequences(page) == [2, 1]
    assert not page.all("img", lambda each: each["src"] == "x")
    shown = [each.text for each in page.all("pre")]
    listed = (await client.get(paths.EVENTS_PAGE)).text
    assert all(each in listed for each in shown if each)
    tail = page.all("section", lambda each: each["id"] == "events-tail")[0]
    assert tail["data-cursor"] == f"{service.stream_tag}-2"
    assert "after=" + tail["data-cursor"] in tail["data-feed"]


async def test_filters_and_points_are_in_the_url(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Each shows the events of the API with the same parameters; a wrong one is explained next to them."""
    service, client = ui
    first, second = await put(client, "a", Labels={"env": "prod"}), await put(client, "b")
    await set_state(client, first, "Running")
    await seen(service, await set_state(client, second, "Failed"))
    for query, expected in (
        ("job=a", [3, 1]), ("type=state", [4, 3]), ("state=Failed", [4]), ("labels=env%3Dprod", [3, 1]),
        ("after=2", [4, 3]), ("type=state&type=created&after=1", [4, 3, 2]), ("namespace=other", []),
    ):  # fmt: skip
        page = checked_page(await client.get(f"{paths.UI_EVENTS}?{query}"))
        assert sequences(page) == expected, query
    for query in ("after=99", "after=x", "job=none", "labels=%21%21"):
        answer = await client.get(f"{paths.UI_EVENTS}?{query}")
        page = checked_page(answer, 400)
        assert sequences(page) == []
        assert page.all("p", lambda each: each["role"] == "alert")


async def test_pages_cover_the_whole_log(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older pages lead to the first event, newer ones back to the last."""
    service, client = ui
    monkeypatch.setattr("jobledger.service.web.events._PAGE", 3)
    for number in range(7):
        await put(client, f"job-{number}")
    await seen(service, 7)
    found, url = [], paths.UI_EVENTS
    while url:
        page = checked_page(await client.get(url))
        found.append(sequences(page))
        last = url
        url = next((each["href"] for each in page.all("a", lambda each: each["rel"] == "prev")), "")
    assert found == [[7, 6, 5], [4, 3, 2], [3, 2, 1]]
    page = checked_page(await client.get(last))
    newer = next(each["href"] for each in page.all("a", lambda each: each["rel"] == "next"))
    assert sequences(checked_page(await client.get(newer))) == [6, 5, 4]
    assert EventsState(job="a", after="7").url("3") == "/ui/events?job=a&after=3"


async def test_events_of_foreign_namespaces_are_not_shown(tmp_path: Path) -> None:
    """Neither in the page nor in its stream."""
    async with running_ui(tmp_path) as (service, client):
        await put(client, "secret")
        await put(client, "mine", Namespace="other")
        await seen(service, 2)
        await sign_in(service, client, "eve", Role.READER, ["other"])
        answer = await client.get(paths.UI_EVENTS)
        assert sequences(checked_page(answer)) == [2]
        assert "secret" not in answer.text
        assert (await client.get(f"{paths.UI_EVENTS}?namespace=default")).status_code == 400
        stream = await client.get(paths.UI_EVENTS_FEED, params={"namespace": "default"})
        assert stream.status_code == 403
        await client.post(paths.UI_SIGN_OUT)
        assert (await client.get(paths.UI_EVENTS_FEED)).status_code == 401


@pytest.mark.slow
async def test_the_tail_is_live_pauses_and_resumes(tmp_path: Path) -> None:
    """A new event appears within a second; while paused, events are held; a fixed number of rows is kept."""
    with running_service(tmp_path) as service:
        async with httpx.AsyncClient(base_url=service.url) as client, Browser(tmp_path) as browser:
            job_id = await put(client, "etl")
            await browser.open(f"{service.url}{paths.UI_EVENTS}?type=state")
            await browser.until(LIVE)
            start = time.monotonic()
            sequence = await set_state(client, job_id, "Running")
            await browser.until(f"{SEQUENCES}[0] === {sequence}")
            assert time.monotonic() - start < 1.0
            await put(client, "not-shown")
            await browser.press("p")
            await set_state(client, job_id, "Failed")
            await browser.until("document.getElementById('tail-text').innerText === 'paused, 1 new'")
            assert await browser.run(SEQUENCES) == [sequence]
            await browser.press("p")
            assert await browser.run(SEQUENCES) == [sequence + 2, sequence]
            facts = await browser.run("document.querySelector('.tail-facts').innerText")
            assert "sequences not shown: 1" in facts
            assert "gap: none" in facts
            await browser.run("document.getElementById('events-tail').dataset.rows = 3")
            for number in range(4):
                await set_state(client, await put(client, f"job-{number}"), "Running")
            await browser.until(f"{SEQUENCES}[0] === {sequence + 10}")
            assert await browser.run(SEQUENCES) == [sequence + 10, sequence + 8, sequence + 6]
            assert await browser.run(f"{ROWS}[0].querySelector('pre').textContent.startsWith('{{')")
            assert browser.complaints == []


@pytest.mark.slow
async def test_the_tail_survives_a_restart(tmp_path: Path) -> None:
    """It shows what happened meanwhile, once."""
    async with Browser(tmp_path) as browser:
        with running_service(tmp_path) as service:
            port = service.url.rpartition(":")[2]
            async with httpx.AsyncClient(base_url=service.url) as client:
                await put(client, "before")
            await browser.open(f"{service.url}{paths.UI_EVENTS}")
            await browser.until(LIVE)
        with running_service(tmp_path, "--port", port) as service:
            async with httpx.AsyncClient(base_url=service.url) as client:
                await put(client, "after")
            await browser.until(f"{SEQUENCES}.length === 2")
            await asyncio.sleep(0)
            assert await browser.run(SEQUENCES) == [2, 1]
