"""A job's versions, told: which there are, how two differ, their tags, and which field is whose."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from litestar import Response, get

from jobledger.projections.as_of.job import did_not_exist, last_sequence_of, records_as_of
from jobledger.projections.limits import LIST_MAX_LIMIT
from jobledger.projections.results import JobVersion, fit_page
from jobledger.service.api.answers import RawJSON, encode, job_raw, json_answer, version_wires
from jobledger.service.api.asof import past_of, point_of
from jobledger.service.api.capacity import queued
from jobledger.service.api.compare import Named, changes_wire, compare
from jobledger.service.api.context import AnyRequest, JobRef, find_job, query_of, service_of
from jobledger.service.blame import Blame, Blamed
from jobledger.service.cursor import format_cursor
from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import BLAME_CHUNK_BYTES, BLAME_CHUNK_EVENTS, BLAME_MAX_BYTES
from jobledger.service.structural_diff import patch_of, path_text, pointer
from jobledger.service.versions import VersionSpan, VersionSpans, tags_by_version, version_of
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import format_rfc3339
from jobledger.store.yield_point import yield_point


@get("/jobs/{job_id:str}/versions")
async def get_versions(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """The versions of a job, ascending, each with its spec and the state in which it was left."""
    service, query = service_of(request), query_of(request)
    job = await find_job(request, job_id, query.text("namespace"))
    limit = query.integer("limit", LIST_MAX_LIMIT, most=LIST_MAX_LIMIT) or LIST_MAX_LIMIT
    after = query.integer("next_token", 0)
    versions = await service.view.versions(job.status.id, after=after, limit=limit)
    spans = await spans_of(service, job.status)
    versions = fit_page(versions, lambda version: _size_of(version, spans.get(version.version)))
    tags = tags_by_version(job.status)
    more = bool(versions) and versions[-1].version < job.status.version
    return json_answer(
        {
            "Items": version_wires(job, versions, spans),
            # Beside them: an item is a job, and Bacalhau's has no place for it.
            "Versions": [
                _version_wire(each.version, spans[each.version], tags.get(each.version, []))
                for each in versions
                if each.version in spans
            ],
            "NextToken": str(versions[-1].version) if more else "",
        }
    )


@get("/jobs/{job_id:str}/tags")
async def get_tags(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """The tags of a job, in the order of their names."""
    service, query = service_of(request), query_of(request)
    checkpoint = service.projector.sequence
    job = await find_job(request, job_id, query.text("namespace"))
    point = await point_of(service, query, status=job.status)
    if point is not None:
        job = await past_of(service, job, point, checkpoint)
    items = [{"Tag": tag, "JobVersion": version} for tag, version in job.status.tags.items()]
    return json_answer({"JobID": job.status.id, "Items": items})


@get("/jobs/{job_id:str}/diff")
async def get_diff(request: AnyRequest, job_id: JobRef) -> Response[bytes]:
    """How two versions of a job's spec differ."""
    service, query = service_of(request), query_of(request)
    job = await find_job(request, job_id, query.text("namespace"))
    status = job.status
    if not query.text("from"):
        raise InvalidInput("from: say which version to compare, by its number or a tag")
    numbers = [version_of(query.text(name), status, name) or status.version for name in ("from", "to")]
    old, new = [await _named(service, job, number) for number in numbers]
    compared = await compare(service, old, new)
    return json_answer(
        {
            "JobID": status.id,
            "From": numbers[0],
            "To": numbers[1],
            "Diff": compared.text,
            "Patch": patch_of(compared.edits),
            "Changes": changes_wire(compared.edits),
        }
    )


