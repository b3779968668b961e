"""Durable subscriptions: where each is, who reads it, and the jobs that it retries or has parked."""

from typing import Any

from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.limits import PARKED_MAX_LIMIT
from jobledger.service.web.calls import call
from jobledger.service.web.site import page, render
from jobledger.service.web.subscription_change import ACTIONS
from jobledger.service.webhooks.records import SUBSCRIPTION_PREFIX
from jobledger.service.wire import paths
from jobledger.store.timestamps import parse_rfc3339


@page("GET", paths.UI_SUBSCRIPTIONS, "uiSubscriptions", requires=Permission.OBSERVE, nav="Subscriptions")
async def list_subscriptions(request: Request[Any]) -> Response:
    """All subscriptions, with their progress."""
    found = (await call(request, "listSubscriptions"))["Items"]
    note = ACTIONS["delete"].note if request.query.text("note") == "delete" else ""
    return render(request, "subscriptions.html", subscriptions=[facts_of(each) for each in found], note=note)


@page("GET", paths.UI_SUBSCRIPTION, "uiSubscription", requires=Permission.OBSERVE)
async def show_subscription(request: Request[Any]) -> Response:
    """One subscription, its members, and its retrying and parked jobs."""
    name = request.values["name"]
    found = (await call(request, "getSubscription", name=name))["Subscription"]
    parked = await call(request, "listParkedJobs", {"limit": str(PARKED_MAX_LIMIT)}, name=name)
    action = ACTIONS.get(request.query.text("note"))
    return render(
        request,
        "subscription.html",
        subscription=facts_of(found),
        jobs=[timed(each) for each in parked["Items"]],
        total=parked["Total"],
        note=action.note if action is not None else "",
        change=paths.expand(paths.UI_SUBSCRIPTION_CHANGE, name=name),
        is_delivered=name.startswith(SUBSCRIPTION_PREFIX),
    )


def facts_of(subscription: dict[str, Any]) -> dict[str, Any]:
    """A subscription, with what a table shows of its parts."""
    parts = subscription["Partitions"]
    positions = [int(part["Position"].rpartition("-")[2]) for part in parts]
    return {
        **subscription,
        "position": min(positions, default=0),
        "held": sum(part["Held"] for part in parts),
        "waiting": sum(part["Waiting"] for part in parts),
        "created_ns": parse_rfc3339(subscription["Created"]),
    }


def timed(job: dict[str, Any]) -> dict[str, Any]:
    """A retrying or parked job, with its times."""
    next_try = parse_rfc3339(job["NextTry"]) if job["NextTry"] else None
    return {**job, "since_ns": parse_rfc3339(job["Since"]), "next_ns": next_try}
