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
RULES = {False: "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']", True: "['color-contrast']"}
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
        for dark in (False, True):
            await browser.look(dark=dark)
            for page in pages:
                await browser.open(service.url + page)
                await browser.run(f"{axe}; 1")
                if violations := await browser.run(AXE % RULES[dark]):
                    found[page, dark] = violations
        # Pages about an error are opened on purpose, and Chromium logs their status.
        complaints = [each for each in browser.complaints if "the server responded with a status" not in each]
    assert found == {}, json.dumps([*found.items()], indent=1)
    assert complaints == []


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
