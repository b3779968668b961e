"""Forms that ask before an operator's change: what will happen, its fields, and one button."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import RouteNotFound
from jobledger.service.web.calls import call
from jobledger.service.web.site import render

Form = Mapping[str, str]


class Field(NamedTuple):
    """A field of the form; `is_fixed`: the link to the form sets it, and it is only shown."""

    name: str
    title: str
    is_fixed: bool = False
    is_required: bool = True
    hint: str = ""


class Action(NamedTuple):
    """A change.

    Attributes:
        title: of the form and of its button.
        text: what it does, in one or two sentences.
        operation: of the API.
        body: the request of the operation; None: it has none.
        note: what the page says afterwards.
        is_end: the thing is gone afterwards.
    """

    title: str
    text: str
    operation: str
    note: str
    body: Callable[[Form], dict[str, Any] | None] = lambda _: None
    fields: tuple[Field, ...] = ()
    is_danger: bool = False
    is_end: bool = False


def action_of(request: Request[Any], actions: Mapping[str, Action], do: str) -> Action:
    """The action that a request names.

    Raises:
        RouteNotFound: there is none of that name.
    """
    if do not in actions:
        raise RouteNotFound(f"{request.path}?do={do[:40]}")
    return actions[do]


def ask(
    request: Request[Any], action: Action, do: str, form: Form, *, back: str, crumb: str, problem: str = ""
) -> Response:
    """The form; `back` is the page of the thing that is changed, and `crumb` the kind of thing."""
    return render(
        request,
        "confirm.html",
        status=400 if problem else 200,
        action=action,
        do=do,
        form=form,
        subject=request.values["name"],
        back=back,
        crumb=crumb,
        problem=problem,
    )


async def act(request: Request[Any], action: Action, form: Form) -> Any:
    """Make the change, and return what the API answers."""
    return await call(request, action.operation, body=action.body(form), name=request.values["name"])
