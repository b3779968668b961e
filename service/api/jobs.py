"""Reading jobs. Jobs come from the view, histories from the log."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

import msgspec

from jobledger.projections.errors import VersionNotFound
from jobledger.projections.limits import (
    COUNT_MAX_JOBS,
    LIST_DEFAULT_LIMIT,
    LIST_MAX_LIMIT,
    LIST_SCAN_MAX_ROWS,
    WAIT_MAX_SECONDS,
)
from jobledger.projections.query.query import ListQuery, Order, order_of_cursor
from jobledger.projections.results import fit_page
from jobledger.projections.subscriptions.filters import EventFilter, parse_types
from jobledger.service.api.as_of import job_at, page_point, point_of
from jobledger.service.api.capacity import client_of_request, queued, waiting
from jobledger.service.api.events import ended_with
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import (
    AT,
    DURATION,
    ETAG,
    FLAG,
    ID,
    JOB_AT,
    JOB_VERSION,
    NAMESPACE,
    NAMESPACE_FILTER,
    NEXT_TOKEN,
    NOT_MODIFIED,
    STATES,
    TEXT,
    TEXTS,
    TIME,
    WAIT,
    WAIT_FOR,
    limit,
)
from jobledger.service.api.query import ALL_NAMESPACES, Query, parse_state
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response, encode, etag
from jobledger.service.api.response_guard import with_common
from jobledger.service.api.versions import job_json, version_json
from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.service.errors import NoLogs, NotReady, Timeout, Unauthorized
from jobledger.service.feed.hub import Cause, FeedConnection
from jobledger.service.history import history_item
from jobledger.service.job_answers import KeptAnswer
from jobledger.service.limits import (
    HISTORY_DEFAULT_LIMIT,
    HISTORY_MAX_LIMIT,
    HISTORY_PAGE_BYTES,
    LONG_PAGE_ITEMS,
    UNIX_SECONDS_MAX,
    WAIT_STATE_DEFAULT_SECONDS,
    WAIT_STATE_MAX_SECONDS,
)
from jobledger.service.point import pin
from jobledger.service.versions import version_of
from jobledger.service.wire import jobs as wire, paths
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput, JobTerminal
from jobledger.store.model.events import EVENT_TYPES, event_type
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, JobStatus, StateType
from jobledger.store.spec.spec import JOB_TYPES
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND
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
TERMINAL: Final = "terminal"
_TERMINAL_STATES: Final = frozenset(state for state in StateType if state.is_terminal)
_NO_ITEMS: Final = wire.NoItems([], "")
_SECONDS: Final = {"type": "integer", "minimum": 0, "maximum": UNIX_SECONDS_MAX}
_EVENT_TYPE: Final = {"type": "string", "enum": list(_EVENT_TYPES), "default": "all"}

_FILTERS: Final = (
    NAMESPACE_FILTER,
    Parameter("labels", TEXTS, "a selector such as `env=prod,tier in (web, api),!old,cpus>2`; repeatable"),
    Parameter(
        "name", TEXT, "a part of the name, up to 128 characters, without regard to the case of ASCII letters"
    ),
    Parameter(
        "type",
        {"type": "array", "items": {"type": "string", "enum": list(JOB_TYPES)}},
        "any of these types; repeatable, or separated by commas",
    ),
    Parameter(
        "quarantined",
        {"type": "string", "enum": list(QUARANTINED), "default": "include"},
        "jobs that are frozen because one of their events cannot be read",
    ),
    *(
        Parameter(f"{axis}_{bound}", TIME, "RFC 3339, or Unix nanoseconds (not seconds)")
        for axis in ("created", "modified")
        for bound in ("from", "to")
    ),
)

_HISTORY_FILTERS: Final = (
    Parameter(
        "type",
        {
            "type": "array",
            "items": {"type": "string", "examples": [event_type(kind) for kind in EVENT_TYPES]},
        },
        "items of the history of any of these types, also as `created`, `updated`, `state`, `tagged` and"
        " `accepted`",
    ),
    Parameter("actor", TEXT, "items of the history by this actor; with `*` at its end, by all that begin so"),
)

operations = OperationGroup("Reads")


@operations.declare(
    "GET",
    paths.JOBS,
    "listJobs",
    Permission.READ,
    (
        *_FILTERS[:2],
        Parameter("state", STATES, "any of these states; repeatable, or separated by commas"),
        *_FILTERS[2:],
        Parameter(
            "order_by",
            {"type": "string", "enum": list(_ORDERS), "default": "created_at"},
            "by creation or modification time; each has three names",
        ),
        Parameter("reverse", FLAG, "newest first"),
        Parameter("bounded", FLAG, f"end each page after testing {LIST_SCAN_MAX_ROWS:,} jobs, full or not"),
        limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT, "jobs"),
        AT,
        NEXT_TOKEN,
        *WAIT,
    ),
    response=wire.JobList,
)
async def list_jobs(request: Request[None]) -> wire.JobList:
    """List jobs.

    Times: `from` is inclusive, `to` is exclusive. With `name` or `bounded`, a page may have fewer jobs than
    `limit`, or none, although more follow: continue until `NextToken` is empty. A token keeps the order and
    the position; send the filters again with it. As of a point (`at`), the first response may take some
    seconds, or be 503 with `Retry-After` while the copy is being built.
    """
    service = request.service
    await request.await_position()
    point, token = await page_point(request)
    filters = _list_query(request, token)
    if point is None:
        async with _turn_to_list(service, filters):
            page = await service.view.list(filters)
        sequence, next_token = page.sequence, page.next_cursor or ""
    else:
        page = await service.asof.list(
            filters,
            point,
            client=client_of_request(),
            waiting=waiting,
            turn=lambda: _turn_to_list(service, filters),
        )
        sequence, next_token = point, pin(point, page.next_cursor or "", service.stream_tag)
    items = []
    for job in page.jobs:
        await yield_point()
        items.append(job_json(job))
    return wire.JobList(items, next_token, sequence, format_cursor(service.stream_tag, sequence))


def get_usual_job(request: Request[None]) -> Response | None:
    """A job that the view has, for a request without a query."""
    job = request.usual_job()
    if job is None:
        return None
    response, ref, answers = _present_job(request, job), request.values["id"], request.service.answers
    if answers.is_off:
        return response
    # If a job in another namespace has this id as its name, callers who may read that get that one instead.
    is_for_all = request.principal.visible is None or job.status.id != ref
    if response.body and is_for_all and not request.exact_ids:
        answers.keep(ref, KeptAnswer(job.status.namespace, with_common(response.headers), response.body))
    return response


def _present_job(request: Request[None], job: Job) -> Response:
    if _is_unchanged(request, job):
        return Response(b"", _tagged(job), status=304)
    return Response(b'{"Job":%b}' % job.to_json(), _tagged(job))


def _tagged(job: Job) -> list[tuple[bytes, bytes]]:
    """The headers of a response about a job's current version."""
    return [(b"etag", etag(job.status.revision).encode()), (b"cache-control", b"no-cache")]


