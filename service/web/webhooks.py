"""Webhooks: what each sends where, whether its target takes it, and the latest attempts."""

from collections.abc import Iterator
from typing import Any

from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.limits import PARKED_MAX_LIMIT
from jobledger.service.web.calls import call
from jobledger.service.web.site import page, render
from jobledger.service.web.subscriptions import facts_of, timed
from jobledger.service.web.webhook_change import ACTIONS
from jobledger.service.wire import paths
from jobledger.store.timestamps import parse_rfc3339


@page("GET", paths.UI_WEBHOOKS, "uiWebhooks", requires=Permission.OBSERVE, nav="Webhooks")
async def list_webhooks(request: Request[Any]) -> Response:
    """All webhooks, with the progress of the subscription of each."""
    found = (await call(request, "listWebhooks"))["Items"]
    progress = {each["Name"]: each for each in (await call(request, "listSubscriptions"))["Items"]}
    webhooks = [{**each, "progress": progress.get(each["Subscription"])} for each in found]
    note = ACTIONS["delete"].note if request.query.text("note") == "delete" else ""
    return render(request, "webhooks.html", webhooks=webhooks, filter_of=filter_of, note=note)


@page("GET", paths.UI_WEBHOOK, "uiWebhook", requires=Permission.OBSERVE)
async def show_webhook(request: Request[Any]) -> Response:
    """One webhook, its latest attempts, and its retrying and parked jobs."""
    name = request.values["name"]
    webhook = (await call(request, "getWebhook", name=name))["Webhook"]
    attempts = (await call(request, "listDeliveries", name=name))["Items"]
    subscriptions = (await call(request, "listSubscriptions"))["Items"]
    subscription = next((each for each in subscriptions if each["Name"] == webhook["Subscription"]), None)
    parked: dict[str, Any] = {"Items": [], "Total": 0}
    if subscription is not None:
        limit = {"limit": str(PARKED_MAX_LIMIT)}
        parked = await call(request, "listParkedJobs", limit, name=subscription["Name"])
    jobs = [timed(each) for each in parked["Items"]]
    action = ACTIONS.get(request.query.text("note"))
    return render(
        request,
        "webhook.html",
        webhook={**webhook, "created_ns": parse_rfc3339(webhook["Created"])},
        filter=filter_of(webhook),
        attempts=list(with_next_tries(attempts, jobs)),
        subscription=facts_of(subscription) if subscription is not None else None,
        jobs=jobs,
        total=parked["Total"],
        note=action.note if action is not None else "",
        change=paths.expand(paths.UI_WEBHOOK_CHANGE, name=name),
    )


def with_next_tries(attempts: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Attempts, newest first; the last one of an event that failed has the time of the next one."""
    waiting = {(each["JobID"], each["Sequence"]): each for each in jobs}
    for attempt in attempts:
        job = waiting.pop((attempt["JobID"], attempt["Sequence"]), None)
        yield {
            **attempt,
            "time_ns": parse_rfc3339(attempt["Time"]),
            "next_ns": job["next_ns"] if job is not None else None,
            "is_parked": job is not None and job["State"] == "parked",
        }


def filter_of(webhook: dict[str, Any]) -> dict[str, Any]:
    """The conditions of a webhook; those that do not apply are omitted."""
    return {name: webhook[name] for name in ("Namespace", "Types", "States", "Labels") if webhook[name]}
