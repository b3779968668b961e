"""Errors as `application/problem+json` (RFC 9457): the one place where HTTP translates the trees of errors.

The document also carries the fields of Bacalhau's error body, so that its clients can read it.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.projections import errors as view_errors
from jobledger.service import errors as service_errors
from jobledger.service.history import history_item
from jobledger.store.model import errors

MEDIA_TYPE: Final = "application/problem+json"
COMPONENT: Final = "Jobledger"
URN: Final = "urn:jobledger:problem:"
RETRY_AFTER_SECONDS: Final = 1


class RouteNotFound(service_errors.ServiceError):
    """No operation has this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no operation has the path {path}")


class MethodNotAllowed(service_errors.ServiceError):
    """The path has operations, but none with this method."""

    def __init__(self, method: str, path: str, allow: bytes) -> None:
        super().__init__(f"{path} does not allow {method}")
        self.allow = allow


class Kind(NamedTuple):
    """How an error leaves.

    Attributes:
        status: of HTTP.
        code: the word that programs test; also the end of the problem's `type`.
        hint: what to do, if the message does not say it.
    """

    status: int
    code: str
    hint: str = ""


_NOTHING_WRITTEN: Final = "Nothing was written: try again"

# The first that fits.
KINDS: Final[tuple[tuple[type[Exception], Kind], ...]] = (
    (
        errors.InvalidSpec,
        Kind(400, "ValidationError", "Correct each problem; `jobledger job validate` checks offline"),
    ),
    (errors.InvalidInput, Kind(400, "BadRequest")),
    (
        errors.JobNotFound,
        Kind(404, "NotFound", "List the jobs to see what there is; a new job may need `wait_for`"),
    ),
    (errors.JobExists, Kind(409, "ResourceInUse")),
    (
        errors.JobQuarantined,
        Kind(409, "JobQuarantined", "An operator must look: `jobledger view quarantine`"),
    ),
    (errors.JobNotQuarantined, Kind(409, "JobNotQuarantined")),
    (errors.Refused, Kind(409, "ConflictJobState")),
    (
        errors.RevisionMismatch,
        Kind(
            412,
            "ConflictJobRevision",
            "Read the job again, on another replica with `wait_for=<Sequence>`, and decide on what it is now",
        ),
    ),
    (errors.Conflict, Kind(409, "ConflictJobRevision", "Other writers were faster; try again")),
    (errors.OutcomeUnknown, Kind(503, "OutcomeUnknown", "Ask again with the same Idempotency-Key")),
    (errors.LogBusy, Kind(503, "LogBusy", _NOTHING_WRITTEN)),
    (errors.LogUnavailable, Kind(503, "LogUnavailable", _NOTHING_WRITTEN)),
    (
        errors.LogRefused,
        Kind(503, "LogRefused", "An operator must look at the log's server; nothing was written"),
    ),
    (
        errors.LogMissing,
        Kind(503, "LogMissing", "An operator must restore the stream; nothing was written"),
    ),
    (
        errors.LogNotPermitted,
        Kind(503, "LogNotPermitted", "An operator must grant the right; nothing was written"),
    ),
    (
        errors.StoreDamaged,
        Kind(503, "StoreDamaged", "An operator must restore the files; nothing was written"),
    ),
    (errors.LogDamaged, Kind(503, "LogDamaged", "An operator must look: `jobledger view damage`")),
    (errors.LogError, Kind(503, "LogUnfit", "An operator must look at the log; nothing was written")),
    (errors.EmbeddedServerError, Kind(503, "LogUnavailable", _NOTHING_WRITTEN)),
    (view_errors.AmbiguousId, Kind(409, "MultipleJobsFound", "Use the full job ID")),
    (
        view_errors.WaitTimeout,
        Kind(504, "Timeout", "The view is behind; wait longer, or look at /readyz?verbose"),
    ),
    (view_errors.AsOfBusy, Kind(503, "AsOfBusy")),
    (
        view_errors.ViewError,
        Kind(503, "ViewUnavailable", "An operator must look at the view; it can be rebuilt"),
    ),
    (service_errors.Unauthorized, Kind(401, "Unauthorized", "Send `Authorization: Bearer TOKEN`")),
    (service_errors.Forbidden, Kind(403, "Forbidden")),
    (service_errors.CursorGone, Kind(410, "CursorGone")),
    (
        service_errors.IdempotencyKeyReused,
        Kind(422, "IdempotencyKeyReused", "Make a new key for each request"),
    ),
    (service_errors.PayloadTooLarge, Kind(413, "PayloadTooLarge")),
    (
        service_errors.UnsupportedMediaType,
        Kind(415, "UnsupportedMediaType"),
    ),
    (service_errors.TooManyRequests, Kind(429, "TooManyRequests")),
    (RouteNotFound, Kind(404, "NotFound", "See /docs for the available paths")),
    (MethodNotAllowed, Kind(405, "MethodNotAllowed", "See /docs for the methods of this path")),
    (service_errors.NoLogs, Kind(404, "NotFound", "Read them where the job runs")),
    (service_errors.WebhookNotFound, Kind(404, "WebhookNotFound", "List the webhooks to see what there is")),
    (service_errors.WebhookExists, Kind(409, "WebhookExists")),
    (
        view_errors.SubscriptionNotFound,
        Kind(404, "SubscriptionNotFound", "List the subscriptions to see what there is"),
    ),
    (service_errors.Timeout, Kind(504, "Timeout")),
    (service_errors.NotReady, Kind(503, "NotReady")),
    (service_errors.AuditFailed, Kind(409, "AuditFailed", "An operator must look: `jobledger audit verify`")),
    (
        service_errors.NotSealed,
        Kind(409, "NotSealed", "Wait for the next seal, or let an admin make one: POST /api/v1/audit/seals"),
    ),
)
INTERNAL: Final = Kind(
    500, "InternalError", "This is a mistake of Jobledger; the service's log has the request's ID"
)

