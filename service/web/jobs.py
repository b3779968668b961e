"""The list of jobs: live, filtered, sorted, as of any point."""

from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import field

from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import Forbidden
from jobledger.service.web.calls import call
from jobledger.service.web.list_state import COLUMNS, PAGE_SIZES, ListState, read_state
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.web.slider import slider_of
from jobledger.service.wire import paths
from jobledger.service.wire.jobs import JobCounts
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import State, StateType
from jobledger.store.spec.spec import JOB_TYPES

_LIST: Final = "listJobs"
_CHOICES: Final = {
    "columns": COLUMNS,
    "page_sizes": PAGE_SIZES,
    "all_states": [str(each) for each in StateType],
    "all_types": JOB_TYPES,
}


class Row(msgspec.Struct, rename="pascal"):
    """A job in the list: the fields that a column shows, of all that the API returns."""

    id: str = field(name="ID")
    name: str
    namespace: str
    type: str
    state: State
    version: int
    revision: int
    create_time: int
    modify_time: int
    labels: dict[str, str] = {}
    quarantine: Any = None


class Rows(msgspec.Struct, rename="pascal"):
    """A page of the list."""

    items: list[Row]
    next_token: str
    sequence: int
    cursor: str


@page("GET", paths.UI_JOBS, "uiJobs", nav="Jobs")
async def list_jobs(request: Request[Any]) -> Response:
    """The list, or only its table if htmx asks for it."""
    state, problem, status = ListState(), "", 200
    rows, counts = Rows([], "", request.service.projector.sequence, ""), None
    is_part = bool(request.header(b"hx-request"))
    try:
        state = read_state(request.query)
        rows = await call(request, _LIST, state.api_query(), answer=Rows)
        if state.at and not state.at.isdecimal():  # resolved once: the URL is the same list tomorrow
            return see_other(state.url(at=str(rows.sequence)))
        counts = await call(request, "countJobs", state.api_filters(), answer=JobCounts)
    except (InvalidInput, Forbidden) as error:  # a mistake in the filter form is shown next to it
        problem, status = words_of(error), 400
    return render(
        request,
        "jobs_table.html" if is_part else "jobs.html",
        status=status,
        state=state,
        rows=rows,
        counts=counts,
        problem=problem,
        slider=None if is_part else await slider_of(request, state, rows.sequence),
        namespaces=sorted(request.principal.visible or ()),
        total=sum(each.count for each in counts.items) if counts is not None else 0,
        total_is_exact=counts is None or all(each.is_exact for each in counts.items),
        may_write=may_write(request, state),
        may_submit=may_write(request, ListState()),
        stop_all_url=f"{paths.UI_STOP}?{urlencode(state.hidden('limit'))}",
        api_url=api_url(state),
        feed_url=feed_url(state),
        **_CHOICES,
    )


def may_write(request: Request[Any], state: ListState) -> bool:
    """Whether the caller may change any of the listed jobs; those of the past cannot be changed."""
    principal = request.principal
    namespaces = [state.namespace] if state.namespace else sorted(principal.visible or ("",))
    return not state.at and any(principal.may_write(each) for each in namespaces)


def api_url(state: ListState) -> str:
    """The same list as JSON, over the API."""
    return f"{paths.JOBS}?{urlencode([(name, value) for name, value in state.api_query() if value])}"


def feed_url(state: ListState) -> str:
    """The stream of signals about these jobs."""
    return (
        f"{paths.UI_FEED}?{urlencode({'namespace': state.namespace})}" if state.namespace else paths.UI_FEED
    )
