"""The routes that read jobs."""

from typing import Final

from jobledger.projections.limits import LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT
from jobledger.service.api import schemas, version_schemas
from jobledger.service.api.catalogue.parts import (
    API,
    AT,
    DURATION,
    ETAG,
    FLAG,
    ID,
    JOB_AT,
    JOB_VERSION,
    NAMESPACE,
    NEXT_TOKEN,
    NOT_MODIFIED,
    STATES,
    TEXT,
    TEXTS,
    TIME,
    VERSION,
    WAIT,
    Operation,
    Parameter,
    limit,
)
from jobledger.service.limits import (
    HISTORY_DEFAULT_LIMIT,
    HISTORY_MAX_LIMIT,
    UNIX_SECONDS_MAX,
    WAIT_STATE_DEFAULT_SECONDS,
    WAIT_STATE_MAX_SECONDS,
)
from jobledger.store.model.job import StateType
from jobledger.store.spec.spec import JOB_TYPES

_ERRORS: Final = (400, 401, 403, 404, 409, 410, 429, 503, 504)
_LIST: Final = """\
Times: from is inclusive, to is exclusive. A token carries the order and the place; the filters are sent
again with it. As of a point (`at`), the first answer may take some seconds, or be 503 with `Retry-After`
while it is made ready."""
_HISTORY: Final = """\
Oldest first. Without `job_version` or `all_job_versions` only the latest version's items, as in Bacalhau.
`NextToken` stays until the job has ended and all of it was read: ask again with it to follow the job."""
_WAIT: Final = """\
Answers at once if it is there already; 504, with the present state, if it does not come there in time; 409 if
it ends in another state, since only a new version leads out of that."""
_DIFF: Final = """\
Place by place, as text, and as a JSON patch. In lists, an element that stayed is found by its name, if all
have one. Specs over 128 KiB or 4,000 lines of JSON are refused with 413."""
_BLAME: Final = """\
For every field of the spec, of the state, and for every tag: its value, and the event since which it has that
value, with who and why. A value that came back, by a revert, say, is the one of the event that brought it
back; one that an event repeats stays the one of the event before. It is read from the log itself. Jobs with
a spec over 128 KiB or 4,000 fields are refused with 413."""
_LOGS: Final = """\
What executions print is not kept here: 404. Bacalhau's clients ask over a WebSocket; its handshake is
accepted, and the one message is `{"value":…,"error":"…"}` with the problem, which those clients show."""
_SECONDS: Final = {"type": "integer", "minimum": 0, "maximum": UNIX_SECONDS_MAX}
_GOAL: Final = {
    "type": "array",
    "items": {"type": "string", "enum": ["terminal", *map(str, StateType)]},
    "minItems": 1,
}
_PATIENCE: Final = (
    f"how long to wait at most; default {WAIT_STATE_DEFAULT_SECONDS:g} s, up to {WAIT_STATE_MAX_SECONDS:g} s"
)

