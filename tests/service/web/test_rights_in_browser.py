"""What callers see who may not see or change everything, and hostile and long names on every page."""

import urllib.parse
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile
from jobledger.service.wire import paths
from tests.support.api import job_body, ok
from tests.support.browser import Browser
from tests.support.service_process import RunningService, running_service
from tests.support.web_pages import all_pages

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
EVIL = "<img src=x onerror=window.hacked=1>"
SPEC = "{Name: a, Type: batch, Tasks: [{Name: main, Engine: {Type: noop}}]}"
SECRET = "hidden-from-eve"
LONG = "n" * 1_000
CHANGES = ("Submit a job", "Edit", "Set state", "Tag", "Rerun", "Stop…", "Revert…", "Stop selected…")
NAMES = "[...document.querySelectorAll('a, button')].map(each => (each.ariaLabel ?? each.textContent).trim())"


class Place(NamedTuple):
    """A service with tokens, and jobs in two namespaces."""

    service: RunningService
    tokens: dict[str, str]
    job_id: str
    secret_id: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("service")
    file = TokenFile(folder / "tokens.json")
    tokens = {
        "root": file.create("root", Role.ADMIN)[1],
        "reader": file.create("reader", Role.READER)[1],
        "eve": file.create("eve", Role.READER, ["other"])[1],
        EVIL: file.create(EVIL[:32], Role.ADMIN)[1],
    }
    with running_service(folder, "--tokens-file", str(folder / "tokens.json")) as service:
        headers = {"Authorization": f"Bearer {tokens[EVIL]}"}
        with httpx.Client(base_url=service.url, headers=headers) as client:
            job_id = ""
            for number in range(2):
                body = job_body(EVIL, Namespace="other", Labels={"x": EVIL}, Priority=number)
                job_id = ok(client.put(paths.JOBS, json={**body, "Reason": EVIL}))["JobID"]
                state: dict[str, Any] = {
                    "StateType": ("Running", "Failed")[number],
                    "Message": EVIL,
                    "Reason": EVIL,
                }
                ok(
                    client.put(
                        paths.expand(paths.JOB_STATE, id=job_id), json={**state, "Details": {"a": EVIL}}
                    )
                )
            ok(client.put(paths.expand(paths.JOB_TAG, id=job_id, tag="golden"), json={"JobVersion": 1}))
            ok(client.put(paths.JOBS, json=job_body(LONG, Namespace="other")))
            secret = ok(client.put(paths.JOBS, json=job_body(SECRET, Labels={SECRET: SECRET})))["JobID"]
            ok(client.put(paths.expand(paths.JOB_STATE, id=secret), json={"StateType": "Running"}))
            ok(client.post(paths.SUBSCRIPTIONS, json={"Name": "billing"}))
            ok(client.post(paths.AUDIT_SEALS))
        yield Place(service, tokens, job_id, secret)


@pytest_asyncio.fixture(loop_scope="module")
async def signed_in(place: Place, browser: Browser) -> AsyncIterator[Any]:
    """Sign in through the form."""

    async def enter(name: str) -> None:
        await browser.open(place.service.url + paths.UI_JOBS)
        await browser.fill("textbox", "Token", place.tokens[name])
        assert "Jobs" in await browser.follow("button", "Sign in")

    yield enter


def pages_of(job_id: str) -> list[str]:
    """All pages but those that are the same for everybody, and the forms for a job, which is shown alike."""
    same = (paths.DOCS, "/ui/guides", paths.UI_SIGN_IN, paths.UI_PROOF, "do=rerun", "do=tag", "do=untag")
    return [each for each in all_pages(job_id) if not any(part in each for part in same)]


def refusals(browser: Browser) -> None:
    """Forget what Chromium logs about pages that were refused on purpose."""
    allowed = ("responded with a status", "htmx:sse:error: SSE reconnect failed with status 401")
    browser.complaints[:] = [each for each in browser.complaints if not any(word in each for word in allowed)]