def _is_unchanged(request: Request[None], job: Job) -> bool:
    """Whether the client has this job; `W/` in its tags is ignored (RFC 9110, 13.1.2).

    The tag is that of the job alone: tagging a version adds to its history and keeps the revision.
    """
    condition = request.header(b"if-none-match")
    if not condition:
        return False
    tags = [part.strip().removeprefix("W/") for part in condition.split(",")]
    return etag(job.status.revision) in tags or "*" in tags


@operations.declare(
    "GET",
    paths.COUNTS,
    "countJobs",
    Permission.READ,
    (*_FILTERS, AT, *WAIT),
    response=wire.JobCounts,
)
async def count_jobs(request: Request[None]) -> wire.JobCounts:
    """Count jobs by state.

    With the filters of the list. Counting a state ends at a limit, and with filters other than the namespace
    and the time of creation only its newest jobs are tested: `IsExact` is false if there may be more.
    """
    service = request.service
    await request.await_position()
    point = await point_of(request)
    filters = _filters(request)
    if point is None:
        sequence = service.projector.sequence
        async with queued(service.scans):
            counts = await service.view.state_counts(filters)
    else:
        sequence = point
        counts = await service.asof.state_counts(
            filters,
            point,
            client=client_of_request(),
            waiting=waiting,
            turn=lambda: queued(service.scans),
        )
    items = [wire.StateCount(state, each.count, each.is_exact) for state, each in counts.items()]
    return wire.JobCounts(items, COUNT_MAX_JOBS, sequence, format_cursor(service.stream_tag, sequence))


