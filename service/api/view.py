"""What of the log this service's view could not read, and folding it again."""

from typing import Final

from jobledger.projections.limits import LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.service.api.operation import OperationGroup, Permission
from jobledger.service.api.parameters import NEXT_TOKEN, WAIT, limit
from jobledger.service.api.request import Request
from jobledger.service.wire import paths, view as wire
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import JobStatus, Quarantine
from jobledger.store.model.limits import INT_MAX

_LOST: Final = "lost:"

operations = OperationGroup("View")


@operations.declare(
    "GET",
    paths.VIEW_QUARANTINE,
    "listQuarantined",
    Permission.OBSERVE,
    (limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT, "jobs"), NEXT_TOKEN, *WAIT),
    response=wire.QuarantinedJobs,
)
async def list_quarantined(request: Request[None]) -> wire.QuarantinedJobs:
    """List the jobs in quarantine.

    A job is in quarantine if an event of it cannot be read: its type is unknown to this release, its content
    is malformed, or it is missing from the log.
    """
    view, query = request.service.view, request.query
    await request.await_position()
    limit = query.limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT)
    token = query.text("next_token")
    found: list[JobStatus] = []
    if not token.startswith(_LOST):
        found += await view.quarantined(after=_sequence(token), limit=limit)
        token = str(found[-1].created_sequence) if len(found) == limit else _LOST
    if len(found) < limit:
        place = token.removeprefix(_LOST).partition("/") if token != _LOST else ("", "", "")
        lost = await view.lost_jobs(after=(place[0], place[2]), limit=limit - len(found))
        found += lost
        token = f"{_LOST}{lost[-1].id}/{lost[-1].namespace}" if len(found) == limit else ""
    return wire.QuarantinedJobs([_quarantined_job(each) for each in found], token)


@operations.declare(
    "GET",
    paths.VIEW_DAMAGE,
    "listDamage",
    Permission.OBSERVE,
    (limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT, "ranges"), NEXT_TOKEN, *WAIT),
    response=wire.Damage,
)
async def list_damage(request: Request[None]) -> wire.Damage:
    """List the events that are missing from the log.

    The ranges of sequences that the log no longer had when this service's view read them, with the jobs that
    are known to miss an event there.
    """
    view, query = request.service.view, request.query
    await request.await_position()
    limit = query.limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT)
    holes = await view.damage(after=_sequence(query.text("next_token")), limit=limit)
    items = []
    for hole in holes:
        jobs = [_quarantined_job(each) for each in await view.missing_events(hole)]
        items.append(wire.DamagedRange(hole.first, hole.last, hole.last - hole.first + 1, jobs))
    troubles = await view.troubles()
    return wire.Damage(
        items,
        str(holes[-1].first) if len(holes) == limit else "",
        troubles.damaged_events,
        troubles.first_damaged - 1 if troubles.first_damaged else 0,
    )


@operations.declare("POST", paths.VIEW_HEAL, "healView", Permission.ADMIN, WAIT, response=wire.Healed)
async def heal_view(request: Request[None]) -> wire.Healed:
    """Fold the jobs in quarantine again.

    Each from its own events in the log, without interrupting anything else. A service that reads other types
    of events than its predecessor does this automatically when it starts.
    """
    await request.await_position()
    healed = await request.service.projector.heal()
    return wire.Healed(healed.jobs, healed.changed, healed.quarantined)


def _sequence(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) <= len(str(INT_MAX))):
        raise InvalidInput(f"next_token must be `NextToken` of the previous page, got {token!r:.60}")
    return int(token)


def _quarantined_job(status: JobStatus) -> wire.QuarantinedJob:
    quarantine = status.quarantine
    assert isinstance(quarantine, Quarantine)
    return wire.QuarantinedJob(
        sequence=quarantine.sequence,
        reason=quarantine.reason,
        unread=[wire.UnreadEvent(each.sequence, each.reason) for each in quarantine.unread],
        job_id=status.id,
        namespace=status.namespace,
        name=status.name,
        overflows=bool(quarantine.overflows),
    )
