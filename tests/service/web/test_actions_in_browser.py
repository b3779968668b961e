"""Every action of the UI by clicks, on elements as assistive technology names them, and what it did."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from jobledger import JetStreamLog, subscribe
from jobledger.service.wire import paths
from jobledger.store.local_service import DATA_DIR_VARIABLE, find_local_log
from tests.support.api import job_body, ok
from tests.support.browser import Browser
from tests.support.failing_handlers import Handler, Running
from tests.support.http_servers import receiving
from tests.support.logs import eventually
from tests.support.service_process import RunningService, running_service

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
DROP = """async (name, text) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name));
  const event = {dataTransfer: transfer, bubbles: true, cancelable: true};
  document.getElementById('spec').dispatchEvent(new DragEvent('drop', event));
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    flags = ("--webhook-allow", "127.0.0.0/8")
    with running_service(tmp_path_factory.mktemp("service"), *flags) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url) as found:
        yield found


async def put(client: httpx.AsyncClient, name: str, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = ok(await client.put(paths.JOBS, json=job_body(name, **fields)))
    return found


async def job_of(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = ok(await client.get(paths.expand(paths.JOB, id=name)))["Job"]
    return found


def spec(name: str, priority: int) -> str:
    return (
        f"Name: {name}\nType: batch\nPriority: {priority}\nTasks: [{{Name: main, Engine: {{Type: noop}}}}]\n"
    )


async def test_a_job_is_submitted_edited_tagged_reverted_and_run_again(
    service: RunningService, client: httpx.AsyncClient, browser: Browser
) -> None:
    """Problems are named at their lines, a diff is shown before each write, and each write is in the log."""
    await browser.open(f"{service.url}{paths.UI_JOBS}")
    await browser.follow("link", "Submit a job")
    await browser.fill("textbox", "Spec", "Name: life\nType: nonsense\n")
    await browser.until("document.querySelectorAll('#check [data-line]').length === 2")
    assert "line 2" in await browser.text()
    await browser.run(f"({DROP})('life.toml', {json.dumps(TOML)})")
    await browser.until("document.getElementById('check').innerText.includes('A new job')")
    await browser.fill("textbox", "Reason", "first")
    assert "The spec was accepted" in await browser.follow("button", "Submit")
    await browser.follow("link", "Edit")
    await browser.fill("textbox", "Spec", spec("life", 7))
    await browser.until("document.querySelector('#check ins')?.innerText.includes('7')")
    assert "The spec was accepted" in await browser.follow("button", "Submit")
    assert (await job_of(client, "life"))["Priority"] == 7
    await browser.follow("link", "Tag")
    await browser.fill("textbox", "Tag", "golden")
    await browser.fill("textbox", "Version or tag", "1")
    assert "The version was tagged." in await browser.follow("button", "Tag a version")
    await browser.follow("link", "Versions")
    text = await browser.follow("link", "Revert… version 1")
    assert "Version 2 → the spec of version 1" in text
    await browser.fill("textbox", "Reason", "back to gold")
    assert "A new version has the spec" in await browser.follow("button", "Return to an earlier version")
    assert ((await job_of(client, "life"))["Version"], (await job_of(client, "life"))["Priority"]) == (3, 50)
    ok(await client.put(paths.expand(paths.JOB_STATE, id="life"), json={"StateType": "Running"}))
    await browser.follow("link", "Rerun")
    await browser.fill("textbox", "Version or tag", "golden")
    assert "The job runs again" in await browser.follow("button", "Run the job again")
    await browser.follow("link", "Versions")
    await browser.follow("link", "Remove the tag golden")
    assert "The tag was removed." in await browser.follow("button", "Remove a tag")
    await browser.follow("link", "Stop…")
    await browser.fill("textbox", "Reason", "enough")
    assert "The job was stopped." in await browser.follow("button", "Stop the job")
    items = ok(
        await client.get(paths.expand(paths.JOB_HISTORY, id="life"), params={"all_job_versions": "true"})
    )
    reasons = [each.get("Reason", "") for each in items["Items"]]
    assert [each for each in reasons if each] == ["first", "back to gold", "enough"]


TOML = 'Name = "life"\nType = "batch"\nPriority = 50\n[[Tasks]]\nName = "main"\nEngine.Type = "noop"\n'


async def test_a_lost_race_shows_what_was_missed(
    service: RunningService, client: httpx.AsyncClient, browser: Browser
) -> None:
    """The state that someone else set meanwhile stays, and the page names it, its actor and its reason."""
    job_id = (await put(client, "race"))["JobID"]
    await browser.open(f"{service.url}{paths.expand(paths.UI_JOB, id=job_id)}")
    await browser.follow("link", "Set state")
    await browser.run("document.querySelector('select[name=state]').value = 'Failed'")
    state = {"StateType": "Running", "Reason": "it was quicker"}
    ok(
        await client.put(
            paths.expand(paths.JOB_STATE, id=job_id), json=state, headers={"Jobledger-Actor": "bob"}
        )
    )
    text = await browser.follow("button", "Set the state")
    assert "What happened since then" in text
    assert "bob" in text
    assert "it was quicker" in text
    assert "Nothing was written" in text
    assert (await job_of(client, job_id))["State"]["StateType"] == "Running"
    browser.complaints.clear()  # Chromium logs the status 412
    await browser.follow("link", "Show the job as it is now")
    await browser.follow("link", "Set state")
    await browser.run("document.querySelector('select[name=state]').value = 'Completed'")
    assert "The state was set." in await browser.follow("button", "Set the state")
    assert (await job_of(client, job_id))["State"]["StateType"] == "Completed"


async def test_selected_and_matching_jobs_are_stopped_with_a_reason(
    service: RunningService, client: httpx.AsyncClient, browser: Browser
) -> None:
    """The reader sees them first; a job that changed since is named as refused, the others are stopped."""
    ids = [(await put(client, f"bulk-{number}", Labels={"set": "bulk"}))["JobID"] for number in range(4)]
    await browser.open(f"{service.url}{paths.UI_JOBS}?labels=set%3Dbulk")
    for number in (1, 2):
        await browser.click("checkbox", f"Select bulk-{number}")
    assert "2 selected" in await browser.text()
    assert "bulk-2" in await browser.follow("button", "Stop selected…")
    await browser.fill("textbox", "Reason", "too many")
    text = await browser.follow("button", "Stop 2 jobs")
    assert "2 jobs finished" in text
    await browser.open(f"{service.url}{paths.UI_JOBS}?labels=set%3Dbulk")
    await browser.follow("link", "Stop all that match…")
    ok(await client.put(paths.expand(paths.JOB_STATE, id=ids[0]), json={"StateType": "Running"}))
    await browser.fill("textbox", "Reason", "all of them")
    text = await browser.follow("button", "Stop 2 jobs")
    assert "1 job stopped, 1 refused" in text
    browser.complaints.clear()  # Chromium logs the status 409
    states = [(await job_of(client, each))["State"]["StateType"] for each in ids]
    assert states == ["Running", "Stopped", "Stopped", "Stopped"]


@asynccontextmanager
async def failing(service: RunningService, fails: dict[int, int]) -> AsyncIterator[Handler]:
    """A subscriber `billing` in this process, which parks an event at once."""
    log = await JetStreamLog.connect(find_local_log({DATA_DIR_VARIABLE: str(service.data_dir)}).url)
    handler = Handler(fails)
    try:
        async with Running(subscribe(log, "billing", retries=0), handler):
            yield handler
    finally:
        await log.close()


async def test_parked_jobs_are_retried_and_skipped_and_a_subscription_is_reset_and_deleted(
    service: RunningService, client: httpx.AsyncClient, browser: Browser
) -> None:
    """Each after a page that asks; also while jobs are parked."""
    sequences = {name: (await put(client, name))["Sequence"] for name in ("again", "never", "left", "fine")}
    poison = {sequences["again"]: 1, sequences["never"]: 1, sequences["left"]: 1}
    page = paths.expand(paths.UI_SUBSCRIPTION, name="billing")

    async def parked() -> set[str]:
        answer = await client.get(paths.expand(paths.SUBSCRIPTION_PARKED, name="billing"))
        found = answer.json().get("Items", []) if answer.status_code == 200 else []
        return {each["Name"] for each in found if each["State"] == "parked"}

    async with failing(service, poison) as handler:
        await handler.until(sequences["fine"])

        async def all_parked() -> bool:
            return await parked() == {"again", "never", "left"}

        await eventually(all_parked)
        await browser.open(f"{service.url}{paths.UI_SUBSCRIPTIONS}")
        text = await browser.follow("link", "billing")
        assert f"{sequences['again']} is poison" in text
        for link, button, note in (
            ("Retry… again", "Retry now", "The event is handled again."),
            ("Skip… never", "Skip the event", "The event was skipped."),
        ):
            await browser.follow("link", link)
            assert note in await browser.follow("button", button)
        await handler.until(sequences["again"])

        async def one_left() -> bool:
            return await parked() == {"left"}

        await eventually(one_left)
        assert sequences["never"] not in handler.done
        await browser.open(service.url + page)
        await browser.follow("link", "Reset…")
        await browser.fill("textbox", "After", "nonsense")
        assert "nonsense" in await browser.follow("button", "Reset the position")
        browser.complaints.clear()  # Chromium logs the status 400
        handler.fails[sequences["left"]] = 1
        handler.done.clear()
        await browser.fill("textbox", "After", str(sequences["again"] - 1))
        assert "The position was reset." in await browser.follow("button", "Reset the position")
        await handler.until(sequences["fine"], sequences["again"], sequences["never"])
        await eventually(one_left)
    await browser.open(service.url + page)
    await browser.follow("link", "Delete…")
    assert "The subscription was deleted." in await browser.follow("button", "Delete the subscription")
    assert (await client.get(paths.expand(paths.SUBSCRIPTION, name="billing"))).status_code == 404


async def test_a_webhook_is_tested_paused_resumed_redelivered_and_deleted(
    service: RunningService, client: httpx.AsyncClient, browser: Browser
) -> None:
    """The receiver gets what the pages say that it got."""
    async with receiving() as receiver:
        body = {"URL": receiver.url("/x"), "Name": "hook", "After": "now"}
        ok(await client.post(paths.WEBHOOKS, json=body))
        await put(client, "hooked")
        (event,) = await receiver.wait_for(1)
        await browser.open(f"{service.url}{paths.UI_WEBHOOKS}")
        await browser.follow("link", "hook")
        await browser.follow("link", "Test…")
        assert "The event was taken" in await browser.follow("button", "Send a test event")
        await browser.follow("link", "Back to the webhook")
        await browser.follow("link", "Pause…")
        assert "The webhook is paused." in await browser.follow("button", "Pause the webhook")
        await put(client, "while-paused")
        await browser.follow("link", "Resume…")
        assert "sends events again" in await browser.follow("button", "Resume the webhook")
        await receiver.wait_for(3)
        await browser.follow("link", "Redeliver…")
        await browser.fill("textbox", "Sequence of the event", str(event.event["sequence"]).lstrip("0"))
        assert "The event was taken" in await browser.follow("button", "Redeliver the event")
        got = await receiver.wait_for(4)
        assert got[3].body == event.body
        await browser.follow("link", "Back to the webhook")
        await browser.follow("link", "Delete…")
        assert "The webhook was deleted." in await browser.follow("button", "Delete the webhook")
    assert (await client.get(paths.expand(paths.WEBHOOK, name="hook"))).status_code == 404


async def test_seals_are_compared_and_operations_are_tried(
    service: RunningService, client: httpx.AsyncClient, browser: Browser
) -> None:
    """On the pages Audit and API; the tail of events is cleared and wrapped; guides and health are read."""
    ok(await client.post(paths.AUDIT_SEALS))
    await put(client, "between-seals")
    ok(await client.post(paths.AUDIT_SEALS))
    await browser.open(f"{service.url}{paths.UI_AUDIT}")
    await browser.follow("button", "Does B extend A?")
    await browser.until(
        "document.getElementById('consistency-verdict').classList.contains('good')"
        " || document.getElementById('consistency-verdict').classList.contains('warn')"
    )
    await browser.follow("link", "Events")
    await browser.until("document.getElementById('tail-status').dataset.state === 'live'")
    await browser.click("button", "Wrap")
    await browser.click("button", "Clear")
    await browser.until("document.querySelectorAll('#tail-rows tr').length === 0")
    await put(client, "after-clear")
    await browser.until("document.querySelectorAll('#tail-rows tr').length === 1")
    assert "ready" in await browser.follow("link", "Health")
    await browser.follow("link", "API")
    await browser.until("document.querySelector('form[data-path]') !== null")
    form = f"document.querySelector('form[data-path=\"{paths.JOBS}\"][data-method=GET]')"
    await browser.run(f"{form}.closest('details').setAttribute('open', '')")
    await browser.run(f"{form}.requestSubmit()")
    await browser.until(f"{form}.innerText.includes('after-clear')")
