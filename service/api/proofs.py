"""`GET /api/v1/audit/proof` and `/consistency`: what a stranger can check with a key alone."""

import logging
from contextlib import suppress
from typing import Any, Final

from litestar import Response, get

from jobledger.projections.errors import ProofError
from jobledger.service.api.answers import JSON, json_answer
from jobledger.service.api.capacity import queued, waiting
from jobledger.service.api.context import AnyRequest, find_job, query_of, service_of
from jobledger.service.audit.checkpoint import read_seal
from jobledger.service.audit.proof import make_proof
from jobledger.service.limits import PROOF_WAIT_SECONDS
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import INT_MAX

_log = logging.getLogger("jobledger.audit")

UNCOVERED_HEADER: Final = "Jobledger-Uncovered"


@get("/proof")
async def get_proof(request: AnyRequest) -> Response[bytes]:
    """The bundle of one job, by the newest seal."""
    service, query = service_of(request), query_of(request)
    ref = query.text("job")
    if not ref:
        raise InvalidInput("job is missing: name the job to prove, by name, id or short id")
    job = await find_job(request, ref, query.text("namespace"))
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
    headers = {
        UNCOVERED_HEADER: str(proof.uncovered),
        "Content-Disposition": f'attachment; filename="{job.status.id}.proof.json"',
    }
    return Response(proof.text, media_type=JSON, headers=headers)


@get("/consistency")
async def get_consistency(request: AnyRequest) -> Response[bytes]:
    """The proof that the tree of one size begins with that of another."""
    service, query = service_of(request), query_of(request)
    for name in ("from", "to"):
        if not query.text(name):
            raise InvalidInput(f"{name} is missing: say two sizes of the tree, as seals tell them")
    old, new = (query.integer(name, 0, most=INT_MAX) for name in ("from", "to"))
    size = (await service.tree.state()).size
    if not old <= new <= size:
        raise InvalidInput(
            f"from is {old} and to is {new}, and the tree has {size} events: from must not be larger than"
            " to, nor to than the tree"
        )
    from_root, to_root = await service.tree.root(old), await service.tree.root(new)
    proof = await service.tree.consistency(old, new)
    return json_answer(
        {"From": old, "To": new, "FromRoot": from_root, "ToRoot": to_root, "Proof": proof},
    )


async def _reach_newest_seal(service: Service) -> None:
    """Another replica may have sealed what this one is still folding."""
    newest = await service.sealer.seals.last()
    if newest is None:
        return
    with suppress(ProofError):  # told when it is used
        size = read_seal(newest.payload).size
        if size > service.projector.sequence:  # what is beyond the log's end, nobody of ours sealed
            size = min(size, (await service.log.info()).last_sequence)
        with waiting():
            await service.projector.wait_for(size, PROOF_WAIT_SECONDS)


HANDLERS: Final[tuple[Any, ...]] = (get_proof, get_consistency)
