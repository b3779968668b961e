"""`PUT /jobs/diff`: what submitting a spec would change, as text for people and as a JSON patch."""

import asyncio
import difflib
from typing import Any

import jsonpatch
import msgspec
from litestar import Response, put

from jobledger.service.errors import PayloadTooLarge
from jobledger.service.http.answers import json_answer
from jobledger.service.http.bodies import read_body, spec_of
from jobledger.service.http.context import (
    AnyRequest,
    await_position,
    principal_of,
    query_of,
    service_of,
)
from jobledger.service.limits import DIFF_MAX_BYTES, DIFF_MAX_LINES
from jobledger.store.errors import InvalidInput, JobNotFound
from jobledger.store.prepare import prepare_update


@put("/jobs/diff", status_code=200)
async def diff_job(request: AnyRequest) -> Response[bytes]:
    """Compare a spec with that of the job of its namespace and name. Nothing is written."""
    body = read_body(request)
    query = query_of(request)
    read = spec_of(body, strict=query.flag("strict"))
    name, namespace = read.spec.name, read.spec.namespace
    if not name:
        raise InvalidInput("the Job has no Name; a spec is compared with the job of its namespace and name")
    service = service_of(request)
    await await_position(service, query)
    job = await service.view.get_by_name(namespace, name)
    if not principal_of(request).may_read(job.status.namespace):
        raise JobNotFound(f"no job in namespace {namespace or 'default'!r:.80} has the name {name!r:.80}")
    new = prepare_update(read.spec, job.status).spec
    for what, spec in (("the present spec", job.spec), ("the new spec", new)):
        if len(spec) > DIFF_MAX_BYTES:
            raise PayloadTooLarge(
                f"{what} has {len(spec)} bytes; specs over {DIFF_MAX_BYTES} are not compared"
            )
    label = f"version {job.status.version}"
    # In a thread, so that two long specs don't hold up the other requests; and one pair at a time, since a
    # thread can't be called off, and the process ends only when all of them have ended.
    async with service.comparing:
        text, patch = await asyncio.to_thread(compare_specs, job.spec, new, label)
    return json_answer(
        {
            "Diff": text,
            "Patch": patch,
            "Warnings": [str(warning) for warning in read.warnings] or None,
            "JobID": job.status.id,
            "Version": job.status.version,
        }
    )


def compare_specs(present: bytes, new: bytes, label: str) -> tuple[str, list[dict[str, Any]]]:
    """The difference of two normalised specs: a unified diff of their JSON, and an RFC 6902 patch.

    Args:
        present: the spec that is there.
        new: the other one.
        label: what to call the present one.

    Raises:
        PayloadTooLarge: if comparing them would take too long.
    """
    before, after = msgspec.json.decode(present), msgspec.json.decode(new)
    old_lines, new_lines = _lines(before), _lines(after)
    for what, lines in (("the present spec", old_lines), ("the new spec", new_lines)):
        if len(lines) > DIFF_MAX_LINES:
            raise PayloadTooLarge(
                f"{what} has {len(lines)} lines as JSON; specs over {DIFF_MAX_LINES} are not compared"
            )
    told = difflib.unified_diff(old_lines, new_lines, label, "submitted", lineterm="")
    return "\n".join(told), list(jsonpatch.make_patch(before, after))


def _lines(spec: Any) -> list[str]:
    encoded = msgspec.json.encode(spec, order="sorted")
    return msgspec.json.format(encoded, indent=2).decode().splitlines()
