"""A real browser reads `/docs`, and follows a job with `EventSource`."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.browser import Browser
from tests.support.service_process import RunningService, running_service

pytestmark = pytest.mark.slow
JOBS = "/api/v1/orchestrator/jobs"
JOB = {"Job": {"Name": "watched", "Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}}

# The page's script: collect events until the job is Running, then close the feed.
WATCH = """
window.seen = new Promise((resolve, reject) => {
  const events = [];
  const source = new EventSource('/api/v1/events?after=0');
  window.opened = new Promise(resolve => { source.onopen = () => resolve('open'); });
  for (const type of ['created', 'updated', 'state'])
    source.addEventListener(`jobledger.job.${type}.v1`, message => {
      const event = JSON.parse(message.data);
      events.push({id: message.lastEventId, type: message.type, revision: event.revision,
                   sequence: event.sequence, state: event.data.State && event.data.State.StateType});
      if (event.revision === 2) { source.close(); resolve(events); }
    });
});
window.opened
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    with running_service(tmp_path) as running:
        yield running


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with Browser(tmp_path) as running:
        yield running


async def test_docs_are_a_complete_page(service: RunningService, browser: Browser) -> None:
    """`/docs` has the look of the UI; every link of its menu leads to a section, and every file is ours."""
    await browser.open(f"{service.url}/docs")
    assert await browser.run("document.title") == "API · Jobledger"
    assert await browser.run("document.querySelector('h1').innerText") == "Jobledger API"
    assert await browser.run("document.querySelectorAll('main section').length") > 40
    lost = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash))"
    assert await browser.run(f"{lost}.map(a => a.hash)") == []
    assert await browser.run("document.documentElement.scrollWidth <= window.innerWidth") is True
    names = await browser.run("performance.getEntriesByType('resource').map(each => each.name)")
    assert all(each.startswith(f"{service.url}/ui/static/") for each in names)
    assert browser.complaints == []


async def test_docs_send_a_request(service: RunningService, browser: Browser) -> None:
    """The form of an operation has its example; what is shown is what the service answers."""
    await browser.open(f"{service.url}/docs")
    await browser.until("document.documentElement.classList.contains('js')")
    output = "document.querySelector('#{id} form.try pre')?.textContent"
    send = "document.querySelector('#{id} form.try').requestSubmit()"
    await browser.until(
        "performance.getEntriesByType('resource').some(each => each.name.includes('api_forms'))"
    )
    await browser.run(send.format(id="putJob"))
    await browser.until(f"{output.format(id='putJob')}.includes('200 OK')")
    await browser.run("document.querySelector('#getJob [data-name=id]').value = 'no such/job'")
    await browser.run(send.format(id="getJob"))
    await browser.until(f"{output.format(id='getJob')}.includes('404 Not Found')")
    assert "jobs/no%20such%2Fjob" in await browser.run(output.format(id="getJob"))


async def test_an_event_source_sees_a_job_change(service: RunningService, browser: Browser) -> None:
    """A page of the same origin gets past events, then the change as it happens, each with its cursor."""
    async with httpx.AsyncClient(base_url=service.url) as client:
        (await client.put(JOBS, json=JOB)).raise_for_status()
        await browser.open(f"{service.url}/livez")  # a page of that origin
        assert await browser.run(WATCH) == "open"
        changed = await client.put(f"{JOBS}/watched/state", json={"StateType": "Running"})
        changed.raise_for_status()
    events = await browser.run("window.seen")
    assert [(each["type"], each["revision"], each.get("state")) for each in events] == [
        ("jobledger.job.created.v1", 1, None),
        ("jobledger.job.state.v1", 2, "Running"),
    ]
    assert events[-1]["id"] == changed.json()["Cursor"]


async def test_a_page_of_another_origin_sees_nothing(service: RunningService, browser: Browser) -> None:
    """Without tokens, a page of another origin can neither read nor follow."""
    await browser.open("data:text/html,elsewhere")
    url = f"{service.url}/api/v1/events?after=0"
    feed = (
        "new Promise(done => {"
        f" const source = new EventSource('{url}');"
        " source.onerror = () => done('refused');"
        " source.onopen = () => done('open'); })"
    )
    assert await browser.run(feed) == "refused"
    read = f"fetch('{service.url}{JOBS}').then(r => 'read', e => 'refused')"
    assert await browser.run(read) == "refused"
