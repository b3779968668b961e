"""A job's versions: the list, their tags, how two differ, and which event set each field."""

import asyncio
from collections.abc import Sequence
from typing import cast

import msgspec

from jobledger.projections.as_of.job import did_not_exist, last_sequence_of, records_as_of
from jobledger.projections.limits import LIST_MAX_LIMIT
from jobledger.projections.results import JobVersion, fit_page
from jobledger.service.api.as_of import past_of, point_of
from jobledger.service.api.capacity import queued
from jobledger.service.api.compare import NamedSpec, changes_of, compare
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import (
    ID,
    JOB_AT,
    NAMESPACE,
    NEXT_TOKEN,
    TEXT,
    VERSION,
    WAIT,
    limit,
)
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response, encode
from jobledger.service.blame import Blame, Blamed
from jobledger.service.cursor import format_cursor
from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import BLAME_CHUNK_BYTES, BLAME_CHUNK_EVENTS, BLAME_MAX_BYTES
from jobledger.service.structural_diff import patch_of, path_text, pointer
from jobledger.service.versions import VersionSpan, VersionSpans, tags_by_version, version_of
from jobledger.service.wire import paths, versions as wire
from jobledger.service.wire.jobs import Job as JobJSON
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.model.job import Job, JobStatus, State
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import format_rfc3339
from jobledger.store.yield_point import yield_point

operations = OperationGroup("Reads")


@operations.declare(
    "GET",
    paths.JOB_VERSIONS,
    "jobVersions",
    Permission.READ,
    (ID, NAMESPACE, limit(LIST_MAX_LIMIT, LIST_MAX_LIMIT, "versions"), NEXT_TOKEN, *WAIT),
    response=wire.Versions,
)
async def get_versions(request: Request[None]) -> wire.Versions:
    """Read a job's versions.

    Ascending; each with its spec, and its last state and revision. `Versions` has the tags of each, and who
    created it, when and why.
    """
    service, query = request.service, request.query
    job = await request.job()
    limit = query.limit(LIST_MAX_LIMIT, LIST_MAX_LIMIT)
    after = query.integer("next_token", 0)
    versions = await service.view.versions(job.status.id, after=after, limit=limit)
    spans = await _spans_of(service, job.status)
    versions = fit_page(versions, lambda version: _size_of(version, spans.get(version.version)))
    tags = tags_by_version(job.status)
    more = bool(versions) and versions[-1].version < job.status.version
    return wire.Versions(
        _versions_json(job, versions, spans),
        # In a list of their own: an item is a job, and Bacalhau's has no field for them.
        [
            _version_facts(each.version, spans[each.version], tags.get(each.version, []))
            for each in versions
            if each.version in spans
        ],
        str(versions[-1].version) if more else "",
    )


@operations.declare(
    "GET", paths.JOB_TAGS, "jobTags", Permission.READ, (ID, NAMESPACE, JOB_AT, *WAIT), response=wire.Tags
)
async def get_tags(request: Request[None]) -> wire.Tags:
    """Read a job's tags.

    The names of its versions, ordered by name.
    """
    checkpoint = request.service.projector.sequence
    job = await request.job()
    point = await point_of(request, status=job.status)
    if point is not None:
        job = await past_of(request.service, job, point, checkpoint)
    items = [wire.TagItem(tag, version) for tag, version in job.status.tags.items()]
    return wire.Tags(job.status.id, items)


@operations.declare(
    "GET",
    paths.JOB_DIFF,
    "diffVersions",
    Permission.READ,
    (
        ID,
        NAMESPACE,
        Parameter("from", VERSION, "the first version, by its number or a tag", required=True),
        Parameter("to", VERSION, "the second version; 0 or absent: the latest"),
        *WAIT,
    ),
    response=wire.VersionsDiff,
    errors=(413,),
)
async def get_diff(request: Request[None]) -> wire.VersionsDiff:
    """Compare two versions of a job.

    As a list of changes, as text, and as a JSON patch. Elements of lists are matched by name if all have one.
    Specs over 128 KiB or 4,000 lines of JSON are refused with 413.
    """
    job = await request.job()
    status = job.status
    if not request.query.text("from"):
        raise InvalidInput("from is required: use a positive integer or a tag name")
    first, second = (
        version_of(request.query.text(name), status, name) or status.version for name in ("from", "to")
    )
    old, new = await _named_spec(request.service, job, first), await _named_spec(request.service, job, second)
    comparison = await compare(request.service, old, new)
    patch, changes = patch_of(comparison.edits), changes_of(comparison.edits)
    return wire.VersionsDiff(status.id, first, second, comparison.text, patch, changes)


