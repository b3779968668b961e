"""The routes that append events, and the one that says what an event would change."""

from typing import Final

from jobledger.service.api import schemas, version_schemas, view_schemas
from jobledger.service.api.catalogue.parts import (
    API,
    CONDITIONS,
    ETAG,
    FLAG,
    ID,
    NAMESPACE,
    REASON,
    STRICT,
    TAG,
    WAIT,
    Operation,
    Parameter,
)

_ERRORS: Final = (400, 401, 403, 404, 409, 410, 412, 413, 415, 422, 429, 503, 504)
_HEADERS: Final = (*ETAG, ("Idempotency-Replayed", "`true`: the answer of the first request with this key"))
_SPEC: Final = {
    "Name": "hello",
    "Type": "batch",
    "Count": 1,
    "Labels": {"env": "prod"},
    "Tasks": [{"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}}],
}
_COMPARE: Final = (
    "compare also a spec with the name `diff`, and one whose job does not exist: `Version` is 0, and all is"
    " new"
)
_SUBMIT: Final = """\
Creates the job, or gives the job of that namespace and name this spec: Version and Revision +1, Pending
again. A spec that is equal after normalisation writes nothing, and a warning says so; `Force` makes a new
version all the same. Keys are read in any case. What the service decides (ID, State, Version, …) is ignored
with a warning."""
_STATE: Final = """\
This is how an orchestrator reports. Any state can follow one that is not terminal; after Completed, Failed
or Stopped only a new spec or a rerun re-opens the job (409)."""
_STOP: Final = """\
The state becomes Stopped, with the reason as its message. A stopped job is left as it is; a Completed or
Failed one is a conflict (409). The reason comes from the query or the body."""
_REVERT: Final = """\
A new version with the spec of an earlier one: nothing that happened is undone or hidden. If the job has that
very spec, nothing is written, and a warning says so. Without a reason, the event says which version it is
of."""
_TAG: Final = """\
A tag can stand wherever a version's number can. It is an event of the job with who and why; version, revision
and ETag stay as they are, since the job does. A job has at most 64 tags (409 beyond)."""
_ACCEPT: Final = """\
Needs an admin's token. A job in quarantine goes on without the event: it becomes what its other events make
of it, also those that came after. While other events freeze it, it stays in quarantine. An event that does
not freeze the job is refused (409); one that was accepted before is left so, and a warning says it."""
_RERUN: Final = """\
A new version, with the spec of the latest or of an older version. A job that is Pending or Queued is to be
begun anyway: a conflict (409)."""

WRITES: Final = (
    *(
        Operation(
            method,
            f"{API}/jobs",
            name,
            "Writes",
            "Create or update a job",
            _SUBMIT,
            (STRICT, REASON, *CONDITIONS),
            body=schemas.SubmitRequest,
            answer=schemas.WriteAnswer,
            headers=_HEADERS,
            errors=tuple(status for status in _ERRORS if status not in {404, 410, 504}),
            example={"Job": _SPEC, "Reason": "first try"},
        )
        for method, name in (("PUT", "putJob"), ("POST", "postJob"))
    ),
    Operation(
        "PUT",
        f"{API}/jobs/diff",
        "diffJob",
        "Writes",
        "What a submission would change",
        "Compares the spec with the one that the job of its name has. Nothing is written, with one exception:"
        " a spec with the name `diff` updates the job of that name, unless `compare` is true or the client is"
        " Bacalhau's. Specs over 128 KiB or 4,000 lines of JSON are refused with 413.",
        (STRICT, Parameter("compare", FLAG, _COMPARE), *WAIT),
        body=schemas.DiffRequest,
        answer=schemas.DiffAnswer,
        errors=(400, 401, 403, 404, 410, 413, 415, 429, 503, 504),
        example={"Job": _SPEC},
    ),
    Operation(
        "PUT",
        f"{API}/jobs/{{id}}",
        "updateJob",
        "Writes",
        "Give a job a new spec",
        "Name and namespace can be left out of the spec, and can't change.",
        (ID, NAMESPACE, STRICT, REASON, *WAIT, *CONDITIONS),
        body=schemas.SubmitRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"Job": _SPEC},
    ),
    Operation(
        "PUT",
        f"{API}/jobs/{{id}}/state",
        "setJobState",
        "Writes",
        "Report a job's state",
        _STATE,
        (ID, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=schemas.StateRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"StateType": "Running", "Message": "on node-1"},
    ),
    Operation(
        "DELETE",
        f"{API}/jobs/{{id}}",
        "stopJob",
        "Writes",
        "Stop a job",
        _STOP,
        (ID, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=schemas.StopRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"Reason": "no longer needed"},
    ),
    Operation(
        "PUT",
        f"{API}/jobs/{{id}}/rerun",
        "rerunJob",
        "Writes",
        "Run a job again",
        _RERUN,
        (ID, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=schemas.RerunRequest,
        answer=schemas.RerunAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"JobVersion": 1, "Reason": "the input is complete now"},
    ),
    Operation(
        "PUT",
        f"{API}/jobs/{{id}}/revert",
        "revertJob",
        "Writes",
        "Go back to an earlier version",
        _REVERT,
        (ID, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=version_schemas.RevertRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"JobVersion": 1, "Reason": "the new image does not start"},
    ),
    Operation(
        "POST",
        f"{API}/jobs/{{id}}/accept-unreadable",
        "acceptUnreadable",
        "Writes",
        "Accept that an event of a job can't be read",
        _ACCEPT,
        (ID, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=view_schemas.AcceptRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"Sequence": 4711, "Reason": "lost with the disk of node-2"},
    ),
    Operation(
        "PUT",
        f"{API}/jobs/{{id}}/tags/{{tag}}",
        "tagJob",
        "Writes",
        "Give a version a name, or another version the name",
        _TAG,
        (ID, TAG, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=version_schemas.TagRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"JobVersion": 1, "Reason": "ran for a week"},
    ),
    Operation(
        "DELETE",
        f"{API}/jobs/{{id}}/tags/{{tag}}",
        "untagJob",
        "Writes",
        "Take a tag away",
        "A tag that is not there is left so, and a warning says it.",
        (ID, TAG, NAMESPACE, REASON, *WAIT, *CONDITIONS),
        body=schemas.StopRequest,
        answer=schemas.WriteAnswer,
        headers=_HEADERS,
        errors=_ERRORS,
        example={"Reason": "no longer the one"},
    ),
)
