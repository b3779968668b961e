"""The page of one job: its timeline, its spec with blame, its versions; now, or as of any revision."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from jobledger.service.api.capacity import queued
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.limits import UI_SHOWN_LINES
from jobledger.service.web import diff_rows, spec_lines
from jobledger.service.web.calls import call
from jobledger.service.web.events import TYPES
from jobledger.service.web.site import SECURITY_HEADERS, page, render, words_of
from jobledger.service.web.texts import whole_number
from jobledger.service.web.timeline import Items, entries_of, spans_of, totals_of
from jobledger.service.wire import paths
from jobledger.store.model.errors import JobledgerError, VersionNotFound
from jobledger.store.model.job import StateType
from jobledger.store.timestamps import parse_rfc3339

TABS: Final = {"timeline": "Timeline", "spec": "Spec and blame", "versions": "Versions"}
TIMELINES: Final = {"compact": "Compact", "full": "Full", "json": "JSON"}
_TIMELINE_PAGE: Final = 100
_VERSIONS_PAGE: Final = 100
NOT_OF_THE_SPEC: Final = {"ID", "State", "Version", "Revision", "CreateTime", "ModifyTime", "Quarantine"}
_AGES: Final = 5

NOTES: Final = {
    "stop": "The job was stopped.",
    "rerun": "The job runs again, as a new version.",
    "revert": "A new version has the spec of the earlier one.",
    "state": "The state was set.",
    "tag": "The version was tagged.",
    "untag": "The tag was removed.",
    "submit": "The spec was accepted.",
    "unchanged": "Nothing had to be changed, and nothing was written.",
}
"""What a successful change says on the page that it leads to."""


class JobUrl(msgspec.Struct, frozen=True):
    """The URL of a job's page, with the state that its links change."""

    id: str
    tab: str = "timeline"
    at: str = ""
    format: str = "yaml"
    timeline: str = "compact"
    types: tuple[str, ...] = ()
    actor: str = ""

    def to(self, **changes: Any) -> str:
        """The URL with some parameters changed; others than those of the page are added."""
        known = {**msgspec.structs.asdict(self), **changes}
        del known["id"]
        known["type"] = ",".join(known.pop("types"))
        defaults = {"tab": "timeline", "format": "yaml", "timeline": "compact"}
        if known["tab"] != "timeline":
            defaults |= {"type": known["type"], "actor": known["actor"]}
        query = {name: value for name, value in known.items() if value and value != defaults.get(name)}
        path = paths.expand(paths.UI_JOB, id=self.id)
        return f"{path}?{urlencode(query)}" if query else path

    def change(self, do: str, **values: str) -> str:
        """The URL of the form for a change of the job."""
        return f"{paths.expand(paths.UI_JOB_CHANGE, id=self.id)}?{urlencode({'do': do, **values})}"


@page("GET", paths.UI_JOB, "uiJob")
async def show_job(request: Request[Any]) -> Response:
    """The job with one of its tabs, or only the part that changes if htmx asks for it."""
    query = request.query
    answer = await call(
        request,
        "getJob",
        [("at", query.text("at")), ("namespace", query.text("namespace"))],
        id=request.values["id"],
    )
    job = answer["Job"]
    tab = query.text("tab") if query.text("tab") in TABS else "timeline"
    url = url_of(request, job["ID"], tab)
    tags = await call(request, "jobTags", [("at", url.at)], id=job["ID"])
    context = await _TABS[tab](request, job, url)
    return render(
        request,
        "job_part.html" if request.header(b"hx-request") else "job.html",
        job=job,
        url=url,
        tabs=TABS,
        tab=tab,
        tags=tags["Items"],
        point=answer.get("Sequence", 0),
        has_later=bool(url.at) and await _has_later(request, job),
        state_type=StateType(job["State"]["StateType"]),
        states=[str(each) for each in StateType],
        may_write=not url.at and request.principal.may_write(job["Namespace"]),
        note=NOTES.get(query.text("note"), ""),
        feed_url=f"{paths.UI_FEED}?{urlencode({'job': job['ID']})}",
        **context,
    )


async def _has_later(request: Request[Any], job: dict[str, Any]) -> bool:
    """Whether a job, as of a point, has changed since."""
    present = (await call(request, "getJob", id=job["ID"]))["Job"]
    return int(present["Revision"]) > int(job["Revision"])


def url_of(request: Request[Any], job_id: str, tab: str) -> JobUrl:
    """The URL of a request for the page."""
    query = request.query
    return JobUrl(
        job_id,
        tab,
        query.text("at"),
        query.text("format") or "yaml",
        query.text("timeline"),
        tuple(each for each in TYPES if each in query.texts("type")),
        query.text("actor").strip(),
    )


