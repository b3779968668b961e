"""Submitting a spec: its text is checked while it is typed; an update shows its diff before it is written."""

import asyncio
import hashlib
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.service.api.capacity import queued
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.web import diff_rows
from jobledger.service.web.calls import call
from jobledger.service.web.job import JobUrl, text_of_spec
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.web.spec_positions import line_of_message, lines_of_paths
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput, InvalidSpec, JobledgerError, JobNotFound, Problem
from jobledger.store.spec.formats import Format, parse
from jobledger.store.spec.reader import load_spec

_DIGEST_CHARACTERS: Final = 16
_REVISION_MAX_DIGITS: Final = 19
FORMATS: Final = {"": "YAML or JSON", "toml": "TOML"}
_EXAMPLE: Final = """\
Name: hello
Type: batch
Count: 1
Labels:
  env: dev
Tasks:
  - Name: main
    Engine:
      Type: docker
      Params:
        Image: busybox:1.37.0
"""


class Draft(NamedTuple):
    """What the form has.

    Attributes:
        job: the id of the job to change; empty: the spec names it.
        revision: of the job that was shown with the changes of this text; 0: there was none; None: the
            changes of this text were not shown yet.
    """

    text: str
    format: str = ""
    reason: str = ""
    job: str = ""
    revision: int | None = None

    @property
    def digest(self) -> str:
        """Identifies the text."""
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARACTERS]


class Located(NamedTuple):
    """A problem or a warning, and its line; 0: unknown."""

    line: int
    problem: Problem


class Checked(NamedTuple):
    """What a text is: the plain values of a spec, or what is wrong with it."""

    values: dict[str, Any] | None
    problems: list[Located]
    warnings: list[Located]


@page("GET", paths.UI_SUBMIT, "uiSubmit")
async def show_form(request: Request[Any]) -> Response:
    """The form, empty or with the spec of a job."""
    job_id = request.query.text("job")
    draft = Draft(_EXAMPLE)
    if job_id:
        query = {"job_version": request.query.text("version")}
        job = (await call(request, "getJob", query, id=job_id))["Job"]
        draft = Draft(await text_of_spec(request, job), job=job["ID"])
        request.principal.require_write(job["Namespace"])
    else:
        request.principal.require_some_write()
    return _form(request, draft, await _preview(request, draft))


@page("POST", paths.UI_SUBMIT_CHECK, "uiSubmitCheck")
async def check(request: Request[Any]) -> Response:
    """The problems of a text and what it would change: the part of the form below the text."""
    request.principal.require_some_write()  # the operation checks the namespace of the spec
    draft = _draft(request)
    return _form(request, draft, await _preview(request, draft))


@page("POST", paths.UI_SUBMIT, "uiSubmitPost")
async def submit(request: Request[Any]) -> Response:
    """Write the spec, if the job is still what the reader saw; show first what was not shown yet."""
    request.principal.require_some_write()  # the operation checks the namespace of the spec
    draft = _draft(request)
    checked = await _check(request, draft)
    if checked.values is None or draft.revision is None:
        return _form(request, draft, await _preview(request, draft))
    try:
        answer = await call(
            request,
            "putJob",
            body={"Job": checked.values, "Reason": draft.reason},
            headers={"If-Match": f'"{draft.revision}"'} if draft.revision else {"If-None-Match": "*"},
        )
    except InvalidInput as error:
        context = {**await _preview(request, draft), "refusal": words_of(error)}
        return _form(request, draft, context, status=400)
    note = "submit" if answer["EvaluationID"] else "unchanged"
    return see_other(JobUrl(answer["JobID"]).to(note=note))


def _form(request: Request[Any], draft: Draft, context: dict[str, Any], *, status: int = 200) -> Response:
    template = "submit_check.html" if request.header(b"hx-request") else "submit.html"
    return render(request, template, status=status, draft=draft, formats=FORMATS, **context)


def _draft(request: Request[Any]) -> Draft:
    form = request.form
    draft = Draft(
        form.text("spec").replace("\r\n", "\n"),
        "toml" if form.text("format") == "toml" else "",
        form.text("reason").strip(),
        form.text("job"),
    )
    revision, _, digest = form.text("seen").partition(".")
    if digest == draft.digest and revision.isdecimal() and len(revision) < _REVISION_MAX_DIGITS:
        return draft._replace(revision=int(revision))
    return draft


async def _preview(request: Request[Any], draft: Draft) -> dict[str, Any]:
    """The problems of a draft; if it has none, what it would change."""
    checked = await _check(request, draft)
    context: dict[str, Any] = {"checked": checked, "refusal": "", "diff": None, "hunks": [], "present": None}
    if checked.values is None:
        return context
    try:
        diff = await call(request, "diffJob", {"compare": "true"}, body={"Job": checked.values}, id="diff")
        if diff["Version"]:
            context["present"] = (await call(request, "getJob", id=diff["JobID"]))["Job"]
            if context["present"]["Version"] != diff["Version"]:
                return {**context, "refusal": "the job changed at this moment; check the spec again"}
        return {**context, "diff": diff, "hunks": diff_rows.hunks_of(diff["Diff"])}
    except JobNotFound:
        return context
    except JobledgerError as error:
        return {**context, "refusal": words_of(error)}


async def _check(request: Request[Any], draft: Draft) -> Checked:
    """Read a text in a thread, in the queue of comparisons: a large one takes long."""
    async with queued(request.service.comparing):
        return await asyncio.to_thread(read_draft, draft.text, draft.format)


def read_draft(text: str, format_name: str) -> Checked:
    """Read a text as a spec, with all problems at their lines."""
    chosen: Format | None = "toml" if format_name == "toml" else None
    try:
        values = parse(text, format=chosen)
    except InvalidSpec as error:
        return Checked(
            None, [Located(line_of_message(each.message, text), each) for each in error.problems], []
        )
    try:
        read = load_spec(text, strict=True, format=chosen)
    except InvalidSpec as error:
        return Checked(None, _located(text, error.problems, chosen), [])
    return Checked(msgspec.to_builtins(values, str_keys=True), [], _located(text, read.warnings, chosen))


def _located(text: str, problems: tuple[Problem, ...], chosen: Format | None) -> list[Located]:
    lines = lines_of_paths(text, [each.path for each in problems], is_toml=chosen == "toml")
    return sorted(map(Located, lines, problems), key=lambda each: each.line)