async def test_a_reader_is_offered_no_change_and_every_change_is_refused(
    place: Place, browser: Browser, signed_in: Any
) -> None:
    """No button, link, or box of a change on the pages of jobs; forms and their requests answer 403."""
    await signed_in("reader")
    job = paths.expand(paths.UI_JOB, id=place.job_id)
    for path in (paths.UI_JOBS, job, f"{job}?tab=spec", f"{job}?tab=versions", paths.UI_SUBSCRIPTIONS):
        await browser.open(place.service.url + path)
        offered = set(await browser.run(NAMES))
        assert not offered & set(CHANGES), path
        assert await browser.run("document.querySelectorAll('input[name=job][type=checkbox]').length") == 0
        buttons = "[...document.querySelectorAll('form[method=post] button:not([type=button])')]"
        assert await browser.run(f"{buttons}.map(each => each.innerText)") == ["Sign out"], path
    for path, body in (
        (paths.expand(paths.UI_JOB_CHANGE, id=place.job_id), "do=stop&reason=x&revision=9"),
        (paths.UI_STOP, f"job={place.job_id}@9&reason=x"),
        (paths.expand(paths.UI_SUBSCRIPTION_CHANGE, name="billing"), "do=delete"),
        (paths.UI_SUBMIT, f"spec={SPEC}&seen=0.0"),
    ):
        answer = await browser.run(
            f"fetch({path!r}, {{method: 'POST', body: new URLSearchParams({body!r})}}).then(a => a.status)"
        )
        assert answer in {403, 409}, path  # 409: each of the jobs is refused
        shown = await browser.run(f"fetch({(path + '?do=stop')!r}).then(answer => answer.status)")
        assert shown == 403, path
    headers = {"Authorization": f"Bearer {place.tokens['reader']}"}
    async with httpx.AsyncClient(base_url=place.service.url, headers=headers) as client:
        found = ok(await client.get(paths.expand(paths.JOB, id=place.job_id)))["Job"]
    assert found["State"]["StateType"] == "Failed"
    refusals(browser)


async def test_a_foreign_namespace_is_nowhere(place: Place, browser: Browser, signed_in: Any) -> None:
    """Not its jobs, counts, events, times, suggestions or changes; also not by asking for its jobs."""
    await signed_in("eve")
    url = place.service.url
    assert "All\n2" in (await browser.text()).replace("\t", "\n")
    options = await browser.run("[...document.querySelectorAll('option')].map(each => each.value)")
    assert "default" not in options
    secret = paths.expand(paths.UI_JOB, id=place.secret_id)
    for path in (*pages_of(place.secret_id), f"{paths.UI_JOBS}?name={SECRET}", f"{paths.UI_JOBS}?at=7",
                 f"{paths.UI_JOBS}?labels={SECRET}", f"{paths.UI_EVENTS}?job={SECRET}",
                 f"{paths.UI_EVENTS}?after=0", f"{paths.UI_CHANGES}?from=0&to=7"):  # fmt: skip
        await browser.open(url + path)
        shown = await browser.run("document.documentElement.outerHTML")
        asked = urllib.parse.unquote(path)
        for word in (SECRET, place.secret_id):
            assert word in asked or word not in shown, (path, word)
        assert await browser.run("document.querySelector('#job-rows')?.children.length ?? 0") <= 2, path
    await browser.open(url + secret)
    assert "404" in await browser.text()
    await browser.open(url + paths.UI_EVENTS)
    await browser.until("document.getElementById('tail-status').dataset.state === 'live'")
    headers = {"Authorization": f"Bearer {place.tokens['root']}"}
    async with httpx.AsyncClient(base_url=url, headers=headers) as client:
        for name in (SECRET, place.job_id):
            ok(await client.put(paths.expand(paths.JOB_TAG, id=name, tag="seen"), json={"JobVersion": 1}))
    await browser.until("document.getElementById('tail-rows').innerText.includes('tag')")
    assert SECRET not in await browser.run("document.documentElement.outerHTML")
    refusals(browser)


async def test_hostile_and_long_texts_are_only_texts(place: Place, browser: Browser, signed_in: Any) -> None:
    """As name, label, actor, reason, message and detail, on every page; nothing is wider than the window."""
    await signed_in(EVIL)
    long_job = f"{paths.expand(paths.UI_JOB, id=LONG)}?namespace=other"
    await browser.look(width=390, height=844)
    for path in (*pages_of(place.job_id), long_job, f"{paths.UI_CHANGES}?from=0"):
        await browser.open(place.service.url + path)
        found = await browser.run(
            "[window.hacked ?? null, document.querySelectorAll('img[src=x]').length,"
            " document.documentElement.scrollWidth - window.innerWidth]"
        )
        assert found[:2] == [None, 0], path
        assert found[2] <= 0, (path, found[2])
    await browser.open(f"{place.service.url}{paths.expand(paths.UI_JOB, id=place.job_id)}?timeline=full")
    assert (await browser.text()).count(EVIL) >= 5
    refusals(browser)


async def test_a_session_ends_on_an_open_page(place: Place, browser: Browser, signed_in: Any) -> None:
    """After a sign-out in another tab, the page says that it is signed out, and shows nothing new."""
    await signed_in("root")
    await browser.until("document.getElementById('live').dataset.state === 'live'")
    await browser.run(f"fetch({paths.UI_SIGN_OUT!r}, {{method: 'POST'}}).then(answer => answer.status)")
    headers = {"Authorization": f"Bearer {place.tokens['root']}"}
    async with httpx.AsyncClient(base_url=place.service.url, headers=headers) as client:
        ok(await client.put(paths.JOBS, json=job_body("after-sign-out")))
    await browser.until("document.getElementById('live').dataset.state === 'signed-out'")
    assert "after-sign-out" not in await browser.text()
    refusals(browser)
