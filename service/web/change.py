"""Changing one job: stop, rerun, revert, set its state, tag. A form is refused if the job changed since."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import RouteNotFound
from jobledger.service.web.calls import call
from jobledger.service.web.job import JobUrl, compared
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.web.texts import whole_number
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType

Form = Mapping[str, str]


class _Change(NamedTuple):
    """One kind of change.

    Attributes:
        title: of its form.
        operation: the operation of the API.
        body: the request of the operation, without the reason.
        fields: of the form, besides the reason.
    """

    title: str
    operation: str
    body: Callable[[Form], dict[str, Any]]
    fields: tuple[str, ...] = ()
    needs_reason: bool = False


def _version(form: Form) -> int | str:
    number = whole_number(form["version"])
    return form["version"] if number is None else number


_CHANGES: Final = {
    "stop": _Change("Stop the job", "stopJob", lambda _: {}, needs_reason=True),
    "rerun": _Change(
        "Run the job again", "rerunJob", lambda form: {"JobVersion": _version(form)}, ("version",)
    ),
    "revert": _Change(
        "Return to an earlier version",
        "revertJob",
        lambda form: {"JobVersion": _version(form)},
        ("version",),
        needs_reason=True,
    ),
    "state": _Change(
        "Set the state",
        "setJobState",
        lambda form: {"StateType": form["state"], "Message": form["message"]},
        ("state", "message"),
    ),
    "tag": _Change(
        "Tag a version", "tagJob", lambda form: {"JobVersion": _version(form)}, ("tag", "version")
    ),
    "untag": _Change("Remove a tag", "untagJob", lambda _: {}, ("tag",)),
}


@page("GET", paths.UI_JOB_CHANGE, "uiChange")
async def show_form(request: Request[Any]) -> Response:
    """The form for a change, with what it will do."""
    query = request.query
    form = {name: query.text(name) for name in ("version", "state", "message", "tag", "reason")}
    return await _form(request, query.text("do"), form)


@page("POST", paths.UI_JOB_CHANGE, "uiChangePost")
async def change_job(request: Request[Any]) -> Response:
    """Change the job, if it still is at the revision that the form showed."""
    sent = request.form
    do = sent.text("do")
    change = _change(request, do)
    form = {name: sent.text(name).strip() for name in ("version", "state", "message", "tag", "reason")}
    if change.needs_reason and not form["reason"]:
        return await _form(request, do, form, problem="a reason is required; it is kept in the history")
    in_path = {"id": request.values["id"], **({"tag": form["tag"]} if "tag" in change.fields else {})}
    try:
        answer = await call(
            request,
            change.operation,
            body={**change.body(form), "Reason": form["reason"]},
            headers={"If-Match": f'"{sent.integer("revision", 0)}"'},
            **in_path,  # type: ignore[arg-type]  # of the path, not the other arguments
        )
    except InvalidInput as error:
        return await _form(request, do, form, problem=words_of(error))
    note = do if answer["EvaluationID"] else "unchanged"
    return see_other(JobUrl(answer["JobID"]).to(note=note))


async def _form(request: Request[Any], do: str, form: dict[str, str], *, problem: str = "") -> Response:
    change = _change(request, do)
    job = (await call(request, "getJob", id=request.values["id"]))["Job"]
    request.principal.require_write(job["Namespace"])
    version = form["version"] or str(job["Version"])
    diff = await compared(request, job["ID"], str(job["Version"]), version) if do == "revert" else {}
    return render(
        request,
        "change.html",
        status=400 if problem else 200,
        change=change,
        do=do,
        form={**form, "version": version},
        job=job,
        url=JobUrl(job["ID"]),
        problem=problem,
        states=[str(each) for each in StateType],
        **diff,
    )


def _change(request: Request[Any], do: str) -> _Change:
    if do not in _CHANGES:
        raise RouteNotFound(f"{request.path}?do={do[:40]}")
    return _CHANGES[do]
