"""All pages pass an HTML validator, axe-core (WCAG 2.1 AA, light and dark), and a check of their links."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobledger.service.wire import paths
from tests.clients.nodejs import ENV, NODE, install
from tests.support.api import job_body, ok
from tests.support.browser import Browser
from tests.support.service_process import RunningService, running_service
from tests.support.web_pages import MISTAKE, all_pages, parse_page

pytestmark = pytest.mark.slow
PINNED = Path(__file__).parent / "node"
VALIDATOR = "node_modules/html-validate/bin/html-validate.mjs"
# In the dark, only colors are different.
CHECKS = (
    (1280, False, "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']"),
    (1280, True, "['color-contrast']"),
)
AXE = """axe.run(document, {runOnly: %s}).then(
  result => result.violations.map(each => each.id + ': ' + each.nodes.map(node => node.html).join(' ')))"""


@pytest.fixture(scope="module")
def checkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both checkers."""
    folder = tmp_path_factory.mktemp("checkers")
    install(PINNED, folder)
    (folder / ".htmlvalidate.json").write_text('{"root": true, "extends": ["html-validate:standard"]}')
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a job that has been through a lot, and some others."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        with httpx.Client(base_url=running.url, headers={"Jobledger-Actor": "alice"}) as client:
            for number in range(5):
                ok(client.put(paths.JOBS, json=job_body(f"job-{number}", Labels={"env": "prod"})))
            for priority in (1, 2):
                body = {
                    **job_body("etl", Priority=priority, Labels={"n": str(priority)}),
                    "Reason": "why not",
                }
                ok(client.put(paths.JOBS, json=body))
                state = {"StateType": "Failed", "Message": "no memory", "Details": {"Code": "137"}}
                ok(client.put(paths.expand(paths.JOB_STATE, id="etl"), json=state))
            ok(client.put(paths.expand(paths.JOB_TAG, id="etl", tag="golden"), json={"JobVersion": 1}))
            ok(client.post(paths.SUBSCRIPTIONS, json={"Name": "billing", "Types": ["state"]}))
            ok(client.post(paths.AUDIT_SEALS))
        yield running


@pytest.fixture(scope="module")
def pages(service: RunningService) -> tuple[str, ...]:
    job_id = ok(httpx.get(service.url + paths.expand(paths.JOB, id="etl")))["Job"]["ID"]
    return all_pages(job_id)


def test_all_pages_are_valid_html(service: RunningService, pages: tuple[str, ...], checkers: Path) -> None:
    """By html-validate's standard rules."""
    folder = checkers / "pages"
    folder.mkdir()
    for number, page in enumerate(pages):
        (folder / f"{number}.html").write_text(httpx.get(service.url + page, follow_redirects=True).text)
    command: list[str | Path] = [NODE, VALIDATOR, "--formatter=text", *sorted(map(str, folder.iterdir()))]
    done = subprocess.run(command, cwd=checkers, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_all_pages_are_accessible(
    service: RunningService, pages: tuple[str, ...], checkers: Path, tmp_path: Path
) -> None:
    """No violation that axe-core can find, and none of the policy."""
    axe = (checkers / "node_modules" / "axe-core" / "axe.min.js").read_text()
    found = {}
    async with Browser(tmp_path) as browser:
        for page in pages:
            await browser.look()
            await browser.open(service.url + page)
            await browser.run(f"{axe}; 1")
            for width, dark, rules in CHECKS:
                await browser.look(width=width, dark=dark)
                if violations := await browser.run(AXE % rules):
                    found[page, width, dark] = violations
        # Pages about an error are opened on purpose, and Chromium logs their status.
        complaints = [each for each in browser.complaints if "the server responded with a status" not in each]
    assert found == {}, json.dumps([*found.items()], indent=1)
    assert complaints == []


STOPS = """[...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
  .filter(each => !each.disabled && each.tabIndex >= 0 && each.checkVisibility({visibilityProperty: true})
    && each.type !== 'hidden' && !each.closest('svg')
    && (each.type !== 'radio' || each === document.querySelector(`input[name="${each.name}"]:checked`)))"""
FOCUSED = """(() => {
  const each = document.activeElement, style = getComputedStyle(each), box = each.getBoundingClientRect();
  const isVisible = box.bottom > 0 && box.top < innerHeight && style.outlineStyle !== 'none';
  return [each === document.body ? -1 : window.stops.indexOf(each), isVisible];
})()"""


async def test_the_keyboard_reaches_everything(service: RunningService, tmp_path: Path) -> None:
    """Each control once, in the order of the page, with a visible focus; on the pages with most of them."""
    job = paths.expand(paths.UI_JOB, id="etl")
    async with Browser(tmp_path) as browser:
        await browser.look()
        for page in (
            paths.UI_JOBS,
            job,
            f"{job}?tab=versions",
            paths.UI_SUBMIT,
            paths.UI_EVENTS,
        ):
            await browser.open(service.url + page)
            await browser.until("document.documentElement.classList.contains('js')")
            expected = await browser.run(f"window.stops = {STOPS}; window.stops.length")
            reached = []
            for _ in range(expected):
                await browser.press("Tab")
                place, is_visible = await browser.run(FOCUSED)
                assert is_visible, (page, place, await browser.run("document.activeElement.outerHTML"))
                reached.append(place)
            assert reached == [*range(expected)], page


async def test_shortcuts_are_off_in_fields_and_on_request(service: RunningService, tmp_path: Path) -> None:
    """A dialog returns the focus; no shortcut works after they are turned off but the one for the dialog."""
    focus = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
    cursor = "document.querySelectorAll('tr.cursor').length"
    async with Browser(tmp_path) as browser:
        await browser.open(service.url + paths.UI_JOBS)
        await browser.until("document.documentElement.classList.contains('js')")
        await browser.press("j")
        assert await browser.run(cursor) == 1
        name = await browser.run(focus)
        await browser.press("?")
        assert await browser.run("document.activeElement.closest('dialog')?.id") == "help"
        await browser.press("Escape")
        await browser.until("!document.getElementById('help').open")
        assert await browser.run(focus) == name
        await browser.press("/")
        for key in ("j", "?", "p"):
            await browser.press(key)
        assert await browser.run("document.activeElement.value") == "j?p"
        assert await browser.run("document.getElementById('help').open") is False
        await browser.click("button", "Keyboard shortcuts (?)")
        await browser.click("checkbox", "Shortcuts are on in this browser")
        await browser.click("button", "Close")
        assert await browser.run(focus) == "Keyboard shortcuts (?)"
        await browser.open(service.url + paths.UI_JOBS)
        await browser.until("document.documentElement.classList.contains('js')")
        await browser.press("j")
        assert await browser.run(cursor) == 0
        await browser.press("?")
        assert await browser.run("document.getElementById('help').open") is True
        assert browser.complaints == []


def test_all_links_lead_somewhere(service: RunningService, pages: tuple[str, ...]) -> None:
    """Also those within a page, and those of files and filters."""
    seen: dict[str, int] = {}
    with httpx.Client(base_url=service.url) as client:
        for path in (each for each in pages if MISTAKE not in each):
            page = parse_page(client.get(path, follow_redirects=True).text)
            assert page.problems == [], (path, page.problems)
            for link in page.links():
                target, _, fragment = link.partition("#")
                if not target:
                    assert fragment in {each["id"] for each in page.elements}, (path, link)
                elif target not in seen:
                    seen[target] = client.get(target).status_code
    assert {target: status for target, status in seen.items() if status not in {200, 303}} == {}
    assert len(seen) > 50
