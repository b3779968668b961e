"""The routes about what of the log a view could not read."""

from typing import Final

from jobledger.projections.limits import LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.service.api import view_schemas as schemas
from jobledger.service.api.catalogue.parts import NEXT_TOKEN, WAIT, Operation, limit

GROUP: Final = "View"
_READ_ERRORS: Final = (400, 401, 403, 410, 429, 503, 504)

VIEW: Final = (
    Operation(
        "GET",
        "/api/v1/view/quarantine",
        "listQuarantined",
        GROUP,
        "List the jobs in quarantine",
        "A job is in quarantine if an event of it can't be read: of a type that this release does not know,"
        " with content that has no meaning, or missing from the log. Needs a token for all namespaces.",
        (limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT, "jobs"), NEXT_TOKEN, *WAIT),
        answer=schemas.QuarantinedJobs,
        errors=_READ_ERRORS,
    ),
    Operation(
        "GET",
        "/api/v1/view/damage",
        "listDamage",
        GROUP,
        "List the events that are missing from the log",
        "The ranges of sequences that the log no longer held when this service's view read on, with the jobs"
        " that are known to miss an event there. Needs a token for all namespaces.",
        (limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT, "ranges"), NEXT_TOKEN, *WAIT),
        answer=schemas.Damage,
        errors=_READ_ERRORS,
    ),
    Operation(
        "POST",
        "/api/v1/view/heal",
        "healView",
        GROUP,
        "Fold the jobs in quarantine again",
        "Each from its own events in the log; everything else goes on meanwhile. A service that reads other"
        " types of events than the one before it does this by itself when it starts. Needs an admin's token.",
        WAIT,
        answer=schemas.Healed,
        errors=(400, 401, 403, 410, 413, 429, 503, 504),
    ),
)
