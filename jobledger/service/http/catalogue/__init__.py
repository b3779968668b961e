"""Every route with its parameters, body and answers, as data.

`/openapi.json`, `/docs` and the tables of docs/API.md are made of it; `tests/test_openapi.py` compares it
with the routes that the service has, with what they read, and with what they answer.
"""

from typing import Final

from jobledger.service.http.catalogue.changes import CHANGES
from jobledger.service.http.catalogue.parts import Operation, Parameter
from jobledger.service.http.catalogue.proofs import PROOFS
from jobledger.service.http.catalogue.reads import READS
from jobledger.service.http.catalogue.seals import SEALS
from jobledger.service.http.catalogue.service import FEED, SERVICE
from jobledger.service.http.catalogue.subscriptions import SUBSCRIPTIONS, WEBHOOKS
from jobledger.service.http.catalogue.view import VIEW
from jobledger.service.http.catalogue.writes import WRITES

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