@operations.declare(
    "GET",
    paths.JOB,
    "getJob",
    Permission.READ,
    (
        ID,
        NAMESPACE,
        Parameter("include", TEXT, "`history`, `executions`, or both with a comma"),
        JOB_VERSION,
        Parameter("since", _SECONDS, "history from this time on: Unix seconds, inclusive"),
        Parameter("event_type", {"type": "string", "enum": list(_EVENT_TYPES)}, "of the history"),
        Parameter("execution_id", TEXT, "of the history; there are none, so that is empty"),
        *_HISTORY_FILTERS,
        limit(HISTORY_DEFAULT_LIMIT, HISTORY_MAX_LIMIT, "history items"),
        JOB_AT,
        NEXT_TOKEN,
        *WAIT,
        NOT_MODIFIED,
    ),
    response=wire.JobAnswer,
    headers=ETAG,
    fast=get_usual_job,
    is_kept=True,
)
async def get_job(request: Request[None]) -> Response:
    """Read a job.

    With `include=history`, the parameters of the history apply, too.
    """
    service, query = request.service, request.query
    checkpoint = service.projector.sequence
    job, point, token = await job_at(request, await request.job(), checkpoint)
    version = version_of(query.text("job_version"), job.status)
    if point is not None:  # the view may have a later one
        _check_version(job, version)
    include = query.texts("include")
    if not (version or include or point is not None):
        return _present_job(request, job)
    if not (version or include) and _is_unchanged(request, job):
        return Response(b"", _tagged(job), status=304)
    answer = wire.JobAnswer(await version_json(service, job, version) if version else job_json(job))
    if "history" in include:
        shown = version or job.status.version
        answer.history = await _history(request, job, token, version=shown, point=point)
    if "executions" in include:
        answer.executions = _NO_ITEMS
    if point is not None:
        answer.sequence, answer.cursor = point, format_cursor(service.stream_tag, point)
    return Response(encode(answer), [] if version else _tagged(job))


@operations.declare(
    "GET",
    paths.JOB_HISTORY,
    "jobHistory",
    Permission.READ,
    (
        ID,
        NAMESPACE,
        Parameter("since", _SECONDS, "Unix seconds, inclusive"),
        Parameter("event_type", _EVENT_TYPE, "executions have no history here: that list is empty"),
        Parameter("execution_id", TEXT, "there are no executions, so that list is empty"),
        *_HISTORY_FILTERS,
        JOB_VERSION,
        Parameter("all_job_versions", FLAG, "of all versions"),
        Parameter(
            "reverse",
            FLAG,
            "newest first; the token then leads to older items, and is empty on the last page",
        ),
        limit(HISTORY_DEFAULT_LIMIT, HISTORY_MAX_LIMIT, "items"),
        JOB_AT,
        NEXT_TOKEN,
        *WAIT,
    ),
    response=wire.History,
)
async def get_history(request: Request[None]) -> wire.History:
    """Read a job's history.

    Oldest first. Without `job_version` or `all_job_versions` only items of the latest version, as in
    Bacalhau. `NextToken` is not empty until the job is terminal and all of its history was read: poll with it
    to follow the job.
    """
    checkpoint = request.service.projector.sequence
    job, point, token = await job_at(request, await request.job(), checkpoint)
    version = version_of(request.query.text("job_version"), job.status)
    if not version and not request.query.flag("all_job_versions"):
        version = job.status.version
    _check_version(job, version)
    if request.query.flag("reverse"):
        return await _latest_history(request, job, token, version=version, point=point)
    return await _history(request, job, token, version=version, point=point)


