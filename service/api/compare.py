"""Comparing specs, as text and as structural changes; and `PUT /jobs/diff`."""

import asyncio
import difflib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.service.api.capacity import queued
from jobledger.service.api.request import Request
from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import DIFF_MAX_BYTES, DIFF_MAX_LINES
from jobledger.service.structural_diff import Edit, edits, patch_of, path_text
from jobledger.service.wire.jobs import DiffRequest
from jobledger.service.wire.versions import Change, DiffAnswer
from jobledger.service.wiring import Service
from jobledger.store.command import prepare_new, prepare_update
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.yield_point import yield_point

_NO_EVENT: Final = "00000000-0000-0000-0000-000000000000"  # a job without a name has no id yet

DIFF: Final = "diff"
"""`PUT /jobs/diff` compares, as in Bacalhau, where no job has this id."""

_BACALHAU_CLIENT: Final = b"x-bacalhau-git-version"


def is_comparison(request: Request[Any]) -> bool:
    """Whether `PUT /jobs/diff` compares a spec instead of updating the job named `diff`.

    A job may have that name. A spec that names it updates it; Bacalhau's clients never update by path, and
    `compare=true` is explicit.
    """
    if request.values["id"] != DIFF:
        return False
    if request.query.flag("compare") or request.has_header(_BACALHAU_CLIENT):
        return True
    job = request.fields.get("job")
    return not (isinstance(job, dict) and any(key.lower() == "name" and job[key] == DIFF for key in job))


async def compare_spec(request: Request[Any]) -> DiffAnswer:
    """Compare a spec with that of the job of its namespace and name.

    With `compare=true`, a spec whose job does not exist (or that has no name) is compared with nothing.
    Bacalhau's clients get the 404 that Bacalhau answers.
    """
    service = request.service
    body: DiffRequest = request.decode(DiffRequest, strict=request.query.flag("strict"))
    name, namespace = body.job.name, body.job.namespace
    is_dry_run = request.query.flag("compare")
    if not name and not is_dry_run:
        raise InvalidInput("the Job has no Name; a spec is compared with the job of its namespace and name")
    await request.await_position()
    not_found = JobNotFound(f"no job in namespace {namespace or 'default'!r:.80} has the name {name!r:.80}")
    if not request.principal.may_read(namespace or DEFAULT_NAMESPACE):
        raise not_found
    status: JobStatus | None = None
    present = NamedSpec("nothing", "nothing", b"{}")
    try:
        if not name:
            raise not_found
        job = await service.view.get_by_name(namespace, name)
    except JobNotFound:
        if not is_dry_run:
            raise
        prepared = prepare_new(body.job, _NO_EVENT)
    else:
        status = job.status
        prepared = prepare_update(body.job, status)
        present = NamedSpec("the present spec", f"version {status.version}", job.spec)
    comparison = await compare(service, present, NamedSpec("the new spec", "submitted", prepared.spec))
    return DiffAnswer(
        comparison.text,
        patch_of(comparison.edits),
        changes_of(comparison.edits),
        request.warnings or None,
        prepared.job_id if name else "",
        status.version if status is not None else 0,
    )


class NamedSpec(NamedTuple):
    """A normalized spec, with its name in errors and at the top of a text diff."""

    name: str
    label: str
    spec: bytes


class Comparison(NamedTuple):
    """How two specs differ: a unified diff of their JSON, and the edits from one to the other."""

    text: str
    edits: list[Edit]


async def compare(service: Service, old: NamedSpec, new: NamedSpec) -> Comparison:
    """Compare two specs without delaying other requests.

    Raises:
        PayloadTooLarge: if it would take too long.
    """
    for what, _, spec in (old, new):
        if len(spec) > DIFF_MAX_BYTES:
            raise PayloadTooLarge(f"{what} has {len(spec)} bytes; at most {DIFF_MAX_BYTES} are compared")
    # In a thread, one pair at a time: a thread cannot be cancelled, and the process ends only after it.
    async with queued(service.comparing):
        comparison = await asyncio.to_thread(_compare, old, new)
    await yield_point()  # outside of the turn, for which others wait
    return comparison


def _compare(old: NamedSpec, new: NamedSpec) -> Comparison:
    before, after = msgspec.json.decode(old.spec), msgspec.json.decode(new.spec)
    old_lines, new_lines = _lines(before), _lines(after)
    for what, lines in ((old.name, old_lines), (new.name, new_lines)):
        if len(lines) > DIFF_MAX_LINES:
            raise PayloadTooLarge(
                f"{what} has {len(lines)} lines of JSON; at most {DIFF_MAX_LINES} are compared"
            )
    text = difflib.unified_diff(old_lines, new_lines, old.label, new.label, lineterm="")
    return Comparison("\n".join(text), edits(before, after))


def _lines(spec: Any) -> list[str]:
    encoded = msgspec.json.encode(spec, order="sorted")
    return msgspec.json.format(encoded, indent=2).decode().splitlines()


def changes_of(found: Iterable[Edit]) -> list[Change]:
    """The places where two specs differ; a move is one of them."""
    return [_change(edit) for edit in found if edit.moved is None or edit.verb == "add"]


def _change(edit: Edit) -> Change:
    path = path_text(edit.path)
    if edit.moved is not None:
        origin = path_text((*edit.path[:-1], edit.moved))
        return Change("moved", path, origin, edit.after, edit.after)
    if edit.verb == "add":
        return Change("added", path, after=edit.after)
    if edit.verb == "remove":
        return Change("removed", path, before=edit.before)
    return Change("changed", path, before=edit.before, after=edit.after)
