"""The routes of proofs."""

from typing import Final

from jobledger.service.api.catalogue.parts import NAMESPACE, TEXT, WAIT, Operation, Parameter
from jobledger.service.api.proof_schemas import Consistency
from jobledger.service.audit.bundle import Bundle

GROUP: Final = "Audit"
_SIZE: Final = {"type": "integer", "minimum": 0}
_PROOF: Final = """\
The job's events as the log has them, the way of each to the root of the log's Merkle tree, and the newest
seal, which signs that root. `jobledger audit check` verifies it offline; docs/AUDIT.md has the format, and
what is proven. Events that came after the seal are not in it: `Jobledger-Uncovered` says how many there
are."""
_CONSISTENCY: Final = """\
A proof as RFC 9162 defines it (section 2.1.4): nothing but hashes, to be held against the roots of two seals.
The roots in the answer are what this service's own tree comes to; who verifies takes those of the seals."""

PROOFS: Final = (
    Operation(
        "GET",
        "/api/v1/audit/proof",
        "proof",
        GROUP,
        "Prove a job's events",
        _PROOF,
        (
            Parameter("job", TEXT, "its name in the namespace, its id, or unique short id", needed=True),
            NAMESPACE,
            *WAIT,
        ),
        answer=Bundle,
        headers=(("Jobledger-Uncovered", "how many of the job's events came after the seal"),),
        errors=(400, 401, 403, 404, 409, 410, 413, 429, 503, 504),
    ),
    Operation(
        "GET",
        "/api/v1/audit/consistency",
        "consistency",
        GROUP,
        "Prove that the log of one size begins with that of another",
        _CONSISTENCY,
        (
            Parameter("from", _SIZE, "the smaller size, as a seal tells it", needed=True),
            Parameter("to", _SIZE, "the larger size", needed=True),
        ),
        answer=Consistency,
        errors=(400, 401, 403, 429, 503),
    ),
)
