"""Stopping many jobs: those that were selected, or all that match a filter. The reader sees them first."""

import asyncio
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from jobledger.projections.limits import LIST_MAX_LIMIT
from jobledger.service.api.query import Query
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.limits import (
    UI_STOP_AT_ONCE,
    UI_STOP_MATCHING_MAX_JOBS,
    UI_STOP_MAX_JOBS,
    UI_STOP_PAGES,
)
from jobledger.service.web.calls import call
from jobledger.service.web.jobs import Row, Rows
from jobledger.service.web.list_state import ListState, read_state
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.web.texts import whole_number
from jobledger.service.wire import paths
from jobledger.service.wire.jobs import JobCounts
from jobledger.store.model.errors import InvalidInput, JobledgerError
from jobledger.store.model.job import StateType

_FINISHED: Final = frozenset(str(each) for each in StateType if each.is_terminal)
_decode_rest: Final = msgspec.json.Decoder(list[tuple[str, int]]).decode


class _Found(NamedTuple):
    """The jobs that a request names or that match its filter.

    Attributes:
        active: how many can be stopped.
        finished: how many others match.
        is_cut: whether there are more than are in `rows`.
        is_exact: whether the counts are.
        sequence: of the log, of the counts.
    """

    rows: list[Row]
    active: int
    finished: int
    is_cut: bool
    is_exact: bool
    sequence: int = 0


@page("POST", paths.UI_STOP_SELECTED, "uiStopSelected")
async def ask_to_stop_selected(request: Request[Any]) -> Response:
    """Turn the boxes of the list into the URL of a page that asks."""
    jobs = request.form.all_of("job")
    if not jobs:
        raise InvalidInput("no job is selected; go back and select some")
    return see_other(f"{paths.UI_STOP}?{urlencode({'jobs': ','.join(jobs)})}")


@page("GET", paths.UI_STOP, "uiStop")
async def ask_to_stop(request: Request[Any]) -> Response:
    """Show which jobs would be stopped, or (after that) what became of them."""
    query = request.query
    state = read_state(query)
    _require_some_write(request, state)
    selected = query.texts("jobs")
    found = await _selected(request, selected) if selected else await _matching(request, state)
    rows = [row for row in found.rows if row.state.state_type not in _FINISHED]
    rest = [(row.id, row.revision) for row in rows[UI_STOP_MAX_JOBS:]]
    return render(
        request,
        "stop.html",
        rows=rows[:UI_STOP_MAX_JOBS],
        rest=rest,
        rest_text=msgspec.json.encode(rest).decode(),
        finished=[row for row in found.rows if row.state.state_type in _FINISHED][:UI_STOP_MAX_JOBS],
        found=found,
        state=state,
        filters=urlencode(state.hidden("limit")) if not selected else "",
        is_selection=bool(selected),
        is_done=query.flag("done"),
        stopped=query.integer("stopped", 0),
    )


@page("POST", paths.UI_STOP, "uiStopPost")
async def stop_jobs(request: Request[Any]) -> Response:
    """Stop the jobs that the page showed or counted, each at the revision that it then had."""
    form, state = request.form, read_state(request.query)
    reason = form.text("reason").strip()
    if not reason:
        raise InvalidInput("a reason is required; it is kept in the history of each job")
    jobs = _jobs_of(form)
    refused: list[tuple[str, str]] = []
    for start in range(0, len(jobs), UI_STOP_AT_ONCE):
        some = jobs[start : start + UI_STOP_AT_ONCE]
        answers = await asyncio.gather(*(_stop(request, *each, reason) for each in some))
        refused += [(job, why) for (job, _), why in zip(some, answers, strict=True) if why]
    stopped = len(jobs) - len(refused)
    filters = state.hidden("limit")
    if refused:
        return render(
            request,
            "stop_refused.html",
            status=409,
            refused=refused,
            stopped=stopped,
            again=f"{paths.UI_STOP}?{urlencode(filters)}" if form.text("rest") else "",
        )
    if form.text("rest"):  # too many to name them in a URL; the page shows what still matches
        return see_other(f"{paths.UI_STOP}?{urlencode([*filters, ('stopped', str(stopped))])}")
    query = urlencode({"jobs": ",".join(job_id for job_id, _ in jobs), "done": "true"})
    return see_other(f"{paths.UI_STOP}?{query}")


async def _stop(request: Request[Any], job_id: str, revision: int, reason: str) -> str:
    """Stop a job; returns why it was refused, or an empty text."""
    tag = {"If-Match": f'"{revision}"'}
    try:
        await call(request, "stopJob", body={"Reason": reason}, headers=tag, id=job_id)
    except JobledgerError as error:
        return words_of(error)
    return ""


def _jobs_of(form: Query) -> list[tuple[str, int]]:
    """The jobs of the form with their revisions: those that it showed, then those that it counted."""
    shown = [each.rpartition("@") for each in form.all_of("job")[:UI_STOP_MAX_JOBS]]
    jobs = [(job_id, whole_number(revision) or 0) for job_id, _, revision in shown]
    try:
        rest = _decode_rest(form.text("rest") or b"[]")
    except msgspec.MsgspecError:
        raise InvalidInput("the list of jobs was damaged; load the page again") from None
    return [*jobs, *rest[: UI_STOP_MATCHING_MAX_JOBS - len(jobs)]]


def _require_some_write(request: Request[Any], state: ListState) -> None:
    """Refuse callers who may change none of the jobs; each one is checked again when it is stopped.

    Raises:
        Forbidden: for them.
    """
    if state.namespace:
        request.principal.require_write(state.namespace)
    else:
        request.principal.require_some_write()


async def _selected(request: Request[Any], jobs: list[str]) -> _Found:
    listed = jobs[:UI_STOP_MAX_JOBS]
    rows = [(await call(request, "getJob", answer=dict[str, Row], id=each))["Job"] for each in listed]
    return _Found(rows, len(rows), 0, is_cut=len(jobs) > UI_STOP_MAX_JOBS, is_exact=True)


async def _matching(request: Request[Any], state: ListState) -> _Found:
    """The jobs that match, newest first, at one sequence; of very many, those that one form can stop."""
    counts = await call(request, "countJobs", state.api_filters(), answer=JobCounts)
    asked = state.states or tuple(map(str, StateType))
    counted = [each for each in counts.items if each.state in asked]
    active = [each for each in counted if each.state not in _FINISHED]
    rows: list[Row] = []
    query = state._replace(
        token="", limit=LIST_MAX_LIMIT, order="created_at", is_ascending=False,
        states=tuple(each.state for each in active),
    )  # fmt: skip
    for _ in range(UI_STOP_PAGES if active else 0):
        page_of_rows = await call(request, "listJobs", query.api_query(), answer=Rows)
        rows += page_of_rows.items
        query = query._replace(token=page_of_rows.next_token)
        if not query.token or len(rows) >= UI_STOP_MATCHING_MAX_JOBS:
            break
    return _Found(
        rows[:UI_STOP_MATCHING_MAX_JOBS],
        sum(each.count for each in active),
        sum(each.count for each in counted) - sum(each.count for each in active),
        is_cut=bool(query.token) or len(rows) > UI_STOP_MATCHING_MAX_JOBS,
        is_exact=all(each.is_exact for each in counted),
        sequence=counts.sequence,
    )
