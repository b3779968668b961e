"""Changing jobs: the routes that append events. Each is some facts of the request, and one command."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
from litestar import delete, post, put, route
from litestar.params import FromPath

from jobledger.projections.results import JobVersion
from jobledger.service.access.principal import Principal
from jobledger.service.api.answers import RawJSON, encode, etag, receipt_wire
from jobledger.service.api.bodies import (
    Body,
    flag_of,
    number_of,
    read_body,
    spec_of,
    state_of,
    text_of,
    version_text_of,
)
from jobledger.service.api.capacity import waiting
from jobledger.service.api.compare import compare_spec, is_comparison
from jobledger.service.api.context import (
    AnyRequest,
    JobRef,
    find_frozen_job,
    find_job_to_change,
    principal_of,
    query_of,
    service_of,
)
from jobledger.service.api.params import header, parse_revision, sent_header
from jobledger.service.idempotency import Answer, WriteRequest
from jobledger.service.versions import version_of
from jobledger.service.wiring import Service
from jobledger.store.command import CommandMetadata, Receipt
from jobledger.store.ledger import Ledger
from jobledger.store.model.errors import Conflict, InvalidInput, JobledgerError, JobNotFound, RevisionMismatch
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.reader import ReadSpec

NO_CHANGES: Final = (
    "no changes detected for new job spec: nothing was written; send Force to make a new version all the same"
)
STOPPED_ALREADY: Final = "the job is stopped already: nothing was written"
SAME_STATE: Final = "the job has this very state already: nothing was written"
SAME_VERSION: Final = "the job has the spec of that version already: nothing was written"
SAME_TAG: Final = "the tag names this version already: nothing was written"
ACCEPTED_ALREADY: Final = "that event was accepted already: nothing was written"
NO_TAG: Final = "the job has no such tag: nothing was written"

_FIELDS: Final = {
    "submit": ("Job", "Force", "Reason", "Namespace"),
    "update": ("Job", "Force", "Reason", "Namespace"),
    "set_state": ("StateType", "Message", "Details", "Reason", "Namespace"),
    "stop": ("Reason", "Namespace"),
    "rerun": ("JobVersion", "Reason", "Namespace"),
    "revert": ("JobVersion", "Reason", "Namespace"),
    "tag": ("JobVersion", "Reason", "Namespace"),
    "untag": ("Reason", "Namespace"),
    "accept_unreadable": ("Sequence", "Reason", "Namespace"),
}
"""The fields of each command's body."""

Command = Callable[[CommandMetadata], Awaitable[Receipt]]


class _Position(msgspec.Struct):
    job_id: str = msgspec.field(name="JobID")
    sequence: int = msgspec.field(name="Sequence")


_position_decoder: Final = msgspec.json.Decoder(_Position)


@route("/jobs", http_method=["PUT", "POST"], status_code=200)
async def submit_job(request: AnyRequest) -> RawJSON:
    """Create the job of a namespace and name, or give it a new spec if it exists."""
    body = read_body(request)
    read = spec_of(body, strict=query_of(request).flag("strict"))
    force = flag_of(body, "Force")
    principal_of(request).require_write(read.spec.namespace or DEFAULT_NAMESPACE)
    ledger = service_of(request).ledger

    must_exist = (sent_header(request.scope["headers"], b"if-match") or "").strip() == "*"

    async def command(about: CommandMetadata) -> Receipt:
        if must_exist:
            await _require_job(ledger, read.spec.namespace or DEFAULT_NAMESPACE, read.spec.name)
        return await ledger.apply(read.spec, force=force, **about)

    return await _answer(request, body, "submit", command, _warnings(read), unchanged=NO_CHANGES)


