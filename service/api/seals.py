"""`/api/v1/audit/keys` and `/seals`: who signs the log, and what was signed."""

import logging
from base64 import b64encode
from typing import Any, Final

from litestar import Response, get, post

from jobledger.projections.errors import ProofError
from jobledger.service.api.answers import json_answer
from jobledger.service.api.context import AnyRequest, await_position, principal_of, query_of, service_of
from jobledger.service.audit.checkpoint import named_keys, read_seal
from jobledger.service.audit.seals import newest_seals
from jobledger.service.errors import InvalidSettings, NotReady
from jobledger.service.limits import SEALS_DEFAULT_LIMIT, SEALS_MAX_LIMIT
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import format_rfc3339

_log = logging.getLogger("jobledger.audit")


@get("/keys")
async def get_keys(request: AnyRequest) -> Response[bytes]:
    """The public keys, also those that sign no more, and those of other replicas that are trusted."""
    service = service_of(request)
    keys = service.sealer.keys
    try:
        signing, records = {signer.key for signer in keys.signers()}, keys.records()
        trusted = service.sealer.trusted()
    except InvalidInput as error:  # it tells a path of this machine
        _log.warning("%s", error)
        raise NotReady("the keys can't be read just now; the service's log says why") from error
    items = [
        {
            "Key": each.key,
            "ID": each.public.short,
            "Created": each.created,
            "Retires": each.retires or "",
            "Signs": each.public in signing,
            "Trusted": each.public in trusted,
        }
        for each in records
    ]
    own = {each.public for each in records}
    items += [
        {"Key": str(each), "ID": each.short, "Created": "", "Retires": "", "Signs": False, "Trusted": True}
        for each in trusted
        if each not in own
    ]
    return json_answer({"Origin": service.sealer.origin, "Items": items})


@get("/seals")
async def get_seals(request: AnyRequest) -> Response[bytes]:
    """What was sealed, newest first, page by page."""
    service, query = service_of(request), query_of(request)
    limit = query.integer("limit", SEALS_DEFAULT_LIMIT, most=SEALS_MAX_LIMIT) or SEALS_MAX_LIMIT
    before = query.integer("next_token", 0, most=INT_MAX)
    found = await newest_seals(service.sealer.seals, before=before, limit=limit + 1)
    token = str(found[limit - 1].sequence) if len(found) > limit else ""
    return json_answer({"Items": [_wire(each) for each in found[:limit]], "NextToken": token})


@post("/seals", status_code=200)
async def seal_now(request: AnyRequest) -> Response[bytes]:
    """Seal what the view has; the last seal again, if it covers all of that."""
    principal_of(request).require_admin()
    service = service_of(request)
    await await_position(service, query_of(request))
    try:
        sealed = await service.sealer.seal()
    except InvalidSettings as error:
        raise NotReady(str(error)) from error
    return json_answer(_wire(Record(sealed.sequence, sealed.time, "", sealed.seal.note.encode())))


def _wire(record: Record) -> dict[str, Any]:
    told = {"Sequence": record.sequence, "Time": format_rfc3339(record.time)}
    note = record.payload.decode(errors="replace")
    try:
        seal, keys = read_seal(record.payload), named_keys(record.payload)
    except ProofError as error:
        return {**told, "Size": 0, "Root": "", "Keys": [], "Note": note, "Problem": str(error)}
    root = b64encode(seal.root).decode()
    return {**told, "Size": seal.size, "Root": root, "Keys": keys, "Note": note, "Problem": ""}


HANDLERS: Final[tuple[Any, ...]] = (get_keys, get_seals, seal_now)
