"""Stopping many jobs: those that were selected, or all that match a filter. The reader sees them first."""

from typing import Any, Final
from urllib.parse import urlencode

from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.limits import UI_STOP_MAX_JOBS
from jobledger.service.web.calls import call
from jobledger.service.web.jobs import Row, Rows, may_write
from jobledger.service.web.list_state import ListState, read_state
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput, JobledgerError
from jobledger.store.model.subjects import DEFAULT_NAMESPACE

_FINISHED: Final = frozenset({"Completed", "Failed", "Stopped"})


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
    rows, is_cut = await _rows(request, query.texts("jobs"), state)
    return render(
        request,
        "stop.html",
        rows=[row for row in rows if row.state.state_type not in _FINISHED],
        finished=[row for row in rows if row.state.state_type in _FINISHED],
        state=state,
        is_selection=bool(query.texts("jobs")),
        is_cut=is_cut,
        is_done=query.flag("done"),
        limit=UI_STOP_MAX_JOBS,
    )


@page("POST", paths.UI_STOP, "uiStopPost")
async def stop_jobs(request: Request[Any]) -> Response:
    """Stop the jobs that the page showed, each at the revision that it showed."""
    form = request.form
    reason = form.text("reason").strip()
    if not reason:
        raise InvalidInput("a reason is required; it is kept in the history of each job")
    shown = [each.partition("@") for each in form.all_of("job")[:UI_STOP_MAX_JOBS]]
    refused: list[tuple[str, str]] = []
    for job_id, _, revision in shown:
        try:
            await call(
                request,
                "stopJob",
                body={"Reason": reason},
                headers={"If-Match": f'"{revision}"'},
                id=job_id,
            )
        except JobledgerError as error:
            refused.append((job_id, words_of(error)))
    if refused:
        return render(
            request, "stop_refused.html", status=409, refused=refused, stopped=len(shown) - len(refused)
        )
    query = urlencode({"jobs": ",".join(job_id for job_id, _, _ in shown), "done": "true"})
    return see_other(f"{paths.UI_STOP}?{query}")


def _require_some_write(request: Request[Any], state: ListState) -> None:
    """Refuse callers who may change none of the jobs; each one is checked again when it is stopped.

    Raises:
        Forbidden: for them.
    """
    if not may_write(request, state._replace(at="")):
        principal = request.principal
        principal.require_write(state.namespace or min(principal.visible or (DEFAULT_NAMESPACE,)))


async def _rows(request: Request[Any], jobs: list[str], state: ListState) -> tuple[list[Row], bool]:
    """The jobs to stop, and whether there are more than can be stopped at once."""
    if jobs:
        listed = jobs[:UI_STOP_MAX_JOBS]
        found = [(await call(request, "getJob", answer=dict[str, Row], id=each))["Job"] for each in listed]
        return found, len(jobs) > UI_STOP_MAX_JOBS
    matching = state._replace(token="", limit=UI_STOP_MAX_JOBS)
    rows = await call(request, "listJobs", matching.api_query(), answer=Rows)
    return rows.items, bool(rows.next_token)
