"""Keys, seals and proofs: what anyone can verify with a public key alone."""

import logging
from base64 import b64encode
from contextlib import suppress
from typing import Final

from jobledger.projections.errors import ProofError
from jobledger.service.api.capacity import queued, waiting
from jobledger.service.api.operation import OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import NAMESPACE, NEXT_TOKEN, TEXT, WAIT, limit
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.audit.model.bundle import Bundle
from jobledger.service.audit.model.checkpoint import named_keys, read_seal
from jobledger.service.audit.proof import make_proof
from jobledger.service.audit.seals import newest_seals
from jobledger.service.errors import InvalidSettings, NotReady
from jobledger.service.limits import PROOF_WAIT_SECONDS, SEALS_DEFAULT_LIMIT, SEALS_MAX_LIMIT
from jobledger.service.wire import audit as wire, paths
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import format_rfc3339

UNCOVERED_HEADER: Final = "Jobledger-Uncovered"
_SIZE: Final = {"type": "integer", "minimum": 0}

_log = logging.getLogger("jobledger.audit")

operations = OperationGroup("Audit")


@operations.declare("GET", paths.AUDIT_KEYS, "auditKeys", Permission.READ, response=wire.AuditKeyList)
async def get_keys(request: Request[None]) -> wire.AuditKeyList:
    """List the public keys that seals are signed with.

    Any token may ask. Obtain the keys through another channel as well before you rely on a proof: a service
    that lies about its log can lie about its keys.
    """
    sealer = request.service.sealer
    try:
        signing, records = {signer.key for signer in sealer.keys.signers()}, sealer.keys.records()
        trusted = sealer.trusted()
    except InvalidInput as error:  # its message has a path of this machine
        _log.warning("%s", error)
        raise NotReady("the keys cannot be read; the service's log has the reason") from error
    items = [
        wire.AuditKey(
            key=each.key,
            id=each.public.short,
            created=each.created,
            retires=each.retires or "",
            signs=each.public in signing,
            trusted=each.public in trusted,
        )
        for each in records
    ]
    own = {each.public for each in records}
    items += [
        wire.AuditKey(str(each), each.short, "", "", signs=False, trusted=True)
        for each in trusted
        if each not in own
    ]
    return wire.AuditKeyList(sealer.origin, items)


@operations.declare(
    "GET",
    paths.AUDIT_SEALS,
    "listSeals",
    Permission.READ,
    (limit(SEALS_DEFAULT_LIMIT, SEALS_MAX_LIMIT, "seals"), NEXT_TOKEN),
    response=wire.SealList,
)
async def get_seals(request: Request[None]) -> wire.SealList:
    """List the seals, newest first.

    Each is a signed checkpoint of the log's Merkle tree (C2SP `tlog-checkpoint`). Any token may ask.
    """
    limit = request.query.limit(SEALS_DEFAULT_LIMIT, SEALS_MAX_LIMIT)
    before = request.query.integer("next_token", 0, most=INT_MAX)
    found = await newest_seals(request.service.sealer.seals, before=before, limit=limit + 1)
    token = str(found[limit - 1].sequence) if len(found) > limit else ""
    return wire.SealList([_seal(each) for each in found[:limit]], token)


@operations.declare(
    "POST", paths.AUDIT_SEALS, "sealNow", Permission.ADMIN, WAIT, response=wire.Seal, errors=(409,)
)
async def seal_now(request: Request[None]) -> wire.Seal:
    """Seal the log now.

    Returns the last seal if that covers everything already. 409 if there is nothing to seal, or if the log is
    not an extension of its last seal: then an operator must look.
    """
    await request.await_position()
    try:
        sealed = await request.service.sealer.seal()
    except InvalidSettings as error:
        raise NotReady(str(error)) from error
    return _seal(Record(sealed.sequence, sealed.time, "", sealed.seal.note.encode()))


