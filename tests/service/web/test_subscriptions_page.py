"""Subscriptions and webhooks: what operators see of them, and what admins can do after a form that asks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.web.webhooks import with_next_tries
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body, ok
from tests.support.http_servers import receiving
from tests.support.logs import eventually
from tests.support.web_pages import Page, checked_page, running_ui, sign_in
from tests.support.webhooks import LOCAL

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path, webhook_allow=LOCAL) as running:
        yield running


async def create(client: httpx.AsyncClient, name: str, **fields: Any) -> None:
    ok(await client.post(paths.SUBSCRIPTIONS, json={"Name": name, **fields}))


def url(name: str, **query: str) -> httpx.URL:
    return httpx.URL(paths.expand(paths.UI_SUBSCRIPTION_CHANGE, name=name), params=query)


def changes(page: Page) -> list[str]:
    """What the page offers to change."""
    found = [each["href"] for each in page.all("a") if "/change?" in each["href"]]
    return sorted({each.partition("do=")[2].partition("&")[0] for each in found})


async def test_the_list_has_position_lag_and_filter(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Of each subscription; an empty list explains how one is created."""
    _, client = ui
    answer = await client.get(paths.UI_SUBSCRIPTIONS)
    checked_page(answer)
    assert "There are no durable subscriptions" in answer.text
    ok(await client.put(paths.JOBS, json=job_body("etl")))
    await create(client, "billing", Types=["created"], Labels="env=prod")
    answer = await client.get(paths.UI_SUBSCRIPTIONS)
    page = checked_page(answer)
    assert [each.text for each in page.all("a", lambda each: each["title"] == "billing")] == ["billing"]
    assert "unattended" in answer.text
    assert "env=prod" in answer.text
    page = checked_page(await client.get(paths.expand(paths.UI_SUBSCRIPTION, name="billing")))
    assert changes(page) == ["delete", "reset"]


async def test_a_position_is_reset_after_a_form_that_asks(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """A point that is not valid is explained next to the form, and nothing happens."""
    _, client = ui
    ok(await client.put(paths.JOBS, json=job_body("etl")))
    await create(client, "billing", Start="now")
    form = checked_page(await client.get(url("billing", do="reset")))
    assert [each["name"] for each in form.all("input") if each["name"]] == ["do", "after"]
    checked_page(await client.post(url("billing"), data={"do": "reset", "after": "nonsense"}), 400)
    answer = await client.post(url("billing"), data={"do": "reset", "after": "0"})
    assert answer.status_code == 303
    answer = await client.get(answer.headers["location"])
    checked_page(answer)
    assert "The position was reset." in answer.text
    found = ok(await client.get(paths.expand(paths.SUBSCRIPTION, name="billing")))["Subscription"]
    assert found["Partitions"][0]["Position"].endswith("-0")


async def test_a_subscription_is_deleted_after_a_form_that_asks(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """GET changes nothing; an unknown change, and one of a job that is not parked, are errors."""
    _, client = ui
    await create(client, "billing")
    checked_page(await client.get(url("billing", do="delete")))
    checked_page(await client.get(url("billing", do="nonsense")), 404)
    for do in ("retry", "skip"):
        checked_page(await client.get(url("billing", do=do, job="none")))
        answer = await client.post(url("billing"), data={"do": do, "job": "none"})
        checked_page(answer, 404)
    answer = await client.post(url("billing"), data={"do": "delete"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/subscriptions?note=delete")
    assert (await client.get(paths.expand(paths.SUBSCRIPTION, name="billing"))).status_code == 404


async def test_only_admins_are_offered_changes(tmp_path: Path) -> None:
    """An operator sees the pages; a token of one namespace does not, and finds no link to them."""
    async with running_ui(tmp_path) as (service, client):
        await create(client, "billing")
        await sign_in(service, client, "op", Role.WRITER)
        page = checked_page(await client.get(paths.expand(paths.UI_SUBSCRIPTION, name="billing")))
        assert changes(page) == []
        assert (await client.get(url("billing", do="delete"))).status_code == 403
        assert (await client.post(url("billing"), data={"do": "delete"})).status_code == 403
        await sign_in(service, client, "eve", Role.READER, ["other"])
        assert (await client.get(paths.UI_SUBSCRIPTIONS)).status_code == 403
        assert (await client.get(paths.UI_WEBHOOKS)).status_code == 403
        page = checked_page(await client.get(paths.UI_JOBS))
        assert not {paths.UI_SUBSCRIPTIONS, paths.UI_WEBHOOKS} & {each["href"] for each in page.all("a")}


async def attempts(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(await client.get(paths.expand(paths.WEBHOOK_DELIVERIES, name="hook")))[
        "Items"
    ]
    return found


def test_the_last_attempt_of_a_failed_event_has_the_next_one() -> None:
    """Earlier attempts have none, and neither has an event that was taken."""

    def attempt(job: str, sequence: int) -> dict[str, Any]:
        return {"JobID": job, "Sequence": sequence, "Time": "2026-01-31T12:00:00Z"}

    jobs = [
        {"JobID": "a", "Sequence": 1, "State": "retrying", "next_ns": 7},
        {"JobID": "b", "Sequence": 2, "State": "parked", "next_ns": None},
    ]
    attempts = [attempt("b", 2), attempt("a", 1), attempt("a", 1), attempt("c", 3), attempt("a", 0)]
    found = [(each["next_ns"], each["is_parked"]) for each in with_next_tries(attempts, jobs)]
    assert found == [(None, True), (7, False), (None, False), (None, False), (None, False)]


@pytest.mark.slow
async def test_a_webhook_shows_its_deliveries_and_redelivers(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """Each attempt with its outcome; the same event arrives again when an admin asks for it."""
    _, client = ui
    change = paths.expand(paths.UI_WEBHOOK_CHANGE, name="hook")
    async with receiving() as receiver:
        ok(await client.post(paths.WEBHOOKS, json={"URL": receiver.url("/x"), "Name": "hook", "After": "0"}))
        sequence = ok(await client.put(paths.JOBS, json=job_body(EVIL)))["Sequence"]
        (got,) = await receiver.wait_for(1)

        async def noted() -> bool:
            return bool(await attempts(client))

        await eventually(noted)
        (attempt,) = await attempts(client)
        assert (attempt["Outcome"], attempt["Attempt"], attempt["Problem"]) == ("taken", 1, "")
        assert attempt["Sequence"] == sequence
        page = checked_page(await client.get(paths.expand(paths.UI_WEBHOOK, name="hook")))
        assert changes(page) == ["delete", "pause", "redeliver", "test"]
        checked_page(await client.get(f"{change}?do=redeliver&sequence={sequence}"))
        answer = await client.post(change, data={"do": "redeliver", "sequence": str(sequence)})
        checked_page(answer)
        assert "The event was taken" in answer.text
        again = (await receiver.wait_for(2))[1]
        assert again.body == got.body
        assert again.headers["webhook-id"] == got.headers["webhook-id"]
        for wrong in ("", "x", "99"):
            checked_page(await client.post(change, data={"do": "redeliver", "sequence": wrong}), 400)
        assert (await client.post(change, data={"do": "pause"})).status_code == 303
        answer = await client.get(paths.UI_WEBHOOKS)
        checked_page(answer)
        assert "paused" in answer.text
        assert (await client.post(change, data={"do": "delete"})).status_code == 303
        assert (await client.get(paths.expand(paths.UI_WEBHOOK, name="hook"))).status_code == 404