@get("/jobs/{job_id:str}/blame")
async def get_blame(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """For every field of a job, the event that it has its value from."""
    service, query = service_of(request), query_of(request)
    job = await find_job(request, job_id, query.text("namespace"))
    point = await point_of(service, query, status=job.status)
    blame = await _blame_at(service, job.status, point)
    found = blame.job
    assert found is not None
    place = query.text("path")
    items = [_blamed_wire(each) for each in blame.fields() if _is_in(path_text(each.path), place)]
    body = encode(
        {
            "JobID": found.status.id,
            "Version": found.status.version,
            "Revision": found.status.revision,
            "Sequence": found.status.sequence,
            "Cursor": format_cursor(service.mark, found.status.sequence),
            "Items": items,
        }
    )
    if len(body) > BLAME_MAX_BYTES:
        raise PayloadTooLarge(
            f"the answer has {len(body)} bytes, and {BLAME_MAX_BYTES} are the most; name a part of the job as"
            " `path`, say `Tasks[0].Env`"
        )
    return RawJSON(body)


async def version_raw(service: Service, job: Job, version: int) -> msgspec.Raw:
    """One version of a job, as a job.

    Raises:
        VersionNotFound: if there is no such version.
    """
    if version == job.status.version:
        return job_raw(job)
    found = await service.view.version(job.status.id, version)
    [wire] = version_wires(job, (found,), await spans_of(service, job.status)) or [job_raw(job)]
    return wire


async def spans_of(service: Service, status: JobStatus) -> dict[int, VersionSpan]:
    """The lives of a job's versions, from its whole history."""
    gathered = VersionSpans()
    async with queued(service.scans):
        async for item in service.ledger.history(status.id, namespace=status.namespace):
            gathered.add(item)
    return gathered.spans


def _size_of(version: JobVersion, span: VersionSpan | None) -> int:
    state = span.last.state if span is not None else None
    return len(version.spec) + (state.size if state is not None else 0)


def _version_wire(version: int, span: VersionSpan, tags: Sequence[str]) -> dict[str, Any]:
    first = span.first
    return {
        "Version": version,
        "Tags": tags,
        "Time": format_rfc3339(first.time),
        "Sequence": first.sequence,
        "EventID": first.event_id,
        "EventType": first.type,
        "Actor": first.actor,
        "Reason": first.reason,
    }


async def _named(service: Service, job: Job, version: int) -> Named:
    if version == job.status.version:
        spec = job.spec
    else:
        spec = (await service.view.version(job.status.id, version)).spec
    return Named(f"version {version}", f"version {version}", spec)


async def _blame_at(service: Service, status: JobStatus, point: int | None) -> Blame:
    """The blame of a job at a point; at its last event, if none is named."""
    sequence = INT_MAX if point is None else point
    blame = Blame()
    async with queued(service.scans):
        last = await last_sequence_of(service.log, status, sequence)
        records: list[Record] = []
        size = 0
        async for record in records_as_of(service.log, status, sequence, last=last):
            records.append(record)
            size += len(record.payload)
            if len(records) == BLAME_CHUNK_EVENTS or size >= BLAME_CHUNK_BYTES:
                await _add(service, blame, records)
                records, size = [], 0
        await _add(service, blame, records)
    if blame.job is None:
        raise did_not_exist(status, sequence)
    return blame


async def _add(service: Service, blame: Blame, records: list[Record]) -> None:
    """Add records in a thread, in turn with whoever compares specs."""
    if records:
        async with queued(service.comparing):
            await asyncio.to_thread(_add_all, blame, records)
        await yield_point()  # not within the turn: others would wait for this pause


def _add_all(blame: Blame, records: list[Record]) -> None:
    for record in records:
        blame.add(record)


def _is_in(path: str, place: str) -> bool:
    """Whether a path is this place, or leads into it; every path is in the empty one."""
    return path.startswith(place) and path[len(place) : len(place) + 1] in ("", ".", "[") if place else True


def _blamed_wire(blamed: Blamed) -> dict[str, Any]:
    event = blamed.event
    return {
        "Path": path_text(blamed.path),
        "Pointer": pointer(blamed.path),
        "Value": blamed.value,
        "Actor": event.actor,
        "Reason": event.reason,
        "Time": format_rfc3339(event.time),
        "Sequence": event.sequence,
        "EventID": event.event_id,
        "EventType": event.type,
        "Version": event.version,
        "Revision": event.revision,
    }


HANDLERS: Final[tuple[Any, ...]] = (get_versions, get_tags, get_diff, get_blame)