# What is wrong with the view is told in these words; its own tell paths of this machine. The first that fits.
_VIEW_WORDS: Final[tuple[tuple[type[view_errors.ViewError], str], ...]] = (
    (view_errors.ViewMissing, "there is no view yet"),
    (view_errors.ViewDamaged, "the view is damaged"),
    (view_errors.ViewFromNewerRelease, "the view is of another release than this service"),
    (view_errors.ViewBusy, "another process keeps the view locked"),
    (view_errors.ViewUnwritable, "the view can't be opened or written"),
    (view_errors.ViewRebuilding, "the view is damaged or lost, and is being rebuilt from the log; ask again"),
    (view_errors.ViewError, "the view can't be read"),
)

_log = logging.getLogger("jobledger.http")
_encoder = msgspec.json.Encoder()


def kind_of(error: BaseException) -> Kind:
    """How this error leaves; anything unforeseen is a 500 that tells nothing of the inside."""
    for cls, kind in KINDS:
        if isinstance(error, cls):
            return kind
    return INTERNAL


def problem_response_parts(
    error: BaseException, scope: Mapping[str, Any]
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer to a request that failed.

    Args:
        error: why.
        scope: of the request, as ASGI has it; its `state` may have the `request_id`.
    """
    kind = kind_of(error)
    if _is_masked(error):
        _log.warning("request %s: %s", scope.get("state", {}).get("request_id", ""), error)
    body = _encoder.encode(problem_document(error, kind, scope))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if isinstance(error, service_errors.Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, service_errors.TooManyRequests | view_errors.AsOfBusy):
        headers.append((b"retry-after", str(error.retry_after_seconds).encode()))
    elif kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow))
    return kind.status, headers, body


def is_internal(error: BaseException) -> bool:
    """Whether an error is a defect of Jobledger."""
    return kind_of(error) is INTERNAL


def log_failure(error: BaseException, scope: Mapping[str, Any]) -> None:
    """Log an error that the client learns nothing about, with its stack."""
    request_id = scope.get("state", {}).get("request_id", "")
    _log.error("request %s %s failed", request_id, ascii(scope["path"]), exc_info=error)


def problem_document(error: BaseException, kind: Kind, scope: Mapping[str, Any]) -> dict[str, Any]:
    """The problem as plain values."""
    message = _message_of(error, kind)
    document: dict[str, Any] = {
        "type": URN + kind.code,
        "title": HTTPStatus(kind.status).phrase,
        "status": kind.status,
        "detail": message,
        "instance": _printable(scope.get("path", "")),
        "Status": kind.status,
        "Message": message,
        "RequestID": scope.get("state", {}).get("request_id", ""),
        "Code": kind.code,
        "Component": COMPONENT,
    }
    if kind.hint:
        document["Hint"] = kind.hint
    document.update(_more(error))
    return document


def _more(error: BaseException) -> dict[str, Any]:
    """What some errors carry for programs."""
    match error:
        case errors.InvalidSpec():
            return {
                "Problems": [
                    {"Path": problem.path, "Message": problem.message, "Remedy": problem.remedy}
                    for problem in error.problems
                ]
            }
        case errors.Conflict():
            missed = [history_item(error.job_id, item) for item in error.missed]
            return {
                "JobID": error.job_id,
                "Revision": error.revision,
                "Sequence": error.sequence,
                "Missed": missed,
            }
        case errors.JobExists() | errors.JobQuarantined():
            return {"JobID": error.job_id}
        case errors.OutcomeUnknown():
            return {"EventID": error.event_id}
        case view_errors.AmbiguousId():
            return {"Candidates": list(error.candidates)}
    return {}


def _message_of(error: BaseException, kind: Kind) -> str:
    if kind is INTERNAL:
        return "Internal server error"
    if _is_masked(error):
        words = next(words for cls, words in _VIEW_WORDS if isinstance(error, cls))
        return f"{words}; the service's log has the request's ID and says more"
    return _printable(str(error))


def _is_masked(error: BaseException) -> bool:
    """Whether its own words may tell a path of this machine."""
    return isinstance(error, view_errors.ViewError) and not isinstance(error, view_errors.TreeUnavailable)


def _printable(text: str) -> str:
    """Text that JSON can carry: half of a surrogate pair, from a bad path, say, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()
