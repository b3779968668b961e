"""Changing a webhook: pause, resume, test, redeliver, delete; each after a form that asks."""

from typing import Any, Final
from urllib.parse import urlencode

from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.web.confirm import Action, Field, act, action_of, ask
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput

_CRUMB: Final = "Webhooks"
_SEQUENCE_MAX_DIGITS: Final = 19


def _sequence(text: str) -> int:
    if not text.isdecimal() or len(text) > _SEQUENCE_MAX_DIGITS:
        raise InvalidInput(f"Sequence must be a positive integer, got {text!r:.40}")
    return int(text)


ACTIONS: Final = {
    "pause": Action(
        "Pause the webhook",
        "No event is sent until it is resumed; then it continues where it was.",
        "setWebhookState",
        "The webhook is paused.",
        lambda _: {"State": "paused"},
    ),
    "resume": Action(
        "Resume the webhook",
        "It continues with the event after the last one that was handled.",
        "setWebhookState",
        "The webhook sends events again.",
        lambda _: {"State": "enabled"},
    ),
    "test": Action(
        "Send a test event",
        "An event of the type jobledger.webhook.test.v1, which is not in the log, is sent to the target now.",
        "testWebhook",
        "",
    ),
    "redeliver": Action(
        "Redeliver the event",
        "The event is sent to the target again now, once, with the same id. The position and the"
        " parked jobs of the webhook stay as they are.",
        "redeliver",
        "",
        lambda form: {"Sequence": _sequence(form["sequence"])},
        (Field("sequence", "Sequence of the event", hint="4711"),),
    ),
    "delete": Action(
        "Delete the webhook",
        "Its secrets, its position and its parked jobs are deleted. The log and its events stay.",
        "deleteWebhook",
        "The webhook was deleted.",
        is_danger=True,
        is_end=True,
    ),
}
"""What an admin can do, by its name in the URL."""


@page("GET", paths.UI_WEBHOOK_CHANGE, "uiWebhookChange", requires=Permission.ADMIN)
async def show_form(request: Request[Any]) -> Response:
    """The form for a change."""
    do = request.query.text("do")
    form = {"sequence": request.query.text("sequence")}
    return ask(request, action_of(request, ACTIONS, do), do, form, back=_back(request), crumb=_CRUMB)


@page("POST", paths.UI_WEBHOOK_CHANGE, "uiWebhookChangePost", requires=Permission.ADMIN)
async def change(request: Request[Any]) -> Response:
    """Make the change; what the target answered to a test or a redelivery is shown on a page of its own."""
    do = request.form.text("do")
    action = action_of(request, ACTIONS, do)
    form = {"sequence": request.form.text("sequence").strip()}
    try:
        answer = await act(request, action, form)
    except InvalidInput as error:
        return ask(request, action, do, form, back=_back(request), crumb=_CRUMB, problem=words_of(error))
    if not action.note:
        back = _back(request)
        return render(request, "webhook_sent.html", sent=answer, subject=request.values["name"], back=back)
    target = paths.UI_WEBHOOKS if action.is_end else _back(request)
    return see_other(f"{target}?{urlencode({'note': do})}")


def _back(request: Request[Any]) -> str:
    return paths.expand(paths.UI_WEBHOOK, name=request.values["name"])
