"""Errors as `application/problem+json` (RFC 9457), with the fields of Bacalhau's errors. Pure."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from jobledger.projections import errors as view_errors
from jobledger.service import errors as service_errors
from jobledger.service.api.response import Response
from jobledger.service.errors import ERROR_KINDS, INTERNAL, ErrorKind, MethodNotAllowed, error_kind
from jobledger.service.history import history_item
from jobledger.store.model import errors

MEDIA_TYPE: Final = "application/problem+json"
COMPONENT: Final = "Jobledger"
URN: Final = "urn:jobledger:problem:"
RETRY_AFTER_SECONDS: Final = 1


KINDS: Final = tuple(dict.fromkeys(kind for kind in ERROR_KINDS.values() if kind.code != INTERNAL.code))
"""The kinds of errors that a client can receive, except internal ones."""

# Used instead of the errors' own messages, which contain paths of this machine. The first that matches.
_VIEW_WORDS: Final[tuple[tuple[type[view_errors.ViewError], str], ...]] = (
    (view_errors.ViewMissing, "there is no view yet"),
    (view_errors.ViewDamaged, "the view is damaged"),
    (view_errors.ViewFromNewerRelease, "the view was written by a newer release"),
    (view_errors.ViewBusy, "another process has locked the view"),
    (view_errors.ViewUnwritable, "the view cannot be opened or written"),
    (
        view_errors.ViewRebuilding,
        "the view is damaged or lost, and is being rebuilt from the log; try again later",
    ),
    (view_errors.ViewError, "the view cannot be read"),
)

_log = logging.getLogger("jobledger.http")
_encoder = msgspec.json.Encoder()


def kind_of(error: BaseException) -> ErrorKind:
    """Status, code and hint of an error; an unexpected one is a 500 without details."""
    kind = error_kind(type(error))
    return INTERNAL if kind.code == INTERNAL.code else kind


def problem_response(error: BaseException, scope: Mapping[str, Any]) -> Response:
    """The response to a request that failed."""
    kind = kind_of(error)
    if _is_masked(error):
        _log.warning("request %s: %s", scope.get("state", {}).get("request_id", ""), error)
    body = _encoder.encode(problem_document(error, kind, scope))
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, service_errors.Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, service_errors.TooManyRequests | view_errors.AsOfBusy):
        headers.append((b"retry-after", str(error.retry_after_seconds).encode()))
    elif kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow))
    return Response(body, headers, status=kind.status, media_type=MEDIA_TYPE)


def is_internal(error: BaseException) -> bool:
    """Whether an error is a defect of Jobledger."""
    return kind_of(error) is INTERNAL


def log_failure(error: BaseException, scope: Mapping[str, Any]) -> None:
    """Log an error with its stack: the client gets no details."""
    request_id = scope.get("state", {}).get("request_id", "")
    _log.error("request %s %s failed", request_id, ascii(scope["path"]), exc_info=error)


def problem_document(error: BaseException, kind: ErrorKind, scope: Mapping[str, Any]) -> dict[str, Any]:
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
    """The additional members of some errors."""
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


def _message_of(error: BaseException, kind: ErrorKind) -> str:
    if kind is INTERNAL:
        return "Internal server error"
    if _is_masked(error):
        words = next(words for cls, words in _VIEW_WORDS if isinstance(error, cls))
        return f"{words}; the service's log has the details under the request's ID"
    return _printable(str(error))


def _is_masked(error: BaseException) -> bool:
    """Whether its own message may contain a path of this machine."""
    return isinstance(error, view_errors.ViewError) and not isinstance(error, view_errors.TreeUnavailable)


def _printable(text: str) -> str:
    """Text that JSON can carry: an unpaired surrogate, from a malformed path, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
