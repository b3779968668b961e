"""The audit and health pages: seals, their consistency as the browser verifies it, checks and facts."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.web.health import read_metrics, size_text
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body, ok
from tests.support.browser import Browser
from tests.support.service_process import running_service
from tests.support.web_pages import checked_page, running_ui, sign_in


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def seals(client: httpx.AsyncClient, count: int) -> list[int]:
    """Make seals of growing size; their sizes."""
    sizes = []
    for number in range(count):
        ok(await client.put(paths.JOBS, json=job_body(f"job-{number}")))
        sizes.append(int(ok(await client.post(paths.AUDIT_SEALS))["Size"]))
    return sizes


async def test_seals_are_listed_with_origin_size_root_and_keys(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """Newest first; without a seal, the page says how one is made."""
    service, client = ui
    answer = await client.get(paths.UI_AUDIT)
    checked_page(answer)
    assert "Nothing was sealed yet" in answer.text
    sizes = await seals(client, 2)
    answer = await client.get(paths.UI_AUDIT)
    page = checked_page(answer)
    shown = [each["value"] for each in page.all("input", lambda each: each["name"] == "to")]
    assert shown == [str(each) for each in reversed(sizes)]
    for each in ok(await client.get(paths.AUDIT_SEALS))["Items"]:
        assert each["Root"].replace("+", "&#43;") in answer.text or each["Root"] in answer.text
    assert service.sealer.origin in answer.text
    assert "Not checked by this page" in answer.text


async def test_two_seals_come_with_the_proof_between_them(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """For the browser to verify; without scripts it is "not checked", with the command."""
    _, client = ui
    old, new = await seals(client, 2)
    answer = await client.get(paths.UI_AUDIT, params={"from": str(old), "to": str(new)})
    page = checked_page(answer)
    section = page.all("section", lambda each: each["id"] == "consistency")[0]
    proof = ok(await client.get(paths.AUDIT_CONSISTENCY, params={"from": str(old), "to": str(new)}))
    assert section["data-proof"].split() == proof["Proof"]
    assert section["data-from"].split("\n")[1] == str(old)
    assert f"jobledger audit consistency {old} {new}" in answer.text
    checked_page(await client.get(paths.UI_AUDIT, params={"from": str(new), "to": str(old)}), 400)


async def test_health_shows_what_readyz_and_metrics_say(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Every check, and the projector, the log, the seals and the release."""
    _, client = ui
    ok(await client.put(paths.JOBS, json=job_body("etl")))
    answer = await client.get(paths.UI_HEALTH)
    page = checked_page(answer)
    lines = (await client.get(f"{paths.READYZ}?verbose")).text.splitlines()
    names = {each[3:].partition(" ")[0].replace("_", " ") for each in lines if each.startswith("[")}
    assert names <= {each.text for each in page.all("td")}
    assert ok(await client.get(paths.VERSION))["GitVersion"] in answer.text
    assert "Free disk space" in answer.text
    assert "running" in answer.text or "live" in answer.text


async def test_health_is_for_those_who_may_observe(tmp_path: Path) -> None:
    """The audit is for everyone who may read, as in the API."""
    async with running_ui(tmp_path) as (service, client):
        await sign_in(service, client, "eve", Role.READER, ["other"])
        assert (await client.get(paths.UI_HEALTH)).status_code == 403
        page = checked_page(await client.get(paths.UI_AUDIT))
        assert paths.UI_HEALTH not in {each["href"] for each in page.all("a")}


def test_metrics_and_sizes_are_read() -> None:
    """As Prometheus writes them."""
    text = '# TYPE a gauge\na{state="x"} 1.0\na{state="y"} 0.0\n'
    assert read_metrics(text) == {"a": [({"state": "x"}, 1.0), ({"state": "y"}, 0.0)]}
    assert [size_text(each) for each in (0, 1023, 1024, 5 * 2**30, 2**50)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 GiB", "1024.0 TiB",
    ]  # fmt: skip


@pytest.mark.slow
async def test_the_browser_verifies_that_a_seal_extends_another(tmp_path: Path) -> None:
    """With the key of the service; with one hash changed, it does not."""
    verdict = "document.getElementById('consistency-verdict')"
    with running_service(tmp_path) as service:
        async with httpx.AsyncClient(base_url=service.url) as client, Browser(tmp_path) as browser:
            sizes = await seals(client, 7)
            for old, new in zip(sizes, sizes[2:], strict=False):
                await browser.open(f"{service.url}{paths.UI_AUDIT}?from={old}&to={new}")
                await browser.until(f"{verdict}.innerText.startsWith('Verified in this browser')")
            module = "document.querySelector('script[type=module]').src.replace('app.js', 'consistency.js')"
            change = "document.getElementById('consistency').dataset.proof"
            await browser.run(f"{change} = {change}.replace(/^./, each => each === 'A' ? 'B' : 'A'); 1")
            await browser.run(f"import({module}).then(module => module.start())")
            await browser.until(f"{verdict}.innerText.startsWith('Not proven')")
            assert browser.complaints == []
