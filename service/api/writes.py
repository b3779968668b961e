"""Writing jobs: the operations that append events. Each reads its request and runs one command."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar, Unpack

import msgspec

from jobledger.projections.results import JobVersion
from jobledger.service.access.principal import Principal
from jobledger.service.api.capacity import waiting
from jobledger.service.api.compare import compare_spec, is_comparison
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import (
    CONDITIONS,
    ETAG,
    FLAG,
    ID,
    NAMESPACE,
    REASON,
    STRICT,
    TAG,
    WAIT,
)
from jobledger.service.api.query import parse_revision, parse_state
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response, encode, etag
from jobledger.service.cursor import format_cursor
from jobledger.service.idempotency import Answer, WriteRequest
from jobledger.service.versions import check_version_text, version_of
from jobledger.service.wire import jobs as wire, paths
from jobledger.service.wire.versions import DiffAnswer
from jobledger.service.wiring import Service
from jobledger.store.command import CommandMetadata, Receipt
from jobledger.store.ledger import Ledger
from jobledger.store.model.errors import Conflict, InvalidInput, JobledgerError, JobNotFound, RevisionMismatch
from jobledger.store.model.job import JobStatus, State
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.spec import JobSpec

NO_CHANGES: Final = (
    "no changes detected for new job spec: nothing was written; send Force to make a new version anyway"
)
STOPPED_ALREADY: Final = "the job is already stopped: nothing was written"
SAME_STATE: Final = "the job already has this state: nothing was written"
SAME_VERSION: Final = "the job already has the spec of that version: nothing was written"
SAME_TAG: Final = "the tag already names this version: nothing was written"
ACCEPTED_ALREADY: Final = "that event was already accepted: nothing was written"
NO_TAG: Final = "the job has no such tag: nothing was written"

_HEADERS: Final = (*ETAG, ("Idempotency-Replayed", "`true`: the response to the first request with this key"))
_SPEC: Final = {
    "Name": "hello",
    "Type": "batch",
    "Count": 1,
    "Labels": {"env": "prod"},
    "Tasks": [{"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}}],
}
_OF_A_JOB: Final = (ID, NAMESPACE, STRICT, REASON, *WAIT, *CONDITIONS)
_OF_A_TAG: Final = (ID, TAG, NAMESPACE, STRICT, REASON, *WAIT, *CONDITIONS)

operations = OperationGroup("Writes")
_declare = partial(
    operations.declare, permission=Permission.WRITE, response=wire.WriteAnswer, headers=_HEADERS
)

Command = Callable[..., Awaitable[Receipt]]  # takes CommandMetadata as keywords
W = TypeVar("W", bound=wire.JobWrite)


class _Position(msgspec.Struct):
    job_id: str = msgspec.field(name="JobID")
    sequence: int = msgspec.field(name="Sequence")


_position_decoder: Final = msgspec.json.Decoder(_Position)


@_declare(
    "POST",
    paths.JOBS,
    "postJob",
    parameters=(STRICT, REASON, *CONDITIONS),
    body=wire.SubmitRequest,
    example={"Job": _SPEC, "Reason": "first try"},
)
@_declare(
    "PUT",
    paths.JOBS,
    "putJob",
    parameters=(STRICT, REASON, *CONDITIONS),
    body=wire.SubmitRequest,
    example={"Job": _SPEC, "Reason": "first try"},
)
async def submit_job(request: Request[wire.SubmitRequest]) -> Response:
    """Create or update a job.

    Creates the job, or gives the job of that namespace and name this spec: Version and Revision +1, Pending
    again. A spec that is equal after normalization writes nothing, with a warning; `Force` makes a new
    version anyway. Keys are read case-insensitively. Fields that the service sets (ID, State, Version, …) are
    ignored with a warning.
    """
    spec, force = request.body.job, request.body.force
    namespace = spec.namespace or DEFAULT_NAMESPACE
    request.require(namespace)
    ledger = request.service.ledger
    must_exist = (request.condition(b"if-match") or "").strip() == "*"
    command = partial(_apply_existing, ledger, namespace) if must_exist else ledger.apply
    return await _write(request, "submit", partial(command, spec, force=force), unchanged=NO_CHANGES)


@operations.declare(
    "PUT",
    paths.JOBS_DIFF,
    "diffJob",
    Permission.READ,
    (
        STRICT,
        Parameter(
            "compare",
            FLAG,
            "compare also a spec with the name `diff`, and one whose job does not exist: `Version` is 0, and"
            " everything is new",
        ),
        *WAIT,
    ),
    body=wire.DiffRequest,
    response=DiffAnswer,
    errors=(404,),
    example={"Job": _SPEC},
    is_routed=False,
)
async def diff_job(request: Request[Any]) -> DiffAnswer:
    """Preview what a submission would change.

    Compares the spec with that of the job of its name. Nothing is written, with one exception: a spec with
    the name `diff` updates the job of that name, unless `compare` is true or the client is Bacalhau's. Specs
    over 128 KiB or 4,000 lines of JSON are refused with 413.
    """
    return await compare_spec(request)


@_declare(
    "PUT",
    paths.JOB,
    "updateJob",
    parameters=_OF_A_JOB,
    body=wire.SubmitRequest,
    example={"Job": _SPEC},
)
async def update_job(request: Request[wire.SubmitRequest]) -> Response | DiffAnswer:
    """Give a job a new spec.

    Name and namespace may be omitted from the spec, and cannot change.
    """
    if is_comparison(request):
        return await diff_job(request)
    spec, force = request.body.job, request.body.force
    status = (await request.job()).status
    update = partial(request.service.ledger.update, status.id, spec, namespace=status.namespace, force=force)
    return await _write(request, "update", update, unchanged=NO_CHANGES)


@_declare(
    "PUT",
    paths.JOB_STATE,
    "setJobState",
    parameters=_OF_A_JOB,
    body=wire.StateRequest,
    example={"StateType": "Running", "Message": "on node-1"},
)
async def set_job_state(request: Request[wire.StateRequest]) -> Response:
    """Report a job's state.

    This is how an orchestrator reports. Any state may follow one that is not terminal; after Completed,
    Failed or Stopped only a new spec or a rerun reopens the job (409).
    """
    body = request.body
    state = State(parse_state(body.state_type, "StateType"), body.message, body.details)
    status = (await request.job()).status
    set_state = partial(request.service.ledger.set_state, status.id, state, namespace=status.namespace)
    return await _write(request, "set_state", set_state, unchanged=SAME_STATE)


@_declare(
    "DELETE",
    paths.JOB,
    "stopJob",
    parameters=_OF_A_JOB,
    body=wire.StopRequest,
    example={"Reason": "no longer needed"},
)
async def stop_job(request: Request[wire.StopRequest]) -> Response:
    """Stop a job.

    The state becomes Stopped, with the reason as its message. A stopped job stays as it is; a Completed or
    Failed one is a conflict (409). The reason comes from the query or the body.
    """
    status = (await request.job()).status
    stop = partial(request.service.ledger.stop, status.id, namespace=status.namespace)
    return await _write(request, "stop", stop, unchanged=STOPPED_ALREADY)


@_declare(
    "PUT",
    paths.JOB_RERUN,
    "rerunJob",
    parameters=_OF_A_JOB,
    body=wire.RerunRequest,
    response=wire.RerunAnswer,
    example={"JobVersion": 1, "Reason": "the input is complete now"},
)
async def rerun_job(request: Request[wire.RerunRequest]) -> Response:
    """Run a job again.

    A new version, with the spec of the latest or of an older version. A job that is Pending or Queued has not
    started yet: a conflict (409).
    """
    version = _version_text(request.body.job_version)
    status = (await request.job()).status
    service = request.service

    async def command(**metadata: Unpack[CommandMetadata]) -> Receipt:
        spec = (await _find_version(service, status, version)).spec if version else None
        return await service.ledger.rerun(status.id, spec, namespace=status.namespace, **metadata)

    return await _write(request, "rerun", command)


@_declare(
    "PUT",
    paths.JOB_REVERT,
    "revertJob",
    parameters=_OF_A_JOB,
    body=wire.RevertRequest,
    example={"JobVersion": 1, "Reason": "the new image does not start"},
)
async def revert_job(request: Request[wire.RevertRequest]) -> Response:
    """Return to an earlier version.

    Makes a new version with the spec of an earlier one: the history stays complete. If the job has that spec
    already, nothing is written, with a warning. Without a reason, the event names the version.
    """
    version = _version_text(request.body.job_version)
    if not version:
        raise InvalidInput("JobVersion is required: the number of an earlier version, or a tag")
    status = (await request.job()).status
    service = request.service

    async def command(**metadata: Unpack[CommandMetadata]) -> Receipt:
        found = await _find_version(service, status, version)
        name = f"version {found.version}" + ("" if version.isdecimal() else f" ({version})")
        metadata["reason"] = metadata["reason"] or f"reverted to {name}"
        return await service.ledger.revert(status.id, found.spec, namespace=status.namespace, **metadata)

    return await _write(request, "revert", command, unchanged=SAME_VERSION)


@_declare(
    "POST",
    paths.JOB_ACCEPT,
    "acceptUnreadable",
    parameters=_OF_A_JOB,
    permission=Permission.ADMIN,
    body=wire.AcceptRequest,
    example={"Sequence": 4711, "Reason": "lost with the disk of node-2"},
)
async def accept_unreadable(request: Request[wire.AcceptRequest]) -> Response:
    """Accept that an event of a job cannot be read.

    A job in quarantine continues without the event: it becomes what its other events make of it, including
    later ones. While other events freeze it, it stays in quarantine. An event that does not freeze the job is
    refused (409); one that was already accepted writes nothing, with a warning.
    """
    sequence = request.body.sequence
    job_id, namespace = await request.frozen_job()
    accept = partial(request.service.ledger.accept_unreadable, job_id, sequence, namespace=namespace)
    return await _write(request, "accept_unreadable", accept, unchanged=ACCEPTED_ALREADY)


@_declare(
    "PUT",
    paths.JOB_TAG,
    "tagJob",
    parameters=_OF_A_TAG,
    body=wire.TagRequest,
    example={"JobVersion": 1, "Reason": "ran for a week"},
)
async def tag_job(request: Request[wire.TagRequest]) -> Response:
    """Tag a version of a job, or move the tag to another version.

    A tag may be used wherever a version number may. Tagging is an event of the job, with who and why;
    version, revision and ETag do not change, because the job does not. A job has at most 64 tags (409 beyond
    that).
    """
    version, tag = _version_text(request.body.job_version), request.values["tag"]
    status = (await request.job()).status
    ledger = request.service.ledger

    async def command(**metadata: Unpack[CommandMetadata]) -> Receipt:
        present = (await ledger.load(status.id, namespace=status.namespace)).status
        number = version_of(version, present, "JobVersion") or present.version
        return await ledger.tag(status.id, tag, number, namespace=status.namespace, **metadata)

    return await _write(request, "tag", command, unchanged=SAME_TAG)


@_declare(
    "DELETE",
    paths.JOB_TAG,
    "untagJob",
    parameters=_OF_A_TAG,
    body=wire.StopRequest,
    example={"Reason": "superseded"},
)
async def untag_job(request: Request[wire.StopRequest]) -> Response:
    """Remove a tag.

    If the job does not have the tag, nothing is written, with a warning.
    """
    tag = request.values["tag"]
    status = (await request.job()).status
    untag = partial(request.service.ledger.untag, status.id, tag, namespace=status.namespace)
    return await _write(request, "untag", untag, unchanged=NO_TAG)


def _version_text(version: int | str) -> str:
    """The number of a version or a tag, as text; empty for 0."""
    text = str(version)
    check_version_text(text, "JobVersion")
    return text if text.strip("0") else ""


async def _find_version(service: Service, status: JobStatus, text: str) -> JobVersion:
    """The version that a write names, according to the log: this view may not have it or its tag yet.

    Raises:
        VersionNotFound: if the log has no such version or tag.
        WaitTimeout: if the view does not catch up.
    """
    present = (await service.ledger.load(status.id, namespace=status.namespace)).status
    number = version_of(text, present, "JobVersion")
    if number <= present.version and present.spec_sequence > service.projector.sequence:
        with waiting():
            await service.projector.wait_for(present.spec_sequence)
    return await service.view.version(status.id, number)


async def _apply_existing(
    ledger: Ledger, namespace: str, spec: JobSpec, *, force: bool, **metadata: Unpack[CommandMetadata]
) -> Receipt:
    await _require_job(ledger, namespace, spec.name)
    return await ledger.apply(spec, force=force, **metadata)


async def _require_job(ledger: Ledger, namespace: str, name: str) -> None:
    """Enforce `If-Match: *` (RFC 9110, 13.1.1).

    Raises:
        RevisionMismatch: if there is no job of that name.
    """
    job_id = named_job_id(namespace, name)
    try:
        await ledger.load(job_id, namespace=namespace)
    except JobNotFound:
        raise RevisionMismatch(
            f"no job in namespace {namespace!r:.80} has the name {name!r:.80}, and If-Match is `*`; omit it"
            " to create the job",
            job_id=job_id,
            revision=0,
        ) from None


# --- what every write does ----------------------------------------------------------------------------------


async def _write(request: Request[W], name: str, command: Command, *, unchanged: str = "") -> Response:
    """Run a command once (see `idempotency`), and respond with its receipt.

    `name` is the command's name in the metrics, `unchanged` the warning if nothing had to be written.
    """
    service, principal = request.service, request.principal
    warnings, metadata = request.warnings, _metadata(request)

    async def run(event_id: str | None) -> Answer:
        service.tokens.require_valid(principal)  # finding the job and waiting for the key took time
        receipt = await command(**{**metadata, "event_id": event_id})
        service.own_writes.note(receipt.job_id, receipt.sequence)
        answer = _answer(
            request,
            receipt,
            warnings if receipt.changed or not unchanged else [*warnings, unchanged],
        )
        return Answer(body=msgspec.Raw(encode(answer)), etag=etag(receipt.revision), changed=receipt.changed)

    try:
        answer = await service.idempotent.once(_write_request(request), run, waiting=waiting)
        if answer.replayed:
            service.tokens.require_valid(principal)
    except JobledgerError as error:
        if isinstance(error, Conflict):  # reading the job again must not return what the caller had before
            service.own_writes.note(error.job_id, error.sequence)
        service.metrics.write(name, type(error).__name__)
        raise
    service.metrics.write(name, "written" if answer.changed else "unchanged")
    headers = [(b"etag", answer.etag.encode())]
    if answer.replayed:
        headers.append((b"idempotency-replayed", b"true"))
        # Another replica may have acknowledged it; from now on, this one has as well.
        position = _position_decoder.decode(answer.body)
        service.own_writes.note(position.job_id, position.sequence)
    return Response(bytes(answer.body), headers)


def _answer(request: Request[W], receipt: Receipt, warnings: list[str]) -> wire.WriteAnswer:
    facts: dict[str, Any] = {
        "job_id": receipt.job_id,
        # Nothing is scheduled here: the event is what a caller can refer to later.
        "evaluation_id": receipt.event_id if receipt.changed else "",
        "warnings": warnings or None,
        "version": receipt.version,
        "revision": receipt.revision,
        "sequence": receipt.sequence,
        "cursor": format_cursor(request.service.stream_tag, receipt.sequence),
    }
    if request.operation.response is wire.RerunAnswer:
        return wire.RerunAnswer(**facts, job_version=receipt.version)
    return wire.WriteAnswer(**facts)


def _metadata(request: Request[W]) -> CommandMetadata:
    """Who writes, why, and on what condition."""
    metadata: CommandMetadata = {
        "actor": request.principal.name,
        "reason": request.body.reason or request.query.text("reason"),
        "expected_revision": _expected_revision(request),
    }
    traceparent = request.header(b"traceparent")
    if traceparent:
        metadata["traceparent"] = traceparent
    return metadata


def _expected_revision(request: Request[W]) -> int | None:
    """The revision that the caller expects; 0 if the job must not exist; None for any."""
    if_match, if_none_match = request.condition(b"if-match"), request.condition(b"if-none-match")
    if if_match and if_none_match:
        raise InvalidInput("If-Match and If-None-Match contradict each other; send one of them")
    if if_none_match:
        if if_none_match.strip() != "*":
            raise InvalidInput(f"If-None-Match of a write must be `*`, got {if_none_match!r:.60}")
        return 0
    return parse_revision(if_match) if if_match else None


def _write_request(request: Request[W]) -> WriteRequest:
    """What makes two requests the same, however they are written. Stored records of keys depend on it."""
    key = request.condition(b"idempotency-key")
    return WriteRequest(
        key=key,
        principal=_key_owner(request.principal),
        method="PUT" if request.method == "POST" else request.method,  # PUT and POST /jobs are the same
        path=request.path,
        query=request.query_string,
        if_match=request.header(b"if-match"),
        if_none_match=request.header(b"if-none-match"),
        # Only a key's record needs it, and this is a pass over the whole body.
        body=b"" if key is None else msgspec.json.encode(request.fields, order="deterministic"),
    )


def _key_owner(principal: Principal) -> str:
    """The owner of idempotency keys: tokens of one name and different namespaces do not share them."""
    if principal.namespaces is None:
        return principal.name
    return "\n".join((principal.name, *sorted(principal.namespaces)))
