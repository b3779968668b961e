"""Translates problem documents back into the errors of a local call, with the table in `service/errors`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from jobledger.projections.errors import AmbiguousId, AsOfBusy
from jobledger.projections.limits import ASOF_RETRY_SECONDS
from jobledger.service.errors import ERROR_KINDS, INTERNAL, MethodNotAllowed, RemoteError, TooManyRequests
from jobledger.store.model import errors
from jobledger.store.model.errors import JobledgerError, Problem
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import State
from jobledger.store.model.limits import MISSED_MAX_EVENTS, SPEC_MAX_PROBLEMS
from jobledger.store.timestamps import parse_rfc3339

_SHOWN_CHARACTERS: Final = 200  # of a response that is not a problem document
_PRECONDITION_FAILED: Final = 412


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document; `code` is empty if the response is from another program, such as a proxy."""

    status: int
    code: str
    message: str
    wire: Mapping[str, Any]

    def text(self, name: str) -> str:
        return _text(self.wire, name)

    def items(self, name: str, max_items: int) -> list[Mapping[str, Any]]:
        """The objects in a list; empty if it is absent or not a list."""
        value = self.wire.get(name)
        found = value if isinstance(value, list) else []
        return [each for each in found[:max_items] if isinstance(each, Mapping)]


def _text(wire: Mapping[str, Any], name: str) -> str:
    """A text field; empty if it is absent or not text."""
    value = wire.get(name)
    return value if isinstance(value, str) else ""


def _number(wire: Mapping[str, Any], name: str) -> int:
    """An integer field; 0 if it is absent or not an integer."""
    value = wire.get(name)
    return value if isinstance(value, int) else 0


def error_of(status: int, body: bytes, retry_after: str = "") -> JobledgerError:
    """The error of an error response; a hint is added as a note.

    Args:
        status: of HTTP, 400 or more, or a redirect, which no route responds with.
        body: a problem document, or any text of a proxy.
        retry_after: the value of that header, in seconds.
    """
    problem = _read(status, body)
    cls = _BY_CODE.get(problem.code)
    if cls is None:
        error, hint = _remote_error(problem), None
    else:
        build = _BUILDERS.get(cls)
        error, hint = build(problem) if build else cls(problem.message), ERROR_KINDS[cls].cli_hint
    if isinstance(error, TooManyRequests | AsOfBusy) and retry_after.isdecimal():
        error.retry_after_seconds = int(retry_after)
    hint = problem.text("Hint") if hint is None else hint
    if hint:
        error.add_note(hint)
    request_id = problem.text("RequestID")
    if request_id and status == 500:
        error.add_note(f"The service's log contains it as request {request_id}")
    return error


def _read(status: int, body: bytes) -> _Problem:
    try:
        wire = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        wire = None
    if not isinstance(wire, dict):
        text = " ".join(body.decode("utf-8", "replace").split())
        shown = f": {text:.{_SHOWN_CHARACTERS}}" if text else ""
        return _Problem(status=status, code="", message=f"the response is HTTP {status}{shown}", wire={})
    known = _Problem(status=status, code="", message="", wire=wire)
    message = known.text("detail") or known.text("Message") or f"the response is HTTP {status}"
    return _Problem(status=status, code=known.text("Code"), message=message, wire=wire)


def _remote_error(problem: _Problem) -> JobledgerError:
    if not problem.code:
        return RemoteError(f"{problem.message}; is this the address of a Jobledger service?")
    return RemoteError(f"{problem.message} (HTTP {problem.status}, {problem.code})")


def _invalid_spec(problem: _Problem) -> JobledgerError:
    problems = [
        Problem(str(each.get("Path", "")), str(each.get("Message", "")), str(each.get("Remedy") or ""))
        for each in problem.items("Problems", SPEC_MAX_PROBLEMS)
    ]
    return errors.InvalidSpec(problems or [Problem("", problem.message)])


def _conflict(problem: _Problem) -> JobledgerError:
    kind = errors.RevisionMismatch if problem.status == _PRECONDITION_FAILED else errors.Contention
    return kind(
        problem.message,
        job_id=problem.text("JobID"),
        revision=_number(problem.wire, "Revision"),
        sequence=_number(problem.wire, "Sequence"),
        missed=[_missed(each) for each in problem.items("Missed", MISSED_MAX_EVENTS)],
    )


def _missed(wire: Mapping[str, Any]) -> HistoryItem:
    try:
        state = msgspec.convert(wire.get("State"), State | None)
    except msgspec.ValidationError:
        state = None
    return HistoryItem(
        sequence=_number(wire, "Sequence"),
        time=parse_rfc3339(_text(wire, "Time")) or 0,
        type=_text(wire, "EventType"),
        event_id=_text(wire, "EventID"),
        version=_number(wire, "JobVersion"),
        revision=_number(wire, "Revision"),
        state=state,
        actor=_text(wire, "Actor"),
        reason=_text(wire, "Reason"),
    )


_BUILDERS: Final[Mapping[type[JobledgerError], Callable[[_Problem], JobledgerError]]] = {
    errors.InvalidSpec: _invalid_spec,
    AmbiguousId: lambda problem: AmbiguousId(
        problem.message, candidates=[str(each) for each in problem.wire.get("Candidates") or ()]
    ),
    errors.JobExists: lambda problem: errors.JobExists(problem.message, job_id=problem.text("JobID")),
    errors.JobQuarantined: lambda problem: errors.JobQuarantined(
        problem.message, job_id=problem.text("JobID"), namespace="", sequence=0, cause=""
    ),
    errors.LogDamaged: lambda problem: errors.LogDamaged(problem.message, sequence=0),
    errors.RevisionMismatch: _conflict,
    MethodNotAllowed: _remote_error,  # the service is another release
    errors.LogMissing: lambda problem: errors.LogMissing(problem.message, stream="", evidence=()),
    errors.OutcomeUnknown: lambda problem: errors.OutcomeUnknown(
        problem.message, event_id=problem.text("EventID")
    ),
    AsOfBusy: lambda problem: AsOfBusy(problem.message, retry_after_seconds=ASOF_RETRY_SECONDS),
}
"""The classes whose constructor takes more than the message."""

_BY_CODE: Final[Mapping[str, type[JobledgerError]]] = {
    kind.code: cls for cls, kind in reversed(tuple(ERROR_KINDS.items())) if kind.code != INTERNAL.code
}
"""The first class of each code: `reversed` lets it win."""
