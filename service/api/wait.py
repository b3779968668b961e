"""`GET /api/v1/orchestrator/jobs/{id}/wait`: answers once the job is in a state that is asked for.

A terminal state that was not asked for ends the wait at once, with 409: only a new version of the job leads
out of it, and who waits for `Running` would otherwise learn of a failure at the end of its patience.
"""

import asyncio
from typing import Any, Final

from litestar import Response, get

from jobledger.projections.limits import WAIT_MAX_SECONDS
from jobledger.projections.subscriptions.filters import EventFilter
from jobledger.service.api.answers import etag, job_raw, json_answer
from jobledger.service.api.capacity import waiting
from jobledger.service.api.context import (
    AnyRequest,
    JobRef,
    await_position,
    principal_of,
    query_of,
    service_of,
    with_slashes,
)
from jobledger.service.api.events import ended_with
from jobledger.service.api.params import Query, parse_state
from jobledger.service.errors import NotReady, Timeout, Unauthorized
from jobledger.service.feed.hub import Cause, FeedConnection
from jobledger.service.limits import WAIT_STATE_DEFAULT_SECONDS, WAIT_STATE_MAX_SECONDS
from jobledger.store.model.errors import InvalidInput, JobTerminal
from jobledger.store.model.job import Job, JobStatus, StateType

TERMINAL: Final = "terminal"
_TERMINAL_STATES: Final = frozenset(state for state in StateType if state.is_terminal)


@get("/jobs/{job_id:str}/wait")
async def wait_for_state(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """The job, as it was when it first was in one of the states; at once if it is."""
    service, principal, query = service_of(request), principal_of(request), query_of(request)
    wanted = _wanted(query)
    timeout_seconds = query.seconds("timeout", WAIT_STATE_DEFAULT_SECONDS, most=WAIT_STATE_MAX_SECONDS)
    await await_position(service, query, min(timeout_seconds, WAIT_MAX_SECONDS))
    # Before the view is asked: what comes between the two is not missed.
    seen = service.hub.sequence
    namespace = query.text("namespace") or None
    job = await service.view.get(with_slashes(job_id), namespace=namespace, visible=principal.visible)
    if not _reached(job.status, wanted):
        changes = await service.hub.open(
            EventFilter(job=(job.status.namespace, job.status.id)),
            after=seen,
            is_valid=lambda: service.tokens.is_valid(principal),
        )
        async with changes, ended_with(request.receive, changes):
            with waiting():
                status = await _next_reached(job.status, changes, wanted, timeout_seconds)
        spec = job.spec
        if status.spec_sequence != job.status.spec_sequence:
            spec = (await service.view.specs_at((status.spec_sequence,)))[status.spec_sequence]
        job = Job(status=status, spec=spec)
    return json_answer({"Job": job_raw(job)}, {"ETag": etag(job.status.revision)})


def _wanted(query: Query) -> frozenset[StateType]:
    texts = query.texts("state")
    if not texts:
        raise InvalidInput(f"state: say what to wait for, one of {TERMINAL}, {', '.join(StateType)}")
    wanted: set[StateType] = set()
    for text in texts:
        if text.lower() == TERMINAL:
            wanted |= _TERMINAL_STATES
        else:
            wanted.add(parse_state(text, "state"))
    return frozenset(wanted)


def _reached(status: JobStatus, wanted: frozenset[StateType]) -> bool:
    """Whether the job is where it is wanted.

    Raises:
        JobTerminal: if it has ended elsewhere.
    """
    state = status.state
    if state.state_type in wanted:
        return True
    if state.state_type.is_terminal:
        words = f" ({state.message})" if state.message else ""
        raise JobTerminal(
            f"job {status.id} is {state.state_type}{words} and will not become {_listed(wanted)} unless it"
            " gets a new version; update or rerun it, or wait for `terminal`"
        )
    return False


async def _next_reached(
    status: JobStatus, changes: FeedConnection, wanted: frozenset[StateType], timeout_seconds: float
) -> JobStatus:
    """The job's status when it is where it is wanted."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while (events := await changes.next()) is not None:
                for event in events:
                    if event.sequence <= status.sequence:  # the view was ahead
                        continue
                    status = event.status
                    if _reached(status, wanted):
                        return status
    except TimeoutError:
        raise Timeout(
            f"job {status.id} is {status.state.state_type} (revision {status.revision}) and did not become"
            f" {_listed(wanted)} within {timeout_seconds:g} s; wait longer, or follow its events"
        ) from None
    if changes.cause is Cause.REVOKED:
        raise Unauthorized(f"{changes.reason}; ask for a new one")
    raise NotReady(changes.reason)


def _listed(states: frozenset[StateType]) -> str:
    return " or ".join(state for state in StateType if state in states)


HANDLERS: Final[tuple[Any, ...]] = (wait_for_state,)