@put("/jobs/{job_id:str}")
async def update_job(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """Give a job a new spec, or compare one with the job that it names (`is_comparison`)."""
    body = read_body(request)
    if is_comparison(request, job_id, body):
        return await compare_spec(request, body)
    read = spec_of(body, strict=query_of(request).flag("strict"))
    force = flag_of(body, "Force")
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    ledger = service_of(request).ledger

    async def command(about: CommandMetadata) -> Receipt:
        return await ledger.update(status.id, read.spec, namespace=status.namespace, force=force, **about)

    return await _answer(request, body, "update", command, _warnings(read), unchanged=NO_CHANGES)


@put("/jobs/{job_id:str}/state")
async def set_job_state(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """Say what became of a job: how an orchestrator reports."""
    body = read_body(request)
    state = state_of(body)
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    ledger = service_of(request).ledger

    async def command(about: CommandMetadata) -> Receipt:
        return await ledger.set_state(status.id, state, namespace=status.namespace, **about)

    return await _answer(request, body, "set_state", command, unchanged=SAME_STATE)


@delete("/jobs/{job_id:str}", status_code=200)
async def stop_job(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """Stop a job."""
    body = read_body(request)
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    ledger = service_of(request).ledger

    async def command(about: CommandMetadata) -> Receipt:
        return await ledger.stop(status.id, namespace=status.namespace, **about)

    return await _answer(request, body, "stop", command, unchanged=STOPPED_ALREADY)


@put("/jobs/{job_id:str}/rerun")
async def rerun_job(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """Begin a job again, as a new version with the spec of the present or of an earlier one."""
    body = read_body(request)
    version = version_text_of(body, "JobVersion")
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    service = service_of(request)

    async def command(about: CommandMetadata) -> Receipt:
        spec = (await _version_meant(service, status, version)).spec if version else None
        return await service.ledger.rerun(status.id, spec, namespace=status.namespace, **about)

    return await _answer(request, body, "rerun", command)


@put("/jobs/{job_id:str}/revert")
async def revert_job(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """Give a job the spec of an earlier version, as a new one."""
    body = read_body(request)
    version = version_text_of(body, "JobVersion")
    if not version:
        raise InvalidInput("JobVersion: say which version to go back to, by its number or a tag")
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    service = service_of(request)

    async def command(about: CommandMetadata) -> Receipt:
        found = await _version_meant(service, status, version)
        name = f"version {found.version}" + ("" if version.isdecimal() else f" ({version})")
        about["reason"] = about["reason"] or f"reverted to {name}"
        return await service.ledger.revert(status.id, found.spec, namespace=status.namespace, **about)

    return await _answer(request, body, "revert", command, unchanged=SAME_VERSION)


@put("/jobs/{job_id:str}/tags/{tag:str}")
async def tag_job(request: AnyRequest, job_id: JobRef, tag: FromPath[str]) -> RawJSON:
    """Let a tag name a version of a job."""
    body = read_body(request)
    version = version_text_of(body, "JobVersion")
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    service = service_of(request)

    async def command(about: CommandMetadata) -> Receipt:
        present = (await service.ledger.load(status.id, namespace=status.namespace)).status
        number = version_of(version, present, "JobVersion") or present.version
        return await service.ledger.tag(status.id, tag, number, namespace=status.namespace, **about)

    return await _answer(request, body, "tag", command, unchanged=SAME_TAG)


@delete("/jobs/{job_id:str}/tags/{tag:str}", status_code=200)
async def untag_job(request: AnyRequest, job_id: JobRef, tag: FromPath[str]) -> RawJSON:
    """Take a tag away from a job."""
    body = read_body(request)
    status = (await find_job_to_change(request, job_id, _namespace(request, body))).status
    ledger = service_of(request).ledger

    async def command(about: CommandMetadata) -> Receipt:
        return await ledger.untag(status.id, tag, namespace=status.namespace, **about)

    return await _answer(request, body, "untag", command, unchanged=NO_TAG)


@post("/jobs/{job_id:str}/accept-unreadable", status_code=200)
async def accept_unreadable(request: AnyRequest, job_id: JobRef) -> RawJSON:
    """Accept that an event which froze a job can't be read."""
    principal_of(request).require_admin()
    body = read_body(request)
    sequence = number_of(body, "Sequence")
    if not sequence:
        raise InvalidInput("Sequence: say which event is accepted, as the job's Quarantine names it")
    found_id, namespace = await find_frozen_job(request, job_id, _namespace(request, body))
    ledger = service_of(request).ledger

    async def command(about: CommandMetadata) -> Receipt:
        return await ledger.accept_unreadable(found_id, sequence, namespace=namespace, **about)

    return await _answer(request, body, "accept_unreadable", command, unchanged=ACCEPTED_ALREADY)


async def _version_meant(service: Service, status: JobStatus, text: str) -> JobVersion:
    """The version that a write names, by the log's own word: this view may not know of it or its tag yet.

    Raises:
        VersionNotFound: if the log has none of that number, or no such tag.
        WaitTimeout: if the view stays behind.
    """
    present = (await service.ledger.load(status.id, namespace=status.namespace)).status
    number = version_of(text, present, "JobVersion")
    if number <= present.version and present.spec_sequence > service.projector.sequence:
        with waiting():
            await service.projector.wait_for(present.spec_sequence)
    return await service.view.version(status.id, number)


async def _require_job(ledger: Ledger, namespace: str, name: str) -> None:
    """Hold `If-Match: *` to what it says (RFC 9110, 13.1.1); a job that exists stays.

    Raises:
        RevisionMismatch: if there is no job of that name.
    """
    job_id = named_job_id(namespace, name)
    try:
        await ledger.load(job_id, namespace=namespace)
    except JobNotFound:
        raise RevisionMismatch(
            f"no job in namespace {namespace!r:.80} has the name {name!r:.80}, and If-Match is `*`; leave it"
            " out to create the job",
            job_id=job_id,
            revision=0,
        ) from None


# --- the one way of every write ---------------------------------------------------------------------------


async def _answer(
    request: AnyRequest,
    body: Body,
    name: str,
    command: Command,
    warnings: Iterable[str] = (),
    *,
    unchanged: str = "",
) -> RawJSON:
    """Run a command once (see `idempotency`), and answer with its receipt.

    Args:
        request: who asks, and on what condition.
        body: what it says.
        name: of the command, for the metrics.
        command: what is to be done, with who, why and on what condition.
        warnings: what was dropped from the spec.
        unchanged: what to say if nothing had to be written.
    """
    service = service_of(request)
    about = _about(request, body)
    warnings = [*body.unknown(_FIELDS[name]), *warnings]
    if warnings and query_of(request).flag("strict"):
        raise InvalidInput("; ".join(warnings))

    principal = principal_of(request)

    async def run(event_id: str | None) -> Answer:
        service.tokens.require_valid(principal)  # looking for the job, and for the key's turn, took a while
        receipt = await command({**about, "event_id": event_id})
        service.own_writes.note(receipt.job_id, receipt.sequence)
        told = warnings if receipt.changed or not unchanged else [*warnings, unchanged]
        more: dict[str, object] = {"JobVersion": receipt.version} if name == "rerun" else {}
        wire = receipt_wire(receipt, service.mark, told, **more)
        return Answer(body=msgspec.Raw(encode(wire)), etag=etag(receipt.revision), changed=receipt.changed)

    try:
        answer = await service.idempotent.once(_write_request(request, body), run, waiting=waiting)
        if answer.replayed:
            service.tokens.require_valid(principal)
    except JobledgerError as error:
        if isinstance(error, Conflict):  # "read the job again" must not show what the caller knew before
            service.own_writes.note(error.job_id, error.sequence)
        service.metrics.write(name, type(error).__name__)
        raise
    service.metrics.write(name, "written" if answer.changed else "unchanged")
    headers = [(b"etag", answer.etag.encode())]
    if answer.replayed:
        headers.append((b"idempotency-replayed", b"true"))
        # Another replica may have acknowledged it; from now on, so did this one.
        position = _position_decoder.decode(answer.body)
        service.own_writes.note(position.job_id, position.sequence)
    return RawJSON(bytes(answer.body), headers)


def _about(request: AnyRequest, body: Body) -> CommandMetadata:
    """Who commands, why, and on what condition."""
    about: CommandMetadata = {
        "actor": principal_of(request).name,
        "reason": text_of(body, "Reason") or query_of(request).text("reason"),
        "expected_revision": _expected_revision(request),
    }
    traceparent = header(request.scope["headers"], b"traceparent")
    if traceparent:
        about["traceparent"] = traceparent
    return about


def _expected_revision(request: AnyRequest) -> int | None:
    """The revision that the caller decided on; 0 if the job must not exist; None for any."""
    headers = request.scope["headers"]
    if_match = sent_header(headers, b"if-match")
    if_none_match = sent_header(headers, b"if-none-match")
    if if_match and if_none_match:
        raise InvalidInput("If-Match and If-None-Match contradict each other; send one of them")
    if if_none_match:
        if if_none_match.strip() != "*":
            raise InvalidInput(f"If-None-Match is {if_none_match!r:.60}; on a write only `*` is taken")
        return 0
    return parse_revision(if_match) if if_match else None


def _write_request(request: AnyRequest, body: Body) -> WriteRequest:
    """What makes this request the same as another: what it says, however it is written."""
    headers, method = request.scope["headers"], request.scope["method"]
    return WriteRequest(
        key=sent_header(headers, b"idempotency-key"),
        principal=_key_owner(principal_of(request)),
        method="PUT" if method == "POST" else method,  # two words for one route
        path=request.scope["path"],
        query=request.scope["query_string"],
        if_match=header(headers, b"if-match"),
        if_none_match=header(headers, b"if-none-match"),
        body=msgspec.json.encode(body.fields, order="deterministic"),
    )


def _key_owner(principal: Principal) -> str:
    """Whose idempotency keys these are: tokens of one name and different namespaces share none."""
    if principal.namespaces is None:
        return principal.name
    return "\n".join((principal.name, *sorted(principal.namespaces)))


def _namespace(request: AnyRequest, body: Body) -> str:
    """Where a name is looked up: query, else body; empty for the default namespace."""
    return query_of(request).text("namespace") or text_of(body, "Namespace")


def _warnings(read: ReadSpec) -> list[str]:
    return [str(warning) for warning in read.warnings]


HANDLERS: Final[tuple[Any, ...]] = (
    submit_job,
    update_job,
    set_job_state,
    stop_job,
    rerun_job,
    revert_job,
    tag_job,
    untag_job,
    accept_unreadable,
)