@operations.declare(
    "GET",
    paths.JOB_EXECUTIONS,
    "jobExecutions",
    Permission.READ,
    (ID, NAMESPACE, *WAIT),
    response=wire.NoItems,
)
async def get_executions(request: Request[None]) -> wire.NoItems:
    """List a job's executions: always empty.

    For Bacalhau's clients; Jobledger does not store executions.
    """
    await request.job()
    return _NO_ITEMS


@operations.declare(
    "GET", paths.JOB_RESULTS, "jobResults", Permission.READ, (ID, NAMESPACE, *WAIT), response=wire.NoItems
)
async def get_results(request: Request[None]) -> wire.NoItems:
    """List a job's results: always empty.

    For Bacalhau's clients; Jobledger does not store results.
    """
    await request.job()
    return _NO_ITEMS


@operations.declare("GET", paths.JOB_LOGS, "jobLogs", Permission.READ, (ID, NAMESPACE, *WAIT), response="")
async def get_logs(request: Request[None]) -> Response:
    """Read a job's logs: always refused.

    Jobledger does not store the output of executions: 404. Bacalhau's clients ask over a WebSocket; the
    handshake is accepted, and the one message is `{"value":…,"error":"…"}` with the problem, which those
    clients print.
    """
    job = await request.job()
    raise NoLogs(f"job {job.status.id} has no logs here: Jobledger does not store the output of executions")


@operations.declare(
    "GET",
    paths.JOB_WAIT,
    "waitForJob",
    Permission.READ,
    (
        ID,
        NAMESPACE,
        Parameter(
            "state",
            {
                "type": "array",
                "items": {"type": "string", "enum": [TERMINAL, *map(str, StateType)]},
                "minItems": 1,
            },
            "any of these; repeatable, or separated by commas",
            required=True,
        ),
        WAIT_FOR,
        Parameter(
            "timeout",
            DURATION,
            f"how long to wait at most; default {WAIT_STATE_DEFAULT_SECONDS:g} s, up to"
            f" {WAIT_STATE_MAX_SECONDS:g} s",
        ),
    ),
    response=wire.JobAnswer,
    headers=ETAG,
)
async def wait_for_state(request: Request[None]) -> Response:
    """Wait until a job reaches a state.

    Responds at once if it is in that state; 504, with the current state, if it does not reach it in time; 409
    if it ends in another state, since only a new version leads out of that.
    """
    service, principal, query = request.service, request.principal, request.query
    states = _states_to_wait_for(query)
    timeout_seconds = query.seconds("timeout", WAIT_STATE_DEFAULT_SECONDS, most=WAIT_STATE_MAX_SECONDS)
    await request.await_position(min(timeout_seconds, WAIT_MAX_SECONDS))
    # Read before the view, so that no event between the two is missed.
    seen = service.hub.sequence
    namespace = query.text("namespace") or None
    job = await service.view.get(request.values["id"], namespace=namespace, visible=principal.visible)
    if not _has_reached(job.status, states):
        connection = await service.hub.open(
            EventFilter(job=(job.status.namespace, job.status.id)),
            after=seen,
            is_valid=lambda: service.tokens.is_valid(principal),
        )
        async with connection, ended_with(request.receive, connection):
            with waiting():
                status = await _next_reached(job.status, connection, states, timeout_seconds)
        spec = job.spec
        if status.spec_sequence != job.status.spec_sequence:
            spec = (await service.view.specs_at((status.spec_sequence,)))[status.spec_sequence]
        job = Job(status=status, spec=spec)
    return Response(encode(wire.JobAnswer(job_json(job))), [(b"etag", etag(job.status.revision).encode())])


def _turn_for(service: Service, limit: int) -> AbstractAsyncContextManager[None]:
    """A turn for a large page; a small one needs none."""
    return queued(service.scans) if limit > LONG_PAGE_ITEMS else nullcontext()


def _turn_to_list(service: Service, filters: ListQuery) -> AbstractAsyncContextManager[None]:
    """A turn for a large page, or for a search that tests many jobs."""
    return queued(service.scans) if filters.may_end_early() else _turn_for(service, filters.limit)


# --- lists --------------------------------------------------------------------------------------------------


