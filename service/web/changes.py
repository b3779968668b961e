"""What changed between two points of the log: every job that did, and how, by whom and why."""

from typing import Any, Final
from urllib.parse import urlencode

from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import Forbidden
from jobledger.service.web.calls import call
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput

_FIELDS: Final = ("from", "to", "namespace", "labels")
_EMPTY: Final[dict[str, Any]] = {"Items": [], "NextToken": "", "From": None, "To": None}


@page("GET", paths.UI_CHANGES, "uiChanges", nav="Changes")
async def show_changes(request: Request[Any]) -> Response:
    """The jobs that changed, by creation; by default in the last hour."""
    query = request.query
    form = {name: query.text(name) for name in _FIELDS}
    form["from"] = form["from"] or "1h"
    token, problem, status = query.text("next_token"), "", 200
    filters = {**form, "next_token": token, "limit": "50"}
    if token:  # it keeps both points
        filters |= {"from": "", "to": ""}
    try:
        changes = await call(request, "diffPoints", filters)
    except (InvalidInput, Forbidden) as error:
        changes, problem, status = _EMPTY, words_of(error), 400
    if not token and (resolved := _resolved(form, changes)) != form:  # once: the URL shows the same tomorrow
        found = {name: value for name, value in resolved.items() if value}
        return see_other(f"{paths.UI_CHANGES}?{urlencode(found)}")
    more = urlencode({**form, "next_token": changes["NextToken"]}) if changes["NextToken"] else ""
    return render(
        request,
        "changes.html",
        status=status,
        form=form,
        changes=changes,
        problem=problem,
        more=f"{paths.UI_CHANGES}?{more}" if more else "",
        api_url=f"{paths.CHANGES}?{urlencode({name: value for name, value in form.items() if value})}",
    )


def _resolved(form: dict[str, str], changes: dict[str, Any]) -> dict[str, str]:
    """The form with its points as sequences."""
    points = {
        name: str(changes[title]["Sequence"])
        for name, title in (("from", "From"), ("to", "To"))
        if changes[title] and form[name] and not form[name].isdecimal()
    }
    return {**form, **points}
