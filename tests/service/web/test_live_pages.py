"""Pages that no event announces update live: a script fetches their part again, at the page's own URL."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body, ok
from tests.support.logs import eventually
from tests.support.web_pages import checked_page, parse_page, running_ui, sign_in
from tests.support.webhooks import LOCAL

PART = {"HX-Request": "true"}
SUBSCRIPTION = paths.expand(paths.UI_SUBSCRIPTION, name="billing")
WEBHOOK = paths.expand(paths.UI_WEBHOOK, name="hook")
PAGES = (
    paths.UI_SUBSCRIPTIONS,
    f"{SUBSCRIPTION}?note=reset",
    paths.UI_WEBHOOKS,
    WEBHOOK,
    f"{paths.UI_AUDIT}?tz=Asia/Tokyo",
    paths.UI_HEALTH,
)


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path, webhook_allow=LOCAL) as running:
        client = running[1]
        ok(await client.post(paths.SUBSCRIPTIONS, json={"Name": "billing"}))
        ok(await client.post(paths.WEBHOOKS, json={"Name": "hook", "URL": "http://127.0.0.1:9/"}))
        await eventually(lambda: _has_two(client))  # the webhook's own is created a moment later
        yield running


@pytest.mark.parametrize("url", PAGES)
async def test_a_part_is_what_its_page_has(url: str, ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The page names its own URL, an interval and a button to pause; the part has no frame around it."""
    _, client = ui
    ok(await client.put(paths.JOBS, json=job_body("etl")))
    ok(await client.get(paths.JOBS))  # waits until the view has the job
    page = checked_page(await client.get(url))
    (live,) = page.all("div", lambda each: "data-poll" in each.attributes)
    assert int(live["data-poll"]) >= 2
    assert [each["aria-pressed"] for each in page.all("button") if each["id"] == "live-pause"] == ["false"]
    (part,) = page.all("div", lambda each: each["data-live"] == "part")
    assert part["data-url"].partition("?")[0] == url.partition("?")[0]
    answer = await client.get(part["data-url"], headers=PART)
    assert answer.status_code == 200
    assert answer.headers["vary"] == "HX-Request, Cookie"
    assert int(answer.headers["jobledger-sequence"]) >= 1
    fresh = parse_page(answer.text)
    assert fresh.problems == []
    assert not fresh.all("main")
    assert not fresh.all("nav")
    assert {each["id"] for each in fresh.elements} <= {each["id"] for each in page.elements}
    assert page.texts("h2") == fresh.texts("h2") or set(fresh.texts("h2")) < set(page.texts("h2"))


async def test_a_part_shows_what_changed(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Position, lag and seals, without another page load."""
    _, client = ui
    before = await client.get(paths.UI_SUBSCRIPTIONS, headers=PART)
    assert await _behind(client) == 0
    ok(await client.put(paths.JOBS, json=job_body("etl")))
    after = await client.get(paths.UI_SUBSCRIPTIONS, headers=PART)
    assert before.text != after.text
    assert await _behind(client) == 1
    ok(await client.post(paths.AUDIT_SEALS))
    assert 'id="seal-1"' in (await client.get(paths.UI_AUDIT, headers=PART)).text


async def test_a_part_needs_the_rights_of_its_page(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The script then stops, and says so."""
    service, client = ui
    await sign_in(service, client, "reader", Role.READER, ["team-a"])
    for url in (paths.UI_SUBSCRIPTIONS, paths.UI_HEALTH):
        assert (await client.get(url, headers=PART)).status_code == 403
    client.cookies.clear()
    assert (await client.get(paths.UI_SUBSCRIPTIONS, headers=PART)).status_code == 401


async def _has_two(client: httpx.AsyncClient) -> bool:
    return len(ok(await client.get(paths.SUBSCRIPTIONS))["Items"]) == 2


async def _behind(client: httpx.AsyncClient) -> int:
    found = ok(await client.get(paths.expand(paths.SUBSCRIPTION, name="billing")))["Subscription"]
    return int(found["Gap"])
