"""`/api/v1/view/…`: what of the log this service's view could not read, and folding it again."""

from typing import Any, Final

from litestar import Response, get, post

from jobledger.projections.limits import LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.service.api.answers import json_answer
from jobledger.service.api.context import AnyRequest, await_position, principal_of, query_of, service_of
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import JobStatus, Quarantine
from jobledger.store.model.limits import INT_MAX

_LOST: Final = "lost:"


@get("/quarantine")
async def list_quarantined(request: AnyRequest) -> Response[bytes]:
    """Every job in quarantine, with every event that froze it; page by page."""
    principal_of(request).require_observe()
    service, query = service_of(request), query_of(request)
    await await_position(service, query)
    limit = query.integer("limit", LIST_DEFAULT_LIMIT, most=LIST_MAX_LIMIT) or LIST_MAX_LIMIT
    token = query.text("next_token")
    found: list[JobStatus] = []
    if not token.startswith(_LOST):
        found += await service.view.quarantined(after=_sequence(token), limit=limit)
        token = str(found[-1].created_sequence) if len(found) == limit else _LOST
    if len(found) < limit:
        place = token.removeprefix(_LOST).partition("/") if token != _LOST else ("", "", "")
        lost = await service.view.lost_jobs(after=(place[0], place[2]), limit=limit - len(found))
        found += lost
        token = f"{_LOST}{lost[-1].id}/{lost[-1].namespace}" if len(found) == limit else ""
    return json_answer({"Items": [_wire(each) for each in found], "NextToken": token})


@get("/damage")
async def list_damage(request: AnyRequest) -> Response[bytes]:
    """The ranges of events that the log no longer holds, with the jobs that miss one; page by page."""
    principal_of(request).require_observe()
    service, query = service_of(request), query_of(request)
    await await_position(service, query)
    limit = query.integer("limit", LIST_DEFAULT_LIMIT, most=LIST_MAX_LIMIT) or LIST_MAX_LIMIT
    holes = await service.view.damage(after=_sequence(query.text("next_token")), limit=limit)
    items = []
    for hole in holes:
        jobs = await service.view.missing_events(hole)
        items.append(
            {
                "First": hole.first,
                "Last": hole.last,
                "Events": hole.last - hole.first + 1,
                "Jobs": [_wire(each) for each in jobs],
            }
        )
    troubles = await service.view.troubles()
    return json_answer(
        {
            "Items": items,
            "NextToken": str(holes[-1].first) if len(holes) == limit else "",
            "Events": troubles.damaged_events,
            "ProvableUpTo": troubles.first_damaged - 1 if troubles.first_damaged else 0,
        }
    )


@post("/heal", status_code=200)
async def heal_view(request: AnyRequest) -> Response[bytes]:
    """Fold the jobs in quarantine again, from their own events."""
    principal_of(request).require_admin()
    service = service_of(request)
    await await_position(service, query_of(request))
    healed = await service.projector.heal()
    return json_answer({"Jobs": healed.jobs, "Changed": healed.changed, "Quarantined": healed.quarantined})


def _sequence(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) <= len(str(INT_MAX))):
        raise InvalidInput(f"next_token is {token!r:.60}; pass `NextToken` of the page before")
    return int(token)


def _wire(status: JobStatus) -> dict[str, Any]:
    quarantine = status.quarantine
    assert isinstance(quarantine, Quarantine)
    return {
        "JobID": status.id,
        "Namespace": status.namespace,
        "Name": status.name,
        "Sequence": quarantine.sequence,
        "Reason": quarantine.reason,
        "Unread": [{"Sequence": each.sequence, "Reason": each.reason} for each in quarantine.unread],
        "Overflows": quarantine.overflows,
    }


HANDLERS: Final[tuple[Any, ...]] = (list_quarantined, list_damage, heal_view)