def _list_query(request: Request[None], next_token: str) -> ListQuery:
    query, token = request.query, next_token or None
    order, descending = _order(query), query.flag("reverse")
    if token is not None and not (query.text("order_by") or query.text("reverse")):
        order, descending = order_of_cursor(token)  # as Bacalhau's token does
    return msgspec.structs.replace(
        _filters(request),
        states=query.states(),
        order=order,
        descending=descending,
        limit=query.limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT),
        cursor=token,
        is_bounded=query.flag("bounded"),
    )


def _filters(request: Request[None]) -> ListQuery:
    """The filters of a list, except for the states."""
    query = request.query
    return ListQuery(
        namespaces=list_namespaces(request),
        types=tuple(query.texts("type")),
        name=query.text("name"),
        selector=query.selector(),
        quarantined=_quarantined(query),
        created_from=query.time("created_from"),
        created_to=query.time("created_to"),
        modified_from=query.time("modified_from"),
        modified_to=query.time("modified_to"),
    )


def list_namespaces(request: Request[None]) -> tuple[str, ...] | None:
    """The namespace of the query, or all that the caller may read; None for every namespace."""
    namespace = request.query.text("namespace")
    if namespace and namespace != ALL_NAMESPACES:
        request.require(namespace)
        return (namespace,)
    visible = request.principal.visible
    return None if visible is None else tuple(sorted(visible))


def _order(query: Query) -> Order:
    name = query.text("order_by")
    order = _ORDERS.get(name.lower() or "created_at")
    if order is None:
        raise InvalidInput(f"order_by must be created_at or modified_at, got {name!r:.60}")
    return order


def _quarantined(query: Query) -> bool | None:
    word = query.text("quarantined").lower() or "include"
    if word not in QUARANTINED:
        raise InvalidInput(f"quarantined must be one of {', '.join(QUARANTINED)}, got {word!r:.60}")
    return QUARANTINED[word]


def _check_version(job: Job, version: int) -> None:
    if version > job.status.version:
        raise VersionNotFound(
            f"job {job.status.id} has no version {version}; its latest is {job.status.version}"
        )


# --- histories ----------------------------------------------------------------------------------------------


async def _history(
    request: Request[None], job: Job, token: str, *, version: int, point: int | None
) -> wire.History:
    """A page of a job's history, up to a point if one is given; version 0 means all versions."""
    service, query, status = request.service, request.query, job.status
    after = parse_cursor(token or "0", service.stream_tag, field="next_token")
    limit = query.limit(HISTORY_DEFAULT_LIMIT, HISTORY_MAX_LIMIT)
    since_seconds = query.integer("since", 0)
    if since_seconds > UNIX_SECONDS_MAX:
        raise InvalidInput(f"since must be Unix seconds, as in Bacalhau; {since_seconds} is a finer unit")
    since = since_seconds * NANOSECONDS_PER_SECOND
    kind = query.text("event_type").lower() or "all"
    if kind not in _EVENT_TYPES:
        raise InvalidInput(f"event_type must be one of {', '.join(_EVENT_TYPES)}, got {kind!r:.60}")
    has_items = kind != "execution" and not query.text("execution_id")
    is_asked = _asked_items(query)
    items: list[wire.HistoryItem] = []
    last, terminal, more, size = after, status.state.state_type.is_terminal, False, 0
    async with _turn_for(service, limit):
        async for item in service.ledger.history(status.id, namespace=status.namespace, after=after):
            if point is not None and item.sequence > point:
                break
            is_shown = has_items and (bool(item.quarantine) or not item.anomaly)
            fits = is_shown and item.time >= since and version in {0, item.version} and is_asked(item)
            if fits:
                size += _size_of_item(item)
            if len(items) == limit or (items and size > HISTORY_PAGE_BYTES):
                more = True
                break
            last = item.sequence
            terminal = item.state is not None and item.state.state_type.is_terminal
            if fits:
                items.append(history_item(status.id, item, service.stream_tag))
    # As in Bacalhau, clients follow a job by this token until it is empty. The past has an end.
    next_token = format_cursor(service.stream_tag, last) if more or (point is None and not terminal) else ""
    return wire.History(items, next_token if point is None else pin(point, next_token, service.stream_tag))


