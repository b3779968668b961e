"""The routes of keys and seals."""

from typing import Final

from jobledger.service.api import seal_schemas as schemas
from jobledger.service.api.catalogue.parts import NEXT_TOKEN, WAIT, Operation, limit
from jobledger.service.limits import SEALS_DEFAULT_LIMIT, SEALS_MAX_LIMIT

GROUP: Final = "Audit"
_SEALS: Final = "/api/v1/audit/seals"

SEALS: Final = (
    Operation(
        "GET",
        "/api/v1/audit/keys",
        "auditKeys",
        GROUP,
        "List the public keys that seals are signed with",
        "Any token may ask. Whoever checks proofs should have them by another way as well: a service that"
        " lies about its log can lie about its keys.",
        answer=schemas.AuditKeyList,
        errors=(400, 401, 403, 429, 503),
    ),
    Operation(
        "GET",
        _SEALS,
        "listSeals",
        GROUP,
        "List the seals, newest first",
        "Each is a signed checkpoint of the log's Merkle tree (C2SP `tlog-checkpoint`). Any token may ask.",
        (limit(SEALS_DEFAULT_LIMIT, SEALS_MAX_LIMIT, "seals"), NEXT_TOKEN),
        answer=schemas.SealList,
        errors=(400, 401, 403, 429, 503),
    ),
    Operation(
        "POST",
        _SEALS,
        "sealNow",
        GROUP,
        "Seal the log as it is now",
        "Needs an admin's token. The answer is the last seal, if that covers everything already. 409 if there"
        " is nothing to seal, or the log does not extend its last seal: then an operator must look.",
        WAIT,
        answer=schemas.Seal,
        errors=(400, 401, 403, 409, 410, 413, 429, 503, 504),
    ),
)