@operations.declare(
    "GET",
    paths.AUDIT_PROOF,
    "proof",
    Permission.READ,
    (
        Parameter(
            "job",
            TEXT,
            "its name in the namespace, its id, or unique short id",
            required=True,
            errors=(404, 409),
        ),
        NAMESPACE,
        *WAIT,
    ),
    response=Bundle,
    headers=((UNCOVERED_HEADER, "how many of the job's events are newer than the seal"),),
    errors=(413,),
)
async def get_proof(request: Request[None]) -> Response:
    """Prove a job's events.

    The job's events as the log has them, the path of each to the root of the log's Merkle tree, and the
    newest seal, which signs that root. `jobledger audit check` verifies it offline; docs/AUDIT.md describes
    the format and what it proves. Events newer than the seal are not in it: `Jobledger-Uncovered` is their
    number.
    """
    service, ref = request.service, request.query.text("job")
    if not ref:
        raise InvalidInput("job is required: a name, id or short id")
    job = await request.find_job(ref, request.query.text("namespace"))
    async with queued(service.scans):  # the job's whole history is read, and held
        await _reach_newest_seal(service)
        sealer = service.sealer
        try:
            keys = sealer.trusted()
        except InvalidInput as error:  # a proof needs them only to choose between seals
            _log.warning("%s", error)
            keys = ()
        proof = await make_proof(
            service.log,
            service.tree,
            sealer.seals,
            job.status,
            origin=sealer.origin,
            keys=keys,
            last=sealer.state.last.seal if sealer.state.last is not None else None,
        )
    headers = [
        (UNCOVERED_HEADER.lower().encode(), b"%d" % proof.uncovered),
        (b"content-disposition", f'attachment; filename="{job.status.id}.proof.json"'.encode()),
    ]
    return Response(proof.text, headers)


@operations.declare(
    "GET",
    paths.AUDIT_CONSISTENCY,
    "consistency",
    Permission.READ,
    (
        Parameter("from", _SIZE, "the smaller size, as in a seal", required=True),
        Parameter("to", _SIZE, "the larger size", required=True),
    ),
    response=wire.Consistency,
)
async def get_consistency(request: Request[None]) -> wire.Consistency:
    """Prove that the log of one size is the beginning of that of another.

    A proof as in RFC 9162 (section 2.1.4): hashes, to be verified against the roots of two seals. The roots
    in the response are those of this service's own tree; a verifier uses those of the seals.
    """
    query, tree = request.query, request.service.tree
    for name in ("from", "to"):
        if not query.text(name):
            raise InvalidInput(f"{name} is required: a size of the tree, as in a seal")
    old, new = (query.integer(name, 0, most=INT_MAX) for name in ("from", "to"))
    size = (await tree.state()).size
    if not old <= new <= size:
        raise InvalidInput(
            f"from and to must be in order and at most the size of the tree, {size}; got {old} and {new}"
        )
    from_root, to_root = await tree.root(old), await tree.root(new)
    proof = await tree.consistency(old, new)
    return wire.Consistency(old, new, _base64(from_root), _base64(to_root), [*map(_base64, proof)])


async def _reach_newest_seal(service: Service) -> None:
    """Wait for what another replica may have sealed while this one is still folding it."""
    newest = await service.sealer.seals.last()
    if newest is None:
        return
    with suppress(ProofError):  # raised again when the seal is used
        size = read_seal(newest.payload).size
        if size > service.projector.sequence:  # a seal beyond the end of the log is not one of this log
            size = min(size, (await service.log.info()).last_sequence)
        with waiting():
            await service.projector.wait_for(size, PROOF_WAIT_SECONDS)


def _seal(record: Record) -> wire.Seal:
    time, note = format_rfc3339(record.time), record.payload.decode(errors="replace")
    try:
        seal, keys = read_seal(record.payload), named_keys(record.payload)
    except ProofError as error:
        return wire.Seal(record.sequence, time, 0, "", [], note, str(error))
    return wire.Seal(record.sequence, time, seal.size, _base64(seal.root), [*keys], note, "")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