async def _latest_history(
    request: Request[None], job: Job, token: str, *, version: int, point: int | None
) -> wire.History:
    """A page of a job's history, newest first: the items before that of the token.

    The log is read forward, so this reads all of the job's events up to there.
    """
    service, query, status = request.service, request.query, job.status
    before = parse_cursor(token, service.stream_tag, field="next_token") if token else None
    limit = query.limit(HISTORY_DEFAULT_LIMIT, HISTORY_MAX_LIMIT)
    found: deque[HistoryItem] = deque(maxlen=limit + 1)
    is_asked = _asked_items(query)
    async with queued(service.scans):
        async for item in service.ledger.history(status.id, namespace=status.namespace):
            await yield_point()
            is_later = before is not None and item.sequence >= before
            if is_later or (point is not None and item.sequence > point):
                break
            is_shown = bool(item.quarantine) or not item.anomaly
            if is_shown and version in {0, item.version} and is_asked(item):
                found.append(item)
    newest = fit_page(tuple(reversed(found)), _size_of_item, max_bytes=HISTORY_PAGE_BYTES)[:limit]
    more = len(newest) < len(found)
    items = [history_item(status.id, item, service.stream_tag) for item in newest]
    next_token = format_cursor(service.stream_tag, newest[-1].sequence) if more else ""
    return wire.History(items, next_token if point is None else pin(point, next_token, service.stream_tag))


def _asked_items(query: Query) -> Callable[[HistoryItem], bool]:
    """The test of an item by its type and its actor."""
    actor, types = query.text("actor"), parse_types(query.texts("type"))
    start = actor[:-1] if actor.endswith("*") else None

    def is_asked(item: HistoryItem) -> bool:
        if types and item.type not in types:
            return False
        return not actor or (item.actor == actor if start is None else item.actor.startswith(start))

    return is_asked


def _size_of_item(item: HistoryItem) -> int:
    # A state's details are in the item twice: in State, and in Event for Bacalhau's clients.
    return len(item.reason) + (2 * item.state.size if item.state is not None else 0)


# --- waiting for a state ------------------------------------------------------------------------------------


def _states_to_wait_for(query: Query) -> frozenset[StateType]:
    texts = query.texts("state")
    if not texts:
        raise InvalidInput(f"state is required: {TERMINAL}, or one of {', '.join(StateType)}")
    states: set[StateType] = set()
    for text in texts:
        if text.lower() == TERMINAL:
            states |= _TERMINAL_STATES
        else:
            states.add(parse_state(text, "state"))
    return frozenset(states)


def _has_reached(status: JobStatus, states: frozenset[StateType]) -> bool:
    """Whether the job is in one of the states.

    Raises:
        JobTerminal: if it has ended in another one: who waits for Running must not wait for the timeout.
    """
    state = status.state
    if state.state_type in states:
        return True
    if state.state_type.is_terminal:
        message = f" ({state.message})" if state.message else ""
        raise JobTerminal(
            f"job {status.id} is {state.state_type}{message} and will not become {_listed(states)} unless it"
            " gets a new version; update or rerun it, or wait for `terminal`"
        )
    return False


async def _next_reached(
    status: JobStatus, connection: FeedConnection, states: frozenset[StateType], timeout_seconds: float
) -> JobStatus:
    """The job's status when it first is in one of the states."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while (events := await connection.next()) is not None:
                for event in events:
                    if event.sequence <= status.sequence:  # the view was ahead
                        continue
                    status = event.status
                    if _has_reached(status, states):
                        return status
    except TimeoutError:
        raise Timeout(
            f"job {status.id} is {status.state.state_type} (revision {status.revision}) and did not become"
            f" {_listed(states)} within {timeout_seconds:g} s; wait longer, or follow its events"
        ) from None
    if connection.cause is Cause.REVOKED:
        raise Unauthorized(f"{connection.reason}; ask for a new one")
    raise NotReady(connection.reason)


def _listed(states: frozenset[StateType]) -> str:
    return " or ".join(state for state in StateType if state in states)