READS: Final = (
    Operation(
        "GET",
        f"{API}/jobs",
        "listJobs",
        "Reads",
        "List jobs",
        _LIST,
        (
            Parameter("namespace", TEXT, "only its jobs; absent, empty or `*`: all that you may see"),
            Parameter(
                "labels", TEXTS, "a selector, as `env=prod,tier in (web, api),!old,cpus>2`; repeatable"
            ),
            Parameter("state", STATES, "any of these states; repeatable or with commas"),
            Parameter(
                "type",
                {"type": "array", "items": {"type": "string", "enum": list(JOB_TYPES)}},
                "any of these types; repeatable or with commas",
            ),
            Parameter(
                "quarantined",
                {"type": "string", "enum": ["include", "only", "exclude"], "default": "include"},
                "jobs that are frozen, because an event of theirs can't be read",
            ),
            *(
                Parameter(f"{axis}_{bound}", TIME, "RFC 3339, or Unix nanoseconds (not seconds)")
                for axis in ("created", "modified")
                for bound in ("from", "to")
            ),
            Parameter(
                "order_by",
                {
                    "type": "string",
                    "enum": [
                        *("created_at", "created", "create_time"),
                        *("modified_at", "modified", "modify_time"),
                    ],
                    "default": "created_at",
                },
                "by create or by modify time; each has three names",
            ),
            Parameter("reverse", FLAG, "newest first"),
            limit(LIST_DEFAULT_LIMIT, LIST_MAX_LIMIT, "jobs"),
            AT,
            NEXT_TOKEN,
            *WAIT,
        ),
        answer=schemas.JobList,
        errors=(400, 401, 403, 410, 429, 503, 504),
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}",
        "getJob",
        "Reads",
        "Read a job",
        "With `include=history`, the other parameters of the history are taken, too.",
        (
            ID,
            NAMESPACE,
            Parameter("include", TEXT, "`history`, `executions`, or both with a comma"),
            JOB_VERSION,
            Parameter("since", _SECONDS, "history from then: Unix seconds, inclusive"),
            Parameter(
                "event_type", {"type": "string", "enum": ["all", "job", "execution"]}, "of the history"
            ),
            Parameter("execution_id", TEXT, "of the history; there is none, so that is empty"),
            limit(HISTORY_DEFAULT_LIMIT, HISTORY_MAX_LIMIT, "history items"),
            JOB_AT,
            NEXT_TOKEN,
            *WAIT,
            NOT_MODIFIED,
        ),
        answer=schemas.JobAnswer,
        headers=ETAG,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/history",
        "jobHistory",
        "Reads",
        "Read a job's history",
        _HISTORY,
        (
            ID,
            NAMESPACE,
            Parameter("since", _SECONDS, "Unix seconds, inclusive"),
            Parameter(
                "event_type",
                {"type": "string", "enum": ["all", "job", "execution"], "default": "all"},
                "executions have no history here: that list is empty",
            ),
            Parameter("execution_id", TEXT, "there are no executions, so that list is empty"),
            JOB_VERSION,
            Parameter("all_job_versions", FLAG, "of all versions"),
            limit(HISTORY_DEFAULT_LIMIT, HISTORY_MAX_LIMIT, "items"),
            JOB_AT,
            NEXT_TOKEN,
            *WAIT,
        ),
        answer=schemas.History,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/versions",
        "jobVersions",
        "Reads",
        "Read a job's versions",
        "Ascending; each with its spec, and the state and revision in which it was left. `Versions` says of"
        " each who made it, when and why, and its tags.",
        (ID, NAMESPACE, limit(LIST_MAX_LIMIT, LIST_MAX_LIMIT, "versions"), NEXT_TOKEN, *WAIT),
        answer=schemas.Versions,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/tags",
        "jobTags",
        "Reads",
        "Read a job's tags",
        "The names that versions of it have, in the order of the names.",
        (ID, NAMESPACE, JOB_AT, *WAIT),
        answer=version_schemas.Tags,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/diff",
        "diffVersions",
        "Reads",
        "How two versions of a job differ",
        _DIFF,
        (
            ID,
            NAMESPACE,
            Parameter("from", VERSION, "the version to begin with, by its number or a tag", needed=True),
            Parameter("to", VERSION, "the version to end with; 0 or absent: the latest"),
            *WAIT,
        ),
        answer=version_schemas.VersionsDiff,
        errors=(*_ERRORS, 413),
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/blame",
        "blameJob",
        "Reads",
        "Who last set each field of a job",
        _BLAME,
        (
            ID,
            NAMESPACE,
            Parameter("at", TEXT, "as of then: a time, an age as `2h`, a sequence, a cursor, or `r3`"),
            Parameter("path", TEXT, "only this field and what is in it, as `Tasks[0].Env`"),
            *WAIT,
        ),
        answer=version_schemas.Blame,
        errors=(*_ERRORS, 413),
    ),
    *(
        Operation(
            "GET",
            f"{API}/jobs/{{id}}/{word}",
            name,
            "Reads",
            f"A job's {word}: always none",
            f"Bacalhau's clients ask for {word}; a store of jobs has none.",
            (ID, NAMESPACE, *WAIT),
            answer=schemas.NoItems,
            errors=_ERRORS,
        )
        for word, name in (("executions", "jobExecutions"), ("results", "jobResults"))
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/logs",
        "jobLogs",
        "Reads",
        "A job's logs: always refused",
        _LOGS,
        (ID, NAMESPACE, *WAIT),
        answer="",
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{API}/jobs/{{id}}/wait",
        "waitForJob",
        "Reads",
        "Wait until a job has come to a state",
        _WAIT,
        (
            ID,
            NAMESPACE,
            Parameter("state", _GOAL, "any of these; repeatable or with commas", needed=True),
            WAIT[0],
            Parameter("timeout", DURATION, _PATIENCE),
        ),
        answer=schemas.JobAnswer,
        headers=ETAG,
        errors=_ERRORS,
    ),
)