@operations.declare(
    "GET",
    paths.JOB_BLAME,
    "blameJob",
    Permission.READ,
    (
        ID,
        NAMESPACE,
        Parameter("at", TEXT, "as of this point: a time, an age such as `2h`, a sequence, a cursor, or `r3`"),
        Parameter("path", TEXT, "only this field and what it contains, such as `Tasks[0].Env`"),
        *WAIT,
    ),
    response=wire.Blame,
    errors=(413,),
)
async def get_blame(request: Request[None]) -> Response:
    """Find who last set each field of a job.

    For every field of the spec, of the state, and for every tag: its value, and the event that set that
    value, with who and why. A value that returned, by a revert for example, is attributed to the event that
    brought it back; an event that only repeats a value does not count. Read from the log itself. Jobs with a
    spec over 128 KiB or 4,000 fields are refused with 413.
    """
    service = request.service
    job = await request.job()
    point = await point_of(request, status=job.status)
    blame = await _blame_at(service, job.status, point)
    assert blame.job is not None
    status, place = blame.job.status, request.query.text("path")
    items = [_blame_item(each) for each in blame.fields() if _is_in(path_text(each.path), place)]
    body = encode(
        wire.Blame(
            status.id,
            status.version,
            status.revision,
            status.sequence,
            format_cursor(service.stream_tag, status.sequence),
            items,
        )
    )
    if len(body) > BLAME_MAX_BYTES:
        raise PayloadTooLarge(
            f"the response has {len(body)} bytes, at most {BLAME_MAX_BYTES} are allowed; name a part of the"
            " job as `path`, such as `Tasks[0].Env`"
        )
    return Response(body)


def job_json(job: Job) -> JobJSON:
    """The job as JSON that is complete already; typed as the Struct that it is the JSON of."""
    return cast("JobJSON", msgspec.Raw(job.to_json()))


async def version_json(service: Service, job: Job, version: int) -> JobJSON:
    """One version of a job, as a job.

    Raises:
        VersionNotFound: if it does not exist.
    """
    if version == job.status.version:
        return job_json(job)
    found = await service.view.version(job.status.id, version)
    [json] = _versions_json(job, (found,), await _spans_of(service, job.status)) or [job_json(job)]
    return json


def _versions_json(job: Job, versions: Sequence[JobVersion], spans: dict[int, VersionSpan]) -> list[JobJSON]:
    """Versions of a job as jobs: each with its spec, and its last state."""
    found = []
    for version in versions:
        span = spans.get(version.version)
        if span is None:  # the view is ahead of the history that was read
            continue
        item = span.last
        status = msgspec.structs.replace(
            job.status,
            version=version.version,
            revision=item.revision,
            state=item.state or State(job.status.state.state_type),
            modify_time=min(max(item.time, version.time), job.status.modify_time),
        )
        found.append(job_json(Job(status=status, spec=version.spec)))
    return found


async def _spans_of(service: Service, status: JobStatus) -> dict[int, VersionSpan]:
    """The first and last event of each version, from the job's whole history."""
    gathered = VersionSpans()
    async with queued(service.scans):
        async for item in service.ledger.history(status.id, namespace=status.namespace):
            gathered.add(item)
    return gathered.spans


def _size_of(version: JobVersion, span: VersionSpan | None) -> int:
    state = span.last.state if span is not None else None
    return len(version.spec) + (state.size if state is not None else 0)


def _version_facts(version: int, span: VersionSpan, tags: list[str]) -> wire.VersionFacts:
    first = span.first
    return wire.VersionFacts(
        version=version,
        tags=tags,
        time=format_rfc3339(first.time),
        sequence=first.sequence,
        event_id=first.event_id,
        event_type=first.type,
        actor=first.actor,
        reason=first.reason,
    )


async def _named_spec(service: Service, job: Job, version: int) -> NamedSpec:
    if version == job.status.version:
        spec = job.spec
    else:
        spec = (await service.view.version(job.status.id, version)).spec
    return NamedSpec(f"version {version}", f"version {version}", spec)


# --- blame --------------------------------------------------------------------------------------------------


async def _blame_at(service: Service, status: JobStatus, point: int | None) -> Blame:
    """The blame of a job at a point, or at its last event."""
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
    """Add records in a thread, taking turns with the comparisons of specs."""
    if records:
        async with queued(service.comparing):
            await asyncio.to_thread(_add_all, blame, records)
        await yield_point()  # outside of the turn, for which others wait


def _add_all(blame: Blame, records: list[Record]) -> None:
    for record in records:
        blame.add(record)


def _is_in(path: str, place: str) -> bool:
    """Whether a path is this place or inside it; every path is in the empty one."""
    return path.startswith(place) and path[len(place) : len(place) + 1] in ("", ".", "[") if place else True


def _blame_item(blamed: Blamed) -> wire.BlameItem:
    event = blamed.event
    return wire.BlameItem(
        path=path_text(blamed.path),
        pointer=pointer(blamed.path),
        value=blamed.value,
        actor=event.actor,
        reason=event.reason,
        time=format_rfc3339(event.time),
        sequence=event.sequence,
        event_id=event.event_id,
        event_type=event.type,
        version=event.version,
        revision=event.revision,
    )
