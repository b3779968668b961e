"""Changing a subscription: retry, skip, reset, delete; each after a form that asks."""

from typing import Any, Final
from urllib.parse import urlencode

from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.web.confirm import Action, Field, act, action_of, ask
from jobledger.service.web.site import page, see_other, words_of
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput

_CRUMB: Final = "Subscriptions"
_FIELDS: Final = ("job", "after")
_JOB: Final = Field("job", "Job", is_fixed=True)

ACTIONS: Final = {
    "retry": Action(
        "Retry now",
        "The failed event is handled again now, with all its retries, and then the later events of the job.",
        "retryParkedJobs",
        "The event is handled again.",
        lambda form: {"JobID": form["job"]},
        (_JOB,),
    ),
    "retry-all": Action(
        "Retry all jobs now",
        "The failed events of all retrying and parked jobs are handled again now, then their later ones.",
        "retryParkedJobs",
        "The events are handled again.",
        lambda _: {},
    ),
    "skip": Action(
        "Skip the event",
        "The failed event is never handled; the job continues with its later events. This cannot be undone.",
        "skipParkedEvent",
        "The event was skipped.",
        lambda form: {"JobID": form["job"]},
        (_JOB,),
        is_danger=True,
    ),
    "reset": Action(
        "Reset the position",
        "All events after the point are handled, again if they were before, and none up to it. Parked jobs"
        " restart there, too.",
        "resetSubscription",
        "The position was reset.",
        lambda form: {"After": form["after"]},
        (Field("after", "After", hint="0, a sequence, a cursor, a time, or an age such as 2h"),),
        is_danger=True,
    ),
    "delete": Action(
        "Delete the subscription",
        "Its position and its parked jobs are deleted. The log and its events stay.",
        "deleteSubscription",
        "The subscription was deleted.",
        is_danger=True,
        is_end=True,
    ),
}
"""What an admin can do, by its name in the URL."""


@page("GET", paths.UI_SUBSCRIPTION_CHANGE, "uiSubscriptionChange", requires=Permission.ADMIN)
async def show_form(request: Request[Any]) -> Response:
    """The form for a change."""
    do = request.query.text("do")
    form = {name: request.query.text(name) for name in _FIELDS}
    return ask(request, action_of(request, ACTIONS, do), do, form, back=_back(request), crumb=_CRUMB)


@page("POST", paths.UI_SUBSCRIPTION_CHANGE, "uiSubscriptionChangePost", requires=Permission.ADMIN)
async def change(request: Request[Any]) -> Response:
    """Make the change; a mistake in the form is shown next to it."""
    do = request.form.text("do")
    action = action_of(request, ACTIONS, do)
    form = {name: request.form.text(name).strip() for name in _FIELDS}
    try:
        await act(request, action, form)
    except InvalidInput as error:
        return ask(request, action, do, form, back=_back(request), crumb=_CRUMB, problem=words_of(error))
    target = paths.UI_SUBSCRIPTIONS if action.is_end else _back(request)
    return see_other(f"{target}?{urlencode({'note': do})}")


def _back(request: Request[Any]) -> str:
    return paths.expand(paths.UI_SUBSCRIPTION, name=request.values["name"])