async def timeline_tab(request: Request[Any], job: dict[str, Any], url: JobUrl) -> dict[str, Any]:
    """The events of the job, newest first."""
    token = request.query.text("next_token")
    history = await call(
        request,
        "jobHistory",
        [
            ("all_job_versions", "true"),
            ("reverse", "true"),
            ("at", url.at),
            ("limit", str(_TIMELINE_PAGE)),
            ("next_token", token),
            ("type", ",".join(url.types)),
            ("actor", url.actor),
        ],
        answer=Items,
        id=job["ID"],
    )
    is_over = StateType(job["State"]["StateType"]).is_terminal
    end = history.items[0].time_ns if history.items and (url.at or is_over) else time.time_ns()
    is_filtered = bool(url.types or url.actor)
    entries = entries_of(history.items, end, is_newest=not token, is_complete=not is_filtered)
    shown = url.timeline if url.timeline in TIMELINES else "compact"
    return {
        "entries": entries,
        "spans": (spans := spans_of(entries)),
        "totals": totals_of(spans),
        "next_token": history.next_token,
        "is_newest": not token,
        "is_filtered": is_filtered,
        "types": TYPES,
        "timelines": TIMELINES,
        "shown": shown,
    }


async def spec_tab(request: Request[Any], job: dict[str, Any], url: JobUrl) -> dict[str, Any]:
    """The spec, each line with the event that last set it."""
    lines = _lines(job, url.format, most=UI_SHOWN_LINES + 1)
    is_cut = len(lines) > UI_SHOWN_LINES
    del lines[UI_SHOWN_LINES:]
    shown = {line.pointer for line in lines if line.is_leaf}
    problem, items = "", []
    try:
        blame = await call(request, "blameJob", [("at", url.at)], id=job["ID"])
        items = blame["Items"]
    except JobledgerError as error:  # too large, for example: the spec is shown without it
        problem = words_of(error)
    events = sorted({item["Sequence"] for item in items})
    rank = {sequence: place * _AGES // len(events) for place, sequence in enumerate(events)}
    found = {
        item["Pointer"]: {**item, "age": rank[item["Sequence"]], "time_ns": parse_rfc3339(item["Time"])}
        for item in items
        if item["Pointer"] in shown
    }
    download = urlencode({"format": url.format, **({"at": url.at} if url.at else {})})
    return {
        "lines": [(line, found.get(line.pointer) if line.is_leaf else None) for line in lines],
        "text": spec_lines.text_of(lines),
        "is_cut": is_cut,
        "download_url": f"{paths.expand(paths.UI_JOB_SPEC, id=job['ID'])}?{download}",
        "problem": problem,
    }


@page("GET", paths.UI_JOB_SPEC, "uiSpec")
async def get_spec(request: Request[Any]) -> Response:
    """The whole spec as a file."""
    query = request.query
    job = (await call(request, "getJob", [("at", query.text("at"))], id=request.values["id"]))["Job"]
    kind = "json" if query.text("format") == "json" else "yaml"
    name = f"{job['ID']}-v{job['Version']}.{kind}"
    headers = [(b"content-disposition", f'attachment; filename="{name}"'.encode()), *SECURITY_HEADERS]
    text = await text_of_spec(request, job, kind)
    return Response(text.encode("utf-8", "replace"), headers, media_type=f"application/{kind}")


async def text_of_spec(request: Request[Any], job: dict[str, Any], kind: str = "yaml") -> str:
    """The spec of a job; written in a thread, since a large one takes long."""
    async with queued(request.service.comparing):
        return await asyncio.to_thread(lambda: spec_lines.text_of(_lines(job, kind)))


def _lines(job: dict[str, Any], kind: str, *, most: int | None = None) -> list[spec_lines.Line]:
    spec = {key: value for key, value in job.items() if key not in NOT_OF_THE_SPEC}
    return (spec_lines.json_lines if kind == "json" else spec_lines.yaml_lines)(spec, most=most)


async def versions_tab(request: Request[Any], job: dict[str, Any], _: JobUrl) -> dict[str, Any]:
    """The versions, and how two of them differ."""
    query = request.query
    after = query.text("next_token")
    found = await call(
        request,
        "jobVersions",
        {"limit": str(_VERSIONS_PAGE), "next_token": after},
        answer=dict[str, Any],
        id=job["ID"],
    )
    second = query.text("to") or str(job["Version"])
    first = query.text("from") or str(max(1, (whole_number(second) or 1) - 1))
    return {
        "versions": [
            {**facts, "time_ns": parse_rfc3339(facts["Time"]), "state": item["State"]}
            for facts, item in zip(reversed(found["Versions"]), reversed(found["Items"]), strict=False)
        ],
        "next_token": found["NextToken"],
        "first": first,
        "second": second,
        "layout": "unified" if query.text("layout") == "unified" else "split",
        **await compared(request, job["ID"], first, second),
    }


async def compared(request: Request[Any], job_id: str, first: str, second: str) -> dict[str, Any]:
    """How two versions differ, as a template shows it."""
    try:
        diff = await call(request, "diffVersions", {"from": first, "to": second}, id=job_id)
    except (JobledgerError, VersionNotFound) as error:  # never shown as "no changes"
        return {"diff": None, "hunks": [], "diff_problem": words_of(error)}
    return {"diff": diff, "hunks": diff_rows.hunks_of(diff["Diff"]), "diff_problem": ""}


_TABS: Final[dict[str, Callable[[Request[Any], dict[str, Any], JobUrl], Awaitable[dict[str, Any]]]]] = {
    "timeline": timeline_tab,
    "spec": spec_tab,
    "versions": versions_tab,
}
