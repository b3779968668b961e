"""Translates problem documents back into the errors of a local call, with the table in `service/errors`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from jobledger.projections.errors import AmbiguousId, AsOfBusy
from jobledger.projections.limits import ASOF_RETRY_SECONDS
from jobledger.service.errors import ERROR_KINDS, INTERNAL, RemoteError, TooManyRequests
from jobledger.store.model import errors
from jobledger.store.model.errors import JobledgerError, Problem
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import State
from jobledger.store.model.limits import MISSED_MAX_EVENTS, SPEC_MAX_PROBLEMS
from jobledger.store.timestamps import parse_rfc3339

_SHOWN_CHARACTERS: Final = 200  # of an answer that is no problem document
_PRECONDITION_FAILED: Final = 412


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document, as far as it could be read.

    Attributes:
        status: of HTTP.
        code: what kind; empty if the answer came from somebody else, such as a proxy.
        message: what is wrong.
        wire: all of it.
    """

    status: int
    code: str
    message: str
    wire: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A text field; empty if it is absent or something else."""
        value = self.wire.get(name)
        return value if isinstance(value, str) else ""

    def items(self, name: str, most: int) -> list[Mapping[str, Any]]:
        """The objects of a list; none if it is absent or something else."""
        value = self.wire.get(name)
        found = value if isinstance(value, list) else []
        return [each for each in found[:most] if isinstance(each, Mapping)]

    def number(self, name: str) -> int:
        """A field that is a whole number; 0 if it is absent or something else."""
        value = self.wire.get(name)
        return value if isinstance(value, int) else 0


def error_of(status: int, body: bytes, retry_after: str = "") -> JobledgerError:
    """The error that an answer stands for; what to do besides is a note on it.

    Args:
        status: of HTTP, 400 or more (or a redirection, which no route of ours answers).
        body: a problem document, or whatever a proxy in between says.
        retry_after: that header, in seconds.
    """
    answered = _read(status, body)
    cls = _BY_CODE.get(answered.code)
    if cls is None:
        error, hint = _remote_error(answered), None
    else:
        build = _BUILDERS.get(cls)
        error, hint = build(answered) if build else cls(answered.message), ERROR_KINDS[cls].cli_hint
    if isinstance(error, TooManyRequests | AsOfBusy) and retry_after.isdecimal():
        error.retry_after_seconds = int(retry_after)
    hint = answered.text("Hint") if hint is None else hint
    if hint:
        error.add_note(hint)
    request_id = answered.text("RequestID")
    if request_id and status == 500:
        error.add_note(f"The service's log has it as request {request_id}")
    return error


def _read(status: int, body: bytes) -> Answered:
    try:
        wire = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        wire = None
    if not isinstance(wire, dict):
        text = " ".join(body.decode("utf-8", "replace").split())
        shown = f": {text:.{_SHOWN_CHARACTERS}}" if text else ""
        return Answered(status=status, code="", message=f"the answer is HTTP {status}{shown}", wire={})
    known = Answered(status=status, code="", message="", wire=wire)
    message = known.text("detail") or known.text("Message") or f"the answer is HTTP {status}"
    return Answered(status=status, code=known.text("Code"), message=message, wire=wire)


def _remote_error(answered: Answered) -> JobledgerError:
    if not answered.code:
        return RemoteError(f"{answered.message}; is this the address of a Jobledger service?")
    return RemoteError(f"{answered.message} (HTTP {answered.status}, {answered.code})")


def _invalid_spec(answered: Answered) -> JobledgerError:
    problems = [
        Problem(str(each.get("Path", "")), str(each.get("Message", "")), str(each.get("Remedy") or ""))
        for each in answered.items("Problems", SPEC_MAX_PROBLEMS)
    ]
    return errors.InvalidSpec(problems or [Problem("", answered.message)])


def _conflict(answered: Answered) -> JobledgerError:
    kind = errors.RevisionMismatch if answered.status == _PRECONDITION_FAILED else errors.Contention
    return kind(
        answered.message,
        job_id=answered.text("JobID"),
        revision=answered.number("Revision"),
        sequence=answered.number("Sequence"),
        missed=[_missed(each) for each in answered.items("Missed", MISSED_MAX_EVENTS)],
    )


def _missed(wire: Mapping[str, Any]) -> HistoryItem:
    def number(name: str) -> int:
        value = wire.get(name)
        return value if isinstance(value, int) else 0

    def text(name: str) -> str:
        value = wire.get(name)
        return value if isinstance(value, str) else ""

    try:
        state = msgspec.convert(wire.get("State"), State | None)
    except msgspec.ValidationError:
        state = None
    return HistoryItem(
        sequence=number("Sequence"),
        time=nanoseconds_of(text("Time")),
        type=text("EventType"),
        event_id=text("EventID"),
        version=number("JobVersion"),
        revision=number("Revision"),
        state=state,
        actor=text("Actor"),
        reason=text("Reason"),
    )


def nanoseconds_of(time: str) -> int:
    """RFC 3339 as Unix nanoseconds, all nine digits of them; 0 if it is not that."""
    return parse_rfc3339(time) or 0


_BUILDERS: Final[Mapping[type[JobledgerError], Callable[[Answered], JobledgerError]]] = {
    errors.InvalidSpec: _invalid_spec,
    AmbiguousId: lambda answered: AmbiguousId(
        answered.message, candidates=[str(each) for each in answered.wire.get("Candidates") or ()]
    ),
    errors.JobExists: lambda answered: errors.JobExists(answered.message, job_id=answered.text("JobID")),
    errors.JobQuarantined: lambda answered: errors.JobQuarantined(
        answered.message, job_id=answered.text("JobID"), namespace="", sequence=0, cause=""
    ),
    errors.LogDamaged: lambda answered: errors.LogDamaged(answered.message, sequence=0),
    errors.RevisionMismatch: _conflict,
    errors.LogMissing: lambda answered: errors.LogMissing(answered.message, stream="", evidence=()),
    errors.OutcomeUnknown: lambda answered: errors.OutcomeUnknown(
        answered.message, event_id=answered.text("EventID")
    ),
    AsOfBusy: lambda answered: AsOfBusy(answered.message, retry_after_seconds=ASOF_RETRY_SECONDS),
}
"""The classes whose constructor takes more than the message."""

_BY_CODE: Final[Mapping[str, type[JobledgerError]]] = {
    kind.code: cls for cls, kind in reversed(tuple(ERROR_KINDS.items())) if kind.code != INTERNAL.code
}
"""The first class of each code: `reversed` lets it win."""
