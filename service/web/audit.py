"""The audit: the seals of the log, the keys, and whether one seal extends another."""

from typing import Any
from urllib.parse import urlencode

from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.web.calls import call
from jobledger.service.web.health import checks_of
from jobledger.service.web.site import page, render, words_of
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import parse_rfc3339

_PAGE = 50


@page("GET", paths.UI_AUDIT, "uiAudit", nav="Audit")
async def show_audit(request: Request[Any]) -> Response:
    """The seals, newest first; and the proof between two of them, which the browser verifies."""
    query = request.query
    found = await call(request, "listSeals", {"limit": str(_PAGE), "next_token": query.text("next_token")})
    keys = await call(request, "auditKeys")
    seals = [{**each, "time_ns": parse_rfc3339(each["Time"])} for each in found["Items"]]
    chosen = {name: query.text(name) for name in ("from", "to")}
    proof, problem = None, ""
    try:
        if all(chosen.values()):
            proof = await call(request, "consistency", chosen)
    except InvalidInput as error:
        problem = words_of(error)
    more = urlencode({"next_token": found["NextToken"]}) if found["NextToken"] else ""
    checks = await checks_of(request) if request.principal.may_observe else []
    return render(
        request,
        "audit.html",
        status=400 if problem else 200,
        seals=seals,
        newest=seals[0] if seals and not query.text("next_token") else None,
        keys=[_with_times(each) for each in keys["Items"]],
        origin=keys["Origin"],
        trusted=[each["Key"] for each in keys["Items"] if each["Trusted"]],
        chosen=chosen,
        proof=proof,
        notes={
            size: next((each["Note"] for each in seals if str(each["Size"]) == size), "")
            for size in chosen.values()
        },
        problem=problem,
        alarm=next((each.reason for each in checks if each.name == "seals" and not each.is_ok), ""),
        more=f"{paths.UI_AUDIT}?{more}" if more else "",
    )


def _with_times(key: dict[str, Any]) -> dict[str, Any]:
    """A key with its times in nanoseconds; None if it has none, or if another replica created it."""
    created, retires = key["Created"], key["Retires"]
    return {
        **key,
        "created_ns": parse_rfc3339(created) if created else None,
        "retires_ns": parse_rfc3339(retires) if retires else None,
    }
