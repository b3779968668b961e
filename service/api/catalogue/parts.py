"""What operations are described with, and the parameters that several of them share."""

from typing import Any, Final, NamedTuple

import msgspec

from jobledger.service.api.version_schemas import TAG_PATTERN
from jobledger.service.limits import IDEMPOTENCY_KEY_MAX_CHARACTERS
from jobledger.store.model.job import StateType

API: Final = "/api/v1/orchestrator"
JSON: Final = "application/json"
Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
FLAG: Final[Schema] = {"type": "boolean", "default": False}
TIME: Final[Schema] = {"type": "string", "examples": ["2026-01-31T12:00:00Z", "1769860800000000000"]}
POINT: Final[Schema] = {
    "type": "string",
    "examples": ["2026-01-31T12:00:00Z", "2h", "4711", "1a2b3c4d5e6f-4711"],
}
DURATION: Final[Schema] = {
    "type": "string",
    "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)?$",
    "examples": ["5s", "500ms"],
}
STATES: Final[Schema] = {"type": "array", "items": {"type": "string", "enum": [*map(str, StateType)]}}


class Parameter(NamedTuple):
    """One parameter of a request.

    Attributes:
        name: as it is sent.
        schema: what it may be.
        description: what it does.
        place: path, query or header.
        needed: whether a request without it is refused.
    """

    name: str
    schema: Schema
    description: str
    place: str = "query"
    needed: bool = False


class Operation(NamedTuple):
    """One method of one route.

    Attributes:
        method: in capitals.
        path: with its parameters in braces.
        name: the operation's id.
        group: the heading that it stands under.
        summary: one line.
        text: more, in Markdown.
        parameters: besides `X-Request-ID`, which every request may have.
        body: what is sent, if anything.
        answer: what comes with 200: a Struct of `schemas`, or the media type of something else; empty if
            every request is refused.
        headers: of the answer, and what they say.
        errors: other statuses that this operation can end with.
        example: a body that can be sent as it is.
    """

    method: str
    path: str
    name: str
    group: str
    summary: str
    text: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    errors: tuple[int, ...] = ()
    example: dict[str, Any] | None = None


ID: Final = Parameter(
    "id",
    TEXT,
    "the job's name in the namespace, its full id, or the unique beginning of its id",
    "path",
    needed=True,
)
TAG: Final = Parameter(
    "tag",
    {"type": "string", "pattern": TAG_PATTERN},
    "a letter, then letters, digits, `.`, `_` and `-`",
    "path",
    needed=True,
)
NAMESPACE: Final = Parameter("namespace", TEXT, "where the name is looked up; absent: `default`")
WAIT: Final = (
    Parameter(
        "wait_for",
        TEXT,
        "answer when the view has come to this sequence or cursor, so that a write is seen on any replica",
    ),
    Parameter("timeout", DURATION, "how long to wait for that at most, as `5s`, `500ms`, `1m`; default 5 s"),
)
AT: Final = Parameter(
    "at",
    POINT,
    "as it was at this point: an RFC 3339 time, an age as `2h`, a sequence or a cursor; pages stay on it",
)
JOB_AT: Final = AT._replace(
    description="as it was at this point: an RFC 3339 time, an age as `2h`, a sequence, a cursor, or a"
    " revision as `r3`; pages stay on it"
)
NEXT_TOKEN: Final = Parameter("next_token", TEXT, "`NextToken` of the page before")
IF_MATCH: Final = Parameter(
    "If-Match",
    TEXT,
    'write only if the job is at this revision, as `"3"`; else 412 and what was missed',
    "header",
)
CREATE_ONLY: Final = Parameter("If-None-Match", TEXT, "`*`: write only if there is no such job", "header")
NOT_MODIFIED: Final = Parameter("If-None-Match", TEXT, "an ETag; 304 if the job still has it", "header")
KEY: Final = Parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX_CHARACTERS},
    "the same key and request again, within 24 hours at least, get the same answer and write nothing; with"
    " another request: 422",
    "header",
)
TRACE: Final = Parameter("traceparent", TEXT, "W3C trace context; kept in the event", "header")
ACTOR: Final = Parameter(
    "Jobledger-Actor",
    TEXT,
    "who acts, kept in the event; only without tokens, else it is the token's name",
    "header",
)
REASON: Final = Parameter("reason", TEXT, "why, if the body does not say it; kept in the event")
STRICT: Final = Parameter("strict", FLAG, "refuse unknown keys of the spec instead of warning about them")
CONDITIONS: Final = (IF_MATCH, CREATE_ONLY, KEY, ACTOR, TRACE)
ETAG: Final = (("ETag", "the job's revision"),)
VERSION: Final[Schema] = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": TAG_PATTERN}]
}
JOB_VERSION: Final = Parameter(
    "job_version", VERSION, "of this version, by its number or a tag; 0 or absent: of the latest"
)


def limit(default: int, most: int, what: str) -> Parameter:
    """The `limit` of a list."""
    schema = {"type": "integer", "minimum": 0, "maximum": most, "default": default}
    return Parameter("limit", schema, f"{what} on a page, at most {most:,}; 0: as many as there may be")
