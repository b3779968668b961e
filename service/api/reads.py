"""Reading jobs: `GET` under `/api/v1/orchestrator`. Answers come from the view, histories from the log."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

from litestar import Response, get

from jobledger.projections.errors import VersionNotFound
from jobledger.projections.limits import LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.projections.query.query import ListQuery, Order, order_of_cursor
from jobledger.projections.query.selectors import Requirement, parse_selector
from jobledger.service.access.principal import Principal
from jobledger.service.api.answers import (
    NO_EXECUTIONS,
    RawJSON,
    encode,
    etag,
    job_raw,
    json_answer,
)
from jobledger.service.api.asof import job_at, page_point
from jobledger.service.api.capacity import client_of_request, queued, waiting
from jobledger.service.api.context import (
    AnyRequest,
    JobRef,
    await_position,
    find_job,
    principal_of,
    query_of,
    service_of,
)
from jobledger.service.api.params import ALL_NAMESPACES, Query, header
from jobledger.service.api.versions import version_raw
from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.service.errors import NoLogs
from jobledger.service.history import history_item
from jobledger.service.limits import (
    HISTORY_DEFAULT_LIMIT,
    HISTORY_MAX_LIMIT,
    HISTORY_PAGE_BYTES,
    LONG_PAGE_ITEMS,
    UNIX_SECONDS_MAX,
)
from jobledger.service.point import pin
from jobledger.service.versions import version_of
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import Job
from jobledger.store.yield_point import yield_point

_ORDERS: Final = {
    "created_at": Order.CREATED,
    "created": Order.CREATED,
    "create_time": Order.CREATED,
    "modified_at": Order.MODIFIED,
    "modified": Order.MODIFIED,
    "modify_time": Order.MODIFIED,
}
_EVENT_TYPES: Final = ("all", "job", "execution")
QUARANTINED: Final = {"include": None, "only": True, "exclude": False}
_NANOSECONDS: Final = 1_000_000_000


@get("/jobs")
async def list_jobs(request: AnyRequest) -> Response[bytes]:
    """One page of jobs."""
    service, query = service_of(request), query_of(request)
    await await_position(service, query)
    point, token = await page_point(service, query)
    asked = _list_query(query, principal_of(request), token)
    if point is None:
        async with _turn_for(service, asked.limit):
            page = await service.view.list(asked)
    else:
        page = await service.asof.list(
            asked,
            point,
            client=client_of_request(),
            waiting=waiting,
            turn=lambda: _turn_for(service, asked.limit),
        )
    sequence, after = page.sequence, page.next_cursor or ""
    if point is not None:
        sequence, after = point, pin(point, after, service.mark)
    items = []
    for job in page.jobs:
        await yield_point()
        items.append(job_raw(job))
    return json_answer(
        {
            "Items": items,
            "NextToken": after,
            "Sequence": sequence,
            "Cursor": format_cursor(service.mark, sequence),
        }
    )


@get("/jobs/{job_id:str}")
async def get_job(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """One job; with its history, if that is asked; or an earlier version of it, or as it was at a point."""
    service, query = service_of(request), query_of(request)
    checkpoint = service.projector.sequence
    job = await find_job(request, job_id, query.text("namespace"))
    job, point, token = await job_at(service, query, job, checkpoint)
    version = version_of(query.text("job_version"), job.status)
    if point is not None:  # the view may have a later one
        _check_version(job, version)
    headers: list[tuple[bytes, bytes]] = []
    include = query.texts("include")
    if not version:
        tag = etag(job.status.revision)
        headers = [(b"etag", tag.encode()), (b"cache-control", b"no-cache")]
        # The tag is of the job alone: its history has grown when one of its versions was tagged.
        if _matches(header(request.scope["headers"], b"if-none-match"), tag) and not include:
            return RawJSON(b"", headers, status=304)
    if not (version or include or point is not None):
        return RawJSON(b'{"Job":%b}' % job.to_json(), headers)
    answer: dict[str, Any] = {"Job": job_raw(job)}
    if version:
        answer["Job"] = await version_raw(service, job, version)
    if "history" in include:
        shown = version or job.status.version
        answer["History"] = await _history(service, job, query, token, version=shown, point=point)
    if "executions" in include:
        answer["Executions"] = NO_EXECUTIONS
    if point is not None:
        answer |= {"Sequence": point, "Cursor": format_cursor(service.mark, point)}
    return RawJSON(encode(answer), headers)


@get("/jobs/{job_id:str}/history")
async def get_history(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """A job's events, oldest first, page by page."""
    service, query = service_of(request), query_of(request)
    checkpoint = service.projector.sequence
    job = await find_job(request, job_id, query.text("namespace"))
    job, point, token = await job_at(service, query, job, checkpoint)
    version = version_of(query.text("job_version"), job.status)
    if not version and not query.flag("all_job_versions"):
        version = job.status.version
    _check_version(job, version)
    return json_answer(await _history(service, job, query, token, version=version, point=point))


