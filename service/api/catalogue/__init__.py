"""Every route with its parameters, body and answers, as data.

`/openapi.json`, `/docs` and the tables of docs/API.md are derived from it.
`tests/service/api/test_openapi.py` compares it with the routes, what they read, and what they answer.
"""

from typing import Final

from jobledger.service.api.catalogue.changes import CHANGES
from jobledger.service.api.catalogue.parts import Operation, Parameter
from jobledger.service.api.catalogue.proofs import PROOFS
from jobledger.service.api.catalogue.reads import READS
from jobledger.service.api.catalogue.seals import SEALS
from jobledger.service.api.catalogue.service import FEED, SERVICE
from jobledger.service.api.catalogue.subscriptions import SUBSCRIPTIONS, WEBHOOKS
from jobledger.service.api.catalogue.view import VIEW
from jobledger.service.api.catalogue.writes import WRITES

OPERATIONS: Final[tuple[Operation, ...]] = (
    *WRITES,
    *READS,
    *CHANGES,
    FEED,
    *SUBSCRIPTIONS,
    *WEBHOOKS,
    *SEALS,
    *PROOFS,
    *VIEW,
    *SERVICE,
)

__all__ = ["OPERATIONS", "Operation", "Parameter"]
