"""`PUT /jobs/diff`: what submitting a spec would change, as text for people and as a JSON patch."""

import asyncio
import difflib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.service.api.answers import RawJSON
from jobledger.service.api.bodies import Body, spec_of
from jobledger.service.api.capacity import queued
from jobledger.service.api.context import (
    AnyRequest,
    await_position,
    principal_of,
    query_of,
    service_of,
)
from jobledger.service.api.params import lower_keys
from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import DIFF_MAX_BYTES, DIFF_MAX_LINES
from jobledger.service.structural_diff import Edit, edits, patch_of, path_text
from jobledger.service.wiring import Service
from jobledger.store.command import prepare_new, prepare_update
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.yield_point import yield_point

_VERBS: Final = {"add": "added", "remove": "removed", "replace": "changed"}
_NO_EVENT: Final = "00000000-0000-0000-0000-000000000000"  # of a job without a name: its id is not known yet

DIFF: Final = "diff"
"""`PUT /jobs/diff` compares, as in Bacalhau, where this is no id of a job."""

_BACALHAU_CLIENT: Final = "X-Bacalhau-Git-Version"


def is_comparison(request: AnyRequest, job_id: str, body: Body) -> bool:
    """Whether `PUT /jobs/{job_id}` compares a spec instead of giving it to the job named `diff`.

    A job may have that name. It is updated by a spec that names it; Bacalhau's clients never update by path,
    and `compare=true` says what is meant.
    """
    if job_id != DIFF:
        return False
    if query_of(request).flag("compare") or _BACALHAU_CLIENT in request.headers:
        return True
    job = body.get("Job")
    return not (isinstance(job, dict) and lower_keys(job).get("name") == DIFF)


async def compare_spec(request: AnyRequest, body: Body) -> RawJSON:
    """Compare a spec with that of the job of its namespace and name. Nothing is written.

    With `compare=true`, a spec whose job does not exist (or that has no name) is compared with nothing.
    Bacalhau's clients get the 404 that Bacalhau answers.
    """
    query = query_of(request)
    read = spec_of(body, strict=query.flag("strict"))
    name, namespace = read.spec.name, read.spec.namespace
    is_dry_run = query.flag("compare")
    if not name and not is_dry_run:
        raise InvalidInput("the Job has no Name; a spec is compared with the job of its namespace and name")
    service = service_of(request)
    await await_position(service, query)
    may_read = principal_of(request).may_read(namespace or DEFAULT_NAMESPACE)
    not_found = JobNotFound(f"no job in namespace {namespace or 'default'!r:.80} has the name {name!r:.80}")
    if not may_read:
        raise not_found
    status: JobStatus | None = None
    present = Named("nothing", "nothing", b"{}")
    try:
        if not name:
            raise not_found
        job = await service.view.get_by_name(namespace, name)
    except JobNotFound:
        if not is_dry_run:
            raise
        prepared = prepare_new(read.spec, _NO_EVENT)
    else:
        status = job.status
        prepared = prepare_update(read.spec, status)
        present = Named("the present spec", f"version {status.version}", job.spec)
    compared = await compare(service, present, Named("the new spec", "submitted", prepared.spec))
    return RawJSON(
        msgspec.json.encode(
            {
                "Diff": compared.text,
                "Patch": patch_of(compared.edits),
                "Changes": changes_wire(compared.edits),
                "Warnings": [str(warning) for warning in read.warnings] or None,
                "JobID": prepared.job_id if name else "",
                "Version": status.version if status is not None else 0,
            }
        )
    )


class Named(NamedTuple):
    """A normalised spec, and what it is called: in an error, and at the head of a text diff."""

    name: str
    label: str
    spec: bytes


class Compared(NamedTuple):
    """How two specs differ: a unified diff of their JSON, and what leads from one to the other."""

    text: str
    edits: list[Edit]


async def compare(service: Service, old: Named, new: Named) -> Compared:
    """Compare two specs, without holding up the other requests.

    Raises:
        PayloadTooLarge: if it would take too long.
    """
    for what, _, spec in (old, new):
        if len(spec) > DIFF_MAX_BYTES:
            raise PayloadTooLarge(
                f"{what} has {len(spec)} bytes; specs over {DIFF_MAX_BYTES} are not compared"
            )
    # In a thread, and one pair at a time: a thread can't be called off, and the process ends only when all of
    # them have ended.
    async with queued(service.comparing):
        compared = await asyncio.to_thread(_compare, old, new)
    await yield_point()  # not within the turn: others would wait for this pause
    return compared


def _compare(old: Named, new: Named) -> Compared:
    before, after = msgspec.json.decode(old.spec), msgspec.json.decode(new.spec)
    old_lines, new_lines = _lines(before), _lines(after)
    for what, lines in ((old.name, old_lines), (new.name, new_lines)):
        if len(lines) > DIFF_MAX_LINES:
            raise PayloadTooLarge(
                f"{what} has {len(lines)} lines as JSON; specs over {DIFF_MAX_LINES} are not compared"
            )
    told = difflib.unified_diff(old_lines, new_lines, old.label, new.label, lineterm="")
    return Compared("\n".join(told), edits(before, after))


def _lines(spec: Any) -> list[str]:
    encoded = msgspec.json.encode(spec, order="sorted")
    return msgspec.json.format(encoded, indent=2).decode().splitlines()


def changes_wire(changes: Iterable[Edit]) -> list[dict[str, Any]]:
    """The places where two specs differ; a move is one of them."""
    return [_change_wire(edit) for edit in changes if edit.moved is None or edit.verb == "add"]


def _change_wire(edit: Edit) -> dict[str, Any]:
    path = path_text(edit.path)
    if edit.moved is not None:
        origin = path_text((*edit.path[:-1], edit.moved))
        return {"Change": "moved", "Path": path, "From": origin, "Before": edit.after, "After": edit.after}
    wire: dict[str, Any] = {"Change": _VERBS[edit.verb], "Path": path}
    if edit.verb != "add":
        wire["Before"] = edit.before
    if edit.verb != "remove":
        wire["After"] = edit.after
    return wire