@get("/jobs/{job_id:str}/executions")
async def get_executions(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """A job's executions: none, for now."""
    await find_job(request, job_id, query_of(request).text("namespace"))
    return json_answer(NO_EXECUTIONS)


@get("/jobs/{job_id:str}/results")
async def get_results(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """A job's results: none, for now."""
    await find_job(request, job_id, query_of(request).text("namespace"))
    return json_answer(NO_EXECUTIONS)


@get("/jobs/{job_id:str}/logs")
async def get_logs(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """Refuse to stream logs; `bacalhau job logs` asks for them, over a WebSocket."""
    job = await find_job(request, job_id, query_of(request).text("namespace"))
    raise NoLogs(
        f"job {job.status.id} has no logs here: Jobledger keeps the states of jobs, not what their executions"
        " print"
    )


def _turn_for(service: Service, limit: int) -> AbstractAsyncContextManager[None]:
    """A turn for a large page; a small one needs none."""
    return queued(service.scans) if limit > LONG_PAGE_ITEMS else nullcontext()


# --- what a list asks -----------------------------------------------------------------------------------


def _list_query(query: Query, principal: Principal, next_token: str) -> ListQuery:
    token = next_token or None
    order, descending = _order(query), query.flag("reverse")
    if token is not None and not (query.text("order_by") or query.text("reverse")):
        order, descending = order_of_cursor(token)  # the token says it, as Bacalhau's does
    return ListQuery(
        namespaces=_list_namespaces(query, principal),
        states=query.states(),
        types=tuple(query.texts("type")),
        selector=_selector(query),
        quarantined=_quarantined(query),
        created_from=query.time("created_from"),
        created_to=query.time("created_to"),
        modified_from=query.time("modified_from"),
        modified_to=query.time("modified_to"),
        order=order,
        descending=descending,
        limit=query.integer("limit", LIST_DEFAULT_LIMIT, most=LIST_MAX_LIMIT) or LIST_MAX_LIMIT,
        cursor=token,
    )


def _list_namespaces(query: Query, principal: Principal) -> tuple[str, ...] | None:
    """The namespace that is named, or all that the principal may read; None for all that there are."""
    asked = query.text("namespace")
    if asked and asked != ALL_NAMESPACES:
        principal.require_read(asked)
        return (asked,)
    return None if principal.visible is None else tuple(sorted(principal.visible))


def _order(query: Query) -> Order:
    asked = query.text("order_by")
    order = _ORDERS.get(asked.lower() or "created_at")
    if order is None:
        raise InvalidInput(f"order_by is {asked!r:.60}; use created_at or modified_at")
    return order


def _quarantined(query: Query) -> bool | None:
    asked = query.text("quarantined").lower() or "include"
    if asked not in QUARANTINED:
        raise InvalidInput(f"quarantined is {asked!r:.60}; use one of {', '.join(QUARANTINED)}")
    return QUARANTINED[asked]


def _selector(query: Query) -> tuple[Requirement, ...]:
    return tuple(requirement for text in query.repeated("labels") for requirement in parse_selector(text))


def _check_version(job: Job, version: int) -> None:
    if version > job.status.version:
        raise VersionNotFound(
            f"job {job.status.id} has no version {version}; its last one is {job.status.version}"
        )


def _matches(if_none_match: str, tag: str) -> bool:
    """Whether a condition names this tag; `W/` does not matter here (RFC 9110, 13.1.2)."""
    tags = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return tag in tags or "*" in tags


# --- what the log tells -----------------------------------------------------------------------------------


async def _history(
    service: Service, job: Job, query: Query, token: str, *, version: int, point: int | None
) -> dict[str, Any]:
    """A page of a job's history, up to a point if one is named; version 0 is all versions."""
    status = job.status
    after = parse_cursor(token or "0", service.mark, field="next_token")
    limit = query.integer("limit", HISTORY_DEFAULT_LIMIT, most=HISTORY_MAX_LIMIT) or HISTORY_MAX_LIMIT
    since = query.integer("since", 0)
    if since > UNIX_SECONDS_MAX:
        raise InvalidInput(
            f"since is {since}, which is finer than seconds; send Unix seconds, as Bacalhau's is"
        )
    since *= _NANOSECONDS
    kind = query.text("event_type").lower() or "all"
    if kind not in _EVENT_TYPES:
        raise InvalidInput(f"event_type is {kind!r:.60}; use one of {', '.join(_EVENT_TYPES)}")
    wanted = kind != "execution" and not query.text("execution_id")
    items: list[dict[str, Any]] = []
    last, terminal, more, size = after, status.state.state_type.is_terminal, False, 0
    async with _turn_for(service, limit):
        async for item in service.ledger.history(status.id, namespace=status.namespace, after=after):
            if point is not None and item.sequence > point:
                break
            is_shown = wanted and (bool(item.quarantine) or not item.anomaly)
            fits = is_shown and item.time >= since and version in {0, item.version}
            if fits:
                # A state's details are in the item twice: in State, and in Event for Bacalhau's clients.
                size += len(item.reason) + (2 * item.state.size if item.state is not None else 0)
            if len(items) == limit or (items and size > HISTORY_PAGE_BYTES):
                more = True
                break
            last = item.sequence
            terminal = item.state is not None and item.state.state_type.is_terminal
            if fits:
                items.append(history_item(status.id, item, service.mark))
    # As in Bacalhau: a client follows a job by this token, until there is none. What was has an end.
    behind = format_cursor(service.mark, last) if more or (point is None and not terminal) else ""
    return {"Items": items, "NextToken": behind if point is None else pin(point, behind, service.mark)}


HANDLERS: Final[tuple[Any, ...]] = (
    list_jobs,
    get_job,
    get_history,
    get_executions,
    get_results,
    get_logs,
)
