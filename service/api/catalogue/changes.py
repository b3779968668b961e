"""The route that tells what changed between two points of the log."""

from typing import Final

from jobledger.service.api import change_schemas
from jobledger.service.api.catalogue.parts import (
    NEXT_TOKEN,
    POINT,
    TEXT,
    TEXTS,
    WAIT,
    Operation,
    Parameter,
    limit,
)
from jobledger.service.limits import CHANGES_DEFAULT_LIMIT, CHANGES_MAX_LIMIT

_DIFF: Final = """\
In the order of their creation: each with its version, revision and state at both points, the states it passed
through, how its spec differs, and its events in between, with who and why. A next token stays on both points;
the filters are sent again with it. A page may be short, or empty, and not be the last: `NextToken` says so.
With `job`, a point may also be a revision, as `r3`."""

CHANGES: Final = (
    Operation(
        "GET",
        "/api/v1/diff",
        "diffPoints",
        "Reads",
        "Which jobs changed between two points, and how",
        _DIFF,
        (
            Parameter("from", POINT, "the first point, not part of the answer; needed on the first page"),
            Parameter("to", POINT, "the second point; absent: the last event"),
            Parameter("namespace", TEXT, "only its jobs; absent, empty or `*`: all that you may see"),
            Parameter("job", TEXT, "only this one: name, id, or the unique beginning of its id"),
            Parameter(
                "labels",
                TEXTS,
                "a selector that the labels meet at either point; repeatable",
            ),
            limit(CHANGES_DEFAULT_LIMIT, CHANGES_MAX_LIMIT, "jobs"),
            NEXT_TOKEN,
            *WAIT,
        ),
        answer=change_schemas.Changes,
        errors=(400, 401, 403, 404, 409, 410, 429, 503, 504),
    ),
)
