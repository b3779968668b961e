"""The parameters that several operations share, and the schemas of others. Pure."""

from typing import Final

from jobledger.service.api.operation import Parameter, Schema
from jobledger.service.limits import IDEMPOTENCY_KEY_MAX_CHARACTERS
from jobledger.service.wire.fields import TAG_PATTERN
from jobledger.store.model.job import StateType

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
VERSION: Final[Schema] = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": TAG_PATTERN}]
}

ID: Final = Parameter(
    "id",
    TEXT,
    "the job's name in the namespace, its full id, or the unique beginning of its id",
    "path",
    required=True,
    errors=(404, 409),
)
TAG: Final = Parameter(
    "tag",
    {"type": "string", "pattern": TAG_PATTERN},
    "a letter, then letters, digits, `.`, `_` and `-`",
    "path",
    required=True,
)
NAMESPACE: Final = Parameter("namespace", TEXT, "the namespace of the name; default: `default`")
NAMESPACE_FILTER: Final = Parameter(
    "namespace", TEXT, "only its jobs; absent, empty or `*`: all that the token may read"
)
WAIT_FOR: Final = Parameter(
    "wait_for",
    TEXT,
    "respond when the view has reached this sequence or cursor, so that a write is visible on any replica",
    errors=(410, 504),
)
WAIT: Final = (
    WAIT_FOR,
    Parameter("timeout", DURATION, "how long to wait at most, such as `5s`, `500ms` or `1m`; default 5 s"),
)
AT: Final = Parameter(
    "at",
    POINT,
    "as it was at this point: an RFC 3339 time, an age such as `2h`, a sequence or a cursor; further pages"
    " keep the point",
)
JOB_AT: Final = AT._replace(
    description="as it was at this point: an RFC 3339 time, an age such as `2h`, a sequence, a cursor, or a"
    " revision such as `r3`; further pages keep the point"
)
NEXT_TOKEN: Final = Parameter("next_token", TEXT, "`NextToken` of the previous page")
JOB_VERSION: Final = Parameter(
    "job_version", VERSION, "of this version, by its number or a tag; 0 or absent: the latest"
)
NOT_MODIFIED: Final = Parameter("If-None-Match", TEXT, "an ETag; 304 if the job still has it", "header")
CONDITIONS: Final = (
    Parameter(
        "If-Match",
        TEXT,
        'write only if the job is at this revision, such as `"3"`; else 412, with the events since then',
        "header",
        errors=(409, 412),
    ),
    Parameter("If-None-Match", TEXT, "`*`: write only if the job does not exist", "header"),
    Parameter(
        "Idempotency-Key",
        {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX_CHARACTERS},
        "the same request with the same key gets the same response and writes nothing, for at least 24 hours;"
        " another request with the key: 422",
        "header",
        errors=(422,),
    ),
    Parameter(
        "Jobledger-Actor",
        TEXT,
        "who acts, kept in the event; only without tokens, otherwise it is the token's name",
        "header",
    ),
    Parameter("traceparent", TEXT, "W3C trace context; kept in the event", "header"),
)
REASON: Final = Parameter("reason", TEXT, "why, if the body does not have it; kept in the event")
STRICT: Final = Parameter("strict", FLAG, "refuse unknown fields instead of warning about them")
ETAG: Final = (("ETag", "the job's revision"),)


def limit(default: int, maximum: int, items: str) -> Parameter:
    """The `limit` of a list."""
    schema = {"type": "integer", "minimum": 0, "maximum": maximum, "default": default}
    return Parameter("limit", schema, f"{items} per page, at most {maximum:,}; 0: the maximum")
