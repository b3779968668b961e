"""The pages in a real browser: live updates, the slider, the editor, keys, small windows, hostile names."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.wire import paths
from tests.support.api import job_body
from tests.support.browser import Browser
from tests.support.service_process import RunningService, jobledger, running_service, server_pid

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
EVIL = "<img src=x onerror=window.hacked=1>"
ROWS = "[...document.querySelectorAll('#job-rows tr')]"
NAMES = f"{ROWS}.map(row => row.querySelector('td.name').innerText)"
TYPE = """text => {
  const area = document.getElementById('spec');
  area.value = text;
  area.dispatchEvent(new Event('input', {bubbles: true}));
}"""
LIVE = "document.getElementById('live')?.dataset.state === 'live'"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as running:
        with httpx.Client(base_url=running.url) as client:
            for number in range(60):
                labels = {"env": ("prod", "dev")[number % 2]}
                put(client, f"job-{number:02}", Labels=labels)
            put(client, EVIL, Labels={"x": EVIL})
            put(client, "n" * 1_000)
        yield running


def put(client: httpx.Client, name: str, **fields: Any) -> str:
    answer = client.put(paths.JOBS, json=job_body(name, **fields))
    answer.raise_for_status()
    return str(answer.json()["JobID"])


def submit(service: RunningService, name: str) -> None:
    httpx.put(service.url + paths.JOBS, json=job_body(name)).raise_for_status()


def seal(service: RunningService) -> None:
    httpx.post(service.url + paths.AUDIT_SEALS).raise_for_status()


def set_state(service: RunningService, name: str, state: str) -> None:
    url = service.url + paths.expand(paths.JOB_STATE, id=name)
    httpx.put(url, json={"StateType": state}).raise_for_status()


def jobs_of(service: RunningService, query: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(service.url + paths.JOBS, params=query).json()["Items"]
    return found


def history_of(service: RunningService, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(service.url + paths.expand(paths.JOB_HISTORY, id=name)).json()[
        "Items"
    ]
    return found


def row_of(name: str) -> str:
    return f"{ROWS}.find(row => row.querySelector('td.name').innerText === {name!r})"


SEEN = """label => {
  const seen = () => window.seen = [...document.querySelectorAll('#job-rows tr')].some(
    row => row.innerText.includes(label)) ? window.seen ?? Date.now() : undefined;
  new MutationObserver(seen).observe(document.getElementById('jobs'), {childList: true, subtree: true});
}"""


async def test_a_change_appears_within_a_second(
    service: RunningService, browser: Browser, tmp_path: Path
) -> None:
    """A change by the command, in the row where it is, without a reload.

    From the event's time in the log to the change of the page, by the clock that both share.
    """
    await browser.open(f"{service.url}/ui/?name=job-01")
    await browser.until(LIVE)
    await browser.run(f"({SEEN})('Running')")
    words = ("job", "set-state", "job-01", "Running", "--reason", "by hand")
    done = await asyncio.to_thread(jobledger, tmp_path, *words, url=service.url)
    assert done.returncode == 0, done.stderr
    seen = await browser.until("window.seen")
    event = (await asyncio.to_thread(history_of, service, "job-01"))[-1]
    assert event["Reason"] == "by hand"
    assert seen / 1_000 - datetime.fromisoformat(event["Time"]).timestamp() < 1.0


async def test_a_reader_keeps_place_and_selection(service: RunningService, browser: Browser) -> None:
    """Rows change where they are; new ones wait until they are asked for."""
    await browser.open(f"{service.url}/ui/")
    await browser.until(LIVE)
    await browser.run(f"{row_of('job-20')}.querySelector('input').click()")
    await browser.run("window.scrollTo(0, 600)")
    before = await browser.run(NAMES)
    place = f"Math.round({row_of('job-20')}.getBoundingClientRect().top)"
    top = await browser.run(place)
    with httpx.Client(base_url=service.url) as client:
        await asyncio.to_thread(put, client, "brand-new")
    await asyncio.to_thread(set_state, service, "job-20", "Queued")
    await browser.until(f"{row_of('job-20')}.innerText.includes('Queued')")
    await browser.until("!document.getElementById('new-rows').hidden")
    assert await browser.run(NAMES) == before
    assert await browser.run(place) == top
    assert await browser.run(f"{row_of('job-20')}.querySelector('input').checked") is True
    await browser.run("document.getElementById('new-rows').click()")
    assert (await browser.run(NAMES))[0] == "brand-new"
    assert await browser.run(f"{row_of('job-20')}.querySelector('input').checked") is True


async def test_paused_changes_are_collected(service: RunningService, browser: Browser) -> None:
    """They are shown when the reader resumes."""
    await browser.open(f"{service.url}/ui/?name=job-02")
    await browser.until(LIVE)
    await browser.press("p")
    await asyncio.to_thread(set_state, service, "job-02", "Failed")
    await browser.until("document.getElementById('live-text').innerText === 'paused, 1 changed'")
    assert "Failed" not in await browser.run(f"{row_of('job-02')}.innerText")
    await browser.press("p")
    await browser.until(f"{row_of('job-02')}.innerText.includes('Failed')")


async def test_a_restart_loses_and_doubles_no_row(tmp_path: Path, browser: Browser) -> None:
    """The page reconnects by itself, and shows what happened meanwhile."""
    with running_service(tmp_path) as service:
        port = service.url.rpartition(":")[2]
        with httpx.Client(base_url=service.url) as client:
            put(client, "before")
        await browser.open(f"{service.url}/ui/")
        await browser.until(LIVE)
        nats = server_pid(service)
        service.process.kill()
        os.kill(nats, signal.SIGKILL)
        service.process.wait()
    await browser.until("document.getElementById('live').dataset.state === 'reconnecting'")
    with running_service(tmp_path, "--port", port) as service:
        with httpx.Client(base_url=service.url) as client:
            put(client, "after")
        await browser.until(f"{NAMES}.includes('after')")
        assert await browser.run(NAMES) == ["after", "before"]
    browser.complaints.clear()  # the browser logs that it could not connect


DRAG = r"""share => {  // until about this share of all events is before the handle
  const range = document.getElementById('slider-range');
  const text = document.getElementById('slider-text');
  const place = () => parseInt(text.innerText.replace(/\\D*/, '').replace(',', '')) || Infinity;
  for (let value = 0; value <= range.max; value += 5) {
    range.value = value;
    range.dispatchEvent(new Event('input'));
    if (place() >= share * range.dataset.last) return text.innerText;
  }
}"""


async def test_the_slider_shows_what_the_command_lists(
    service: RunningService, browser: Browser, tmp_path: Path
) -> None:
    """`jobledger job list --at` has the same ids and states, at several points; the counts agree."""
    for share in (0.1, 0.5, 0.9):
        await browser.open(f"{service.url}/ui/?limit=100&columns=id&columns=state")
        assert (await browser.run(f"({DRAG})({share})")).startswith("sequence ")
        await browser.run("document.getElementById('slider-range').dispatchEvent(new Event('change'))")
        await browser.until("document.readyState === 'complete' && new URL(location).searchParams.has('at')")
        point = await browser.run("new URL(location).searchParams.get('at')")
        words = ("job", "list", "--at", point, "--limit", "100", "-o", "json")
        listed = await asyncio.to_thread(jobledger, tmp_path, *words, url=service.url)
        assert listed.returncode == 0, listed.stderr
        expected = {each["ID"]: each["State"]["StateType"] for each in json.loads(listed.stdout)["Items"]}
        cells = "[row.id.slice(4), row.querySelector('.state').innerText]"
        assert dict(await browser.run(f"{ROWS}.map(row => {cells})")) == expected
        counts = await browser.run(COUNTS)
        assert counts.pop("All") == len(expected)
        assert {state: count for state, count in counts.items() if count} == Counter(expected.values())
        assert f"As of sequence {point}" in await browser.text()


COUNTS = """Object.fromEntries([...document.querySelectorAll('#counts a')].map(
  each => [each.innerText.trim().split(/\\s+/)[0], Number(each.querySelector('b').innerText)]))"""


async def test_problems_are_shown_while_typing(service: RunningService, browser: Browser) -> None:
    """At their lines, in the gutter and below the text; a valid text shows what it will do."""
    await browser.open(f"{service.url}{paths.UI_SUBMIT}")
    await browser.run(f"window.type = {TYPE}")
    await browser.run("type('Name: typed\\nType: nonsense\\n')")
    await browser.until("document.querySelector('#check .problems') !== null")
    marked = "[...document.querySelectorAll('.gutter .marked')].map(each => each.innerText)"
    assert await browser.run(marked) == ["1", "2"]  # there is no task, and the type does not exist
    good = "Name: typed\\nType: batch\\nTasks: [{Name: main, Engine: {Type: noop}}]\\n"
    await browser.run(f"type('{good}')")
    await browser.until("document.getElementById('check').innerText.includes('A new job')")
    await browser.run("document.querySelector('#submit-form button.primary').click()")
    await browser.until("location.pathname.startsWith('/ui/jobs/j-') && document.readyState === 'complete'")
    assert "The spec was accepted" in await browser.run("document.body.innerText")


async def test_a_refused_refresh_is_shown_and_tried_again(service: RunningService, browser: Browser) -> None:
    """The page does not call old rows live."""
    await browser.open(f"{service.url}/ui/?name=job-04")
    await browser.until(LIVE)
    await browser.run(
        "void (window.ours = window.fetch,"
        " window.fetch = () => Promise.resolve(new Response('', {status: 503})))"
    )
    await asyncio.to_thread(set_state, service, "job-04", "Running")
    await browser.until("document.getElementById('live').dataset.state === 'reconnecting'")
    assert "Running" not in await browser.run(f"{row_of('job-04')}.innerText")
    await browser.run("void (window.fetch = window.ours)")
    await browser.until(f"{row_of('job-04')}.innerText.includes('Running')")
    await browser.until(LIVE)


async def test_the_timeline_is_live(service: RunningService, browser: Browser) -> None:
    """A new event appears in the table, and the state at the top."""
    await browser.open(f"{service.url}{paths.expand(paths.UI_JOB, id='job-03')}")
    await browser.until(LIVE)
    await asyncio.to_thread(set_state, service, "job-03", "Completed")
    await browser.until("document.querySelectorAll('#event-rows tr').length === 2")
    await browser.until("document.querySelector('.page-head').innerText.includes('Completed')")


async def test_pages_of_operators_are_live(service: RunningService, browser: Browser) -> None:
    """A seal appears by itself, and what the reader chose in the table stays; paused, nothing changes."""
    for name in ("seal-a", "seal-b"):
        submit(service, name)
        seal(service)
    await browser.open(f"{service.url}{paths.UI_AUDIT}")
    await browser.until(LIVE)
    rows = "document.querySelectorAll('tr[id^=seal-]').length"
    before = await browser.run(rows)
    chosen = "document.querySelector('input[name=from]:checked').value"
    await browser.run("[...document.querySelectorAll('input[name=from]')].pop().click()")
    oldest = await browser.run(chosen)
    submit(service, "seal-c")
    seal(service)
    await browser.until(f"{rows} === {before + 1}")
    assert await browser.run(chosen) == oldest
    await browser.run("document.getElementById('live-pause').click()")
    assert await browser.run("document.getElementById('live').dataset.state") == "paused"
    asked = "window.asked = 0, window.fetch = () => { window.asked++; return Promise.reject(); }"
    await browser.run(f"void ({asked})")
    await browser.run("void document.dispatchEvent(new Event('visibilitychange'))")  # polls at once
    assert await browser.run("new Promise(done => setTimeout(() => done(window.asked), 20))") == 0


async def test_a_zone_holds_for_what_scripts_show(service: RunningService, browser: Browser) -> None:
    """The slider, the tail and the switch to the zone of the browser."""
    await browser.open(f"{service.url}/ui/?tz=Asia/Tokyo")
    await browser.until(LIVE)
    bar = "document.querySelector('.slider title').textContent"
    assert "Asia/Tokyo" in await browser.run(bar)
    await browser.run("document.querySelector('#slider-range').value = 0")
    await browser.run("document.querySelector('#slider-range').dispatchEvent(new Event('input'))")
    assert "Asia/Tokyo" in await browser.run("document.getElementById('slider-text').textContent")
    await browser.open(f"{service.url}/ui/events?tz=Asia/Tokyo")
    await browser.until("document.getElementById('tail-status').dataset.state === 'live'")
    submit(service, "zoned")
    await browser.until("document.querySelector('#tail-rows time').title.endsWith(' Asia/Tokyo')")
    link = "document.querySelector('#tail-rows .name a').getAttribute('href')"
    assert (await browser.run(link)).endswith("?tz=Asia%2FTokyo")


async def test_keys_move_open_and_explain(service: RunningService, browser: Browser) -> None:
    """They can be turned off, and do nothing while someone types."""
    await browser.open(f"{service.url}/ui/?name=job-1")
    await browser.until("document.documentElement.classList.contains('js')")
    await browser.press("j")
    await browser.press("j")
    await browser.press("k")
    assert await browser.run(f"{ROWS}.findIndex(row => row.classList.contains('cursor'))") == 0
    await browser.press("x")
    assert await browser.run("document.getElementById('selected-count').innerText") == "1 selected"
    await browser.press("?")
    assert await browser.run("document.getElementById('help').open") is True
    await browser.press("?")
    await browser.press("/")
    assert await browser.run("document.activeElement.id") == "search"
    await browser.press("x")
    assert await browser.run("document.getElementById('search').value") == "x"


async def test_pages_fit_small_windows_and_run_no_foreign_code(
    service: RunningService, browser: Browser
) -> None:
    """At 390 pixels nothing is wider than the window, whatever jobs are called."""
    found = await asyncio.to_thread(jobs_of, service, {"labels": "x"})
    job = paths.expand(paths.UI_JOB, id=found[0]["ID"])
    long_job = paths.expand(paths.UI_JOB, id="n" * 1_000)
    for width in (390, 1280):
        await browser.look(width=width, height=844)
        for path in (
            "/ui/", "/ui/?at=30", job, f"{job}?timeline=full", f"{job}?tab=spec", f"{job}?tab=versions",
            long_job, f"{job}/change?do=state", paths.UI_SUBMIT, f"{paths.UI_CHANGES}?from=0",
            f"{paths.UI_STOP}?name=job-3",
        ):  # fmt: skip
            await browser.open(service.url + path)
            overflow = await browser.run("document.documentElement.scrollWidth - window.innerWidth")
            assert overflow <= 0, (path, width, overflow)
            assert await browser.run("window.hacked ?? null") is None, path


async def test_without_scripts_everything_can_be_read_and_done(
    service: RunningService, browser: Browser
) -> None:
    """Filters, pages, a job, and a change of it."""
    await browser.set_scripts(enabled=False)
    await browser.open(f"{service.url}/ui/?limit=25&labels=env%3Dprod")
    await browser.set_scripts(enabled=True)  # to look at the page, whose scripts did not run
    assert await browser.run("document.documentElement.className") == ""
    assert await browser.run(f"{ROWS}.length") == 25
    assert (
        await browser.run("[...document.querySelectorAll('.js-only')].every(each => !each.offsetParent)")
        is True
    )
    older = await browser.run("document.querySelector('a[rel=next]').href")
    await browser.set_scripts(enabled=False)
    await browser.open(older)
    await browser.set_scripts(enabled=True)
    assert await browser.run(f"{ROWS}.length") == 5
