"""Answers that say no, as the errors that a local call would have raised: the one place that translates back.

The table is the other way round of the one that `http/problems` has, so that `exit_code` needs no second one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from jobledger.projections.errors import AmbiguousId, AsOfBusy, SubscriptionNotFound, ViewError
from jobledger.projections.limits import ASOF_RETRY_SECONDS
from jobledger.service.errors import (
    AuditFailed,
    CursorGone,
    Forbidden,
    IdempotencyKeyReused,
    NotReady,
    NotSealed,
    PayloadTooLarge,
    RemoteError,
    Timeout,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
    WebhookExists,
    WebhookNotFound,
)
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
    make = _BY_CODE.get(answered.code, _remote)
    error = make(answered)
    if isinstance(error, TooManyRequests | AsOfBusy) and retry_after.isdecimal():
        error.retry_after_seconds = int(retry_after)
    hint = _HINTS.get(answered.code, answered.text("Hint"))
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


def _remote(answered: Answered) -> JobledgerError:
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


# What to do, said for the command line where the service says it for HTTP; empty: the message says it.
_HINTS: Final = {
    "ValidationError": "",
    "NotFound": "",
    "ConflictJobRevision": "",
    "Unauthorized": "Show a token: --token-file FILE, or JOBLEDGER_TOKEN_FILE",
    "Timeout": "",
    "WebhookNotFound": "`jobledger webhook list` shows what there is",
    "SubscriptionNotFound": "`jobledger subscriptions list` shows what there is",
    "MultipleJobsFound": "Use more of the id, or all of it",
    "OutcomeUnknown": "Look at the job before you repeat it; `job run` repeats safely with --idempotency-key",
}


def _plain(kind: type[JobledgerError]) -> Callable[[Answered], JobledgerError]:
    return lambda answered: kind(answered.message)


_BY_CODE: Final[Mapping[str, Callable[[Answered], JobledgerError]]] = {
    "ValidationError": _invalid_spec,
    "BadRequest": _plain(errors.InvalidInput),
    "NotFound": _plain(errors.JobNotFound),
    "MultipleJobsFound": lambda answered: AmbiguousId(
        answered.message, candidates=[str(each) for each in answered.wire.get("Candidates") or ()]
    ),
    "ResourceInUse": lambda answered: errors.JobExists(answered.message, job_id=answered.text("JobID")),
    "ConflictJobState": _plain(errors.JobTerminal),
    "JobQuarantined": lambda answered: errors.JobQuarantined(
        answered.message, job_id=answered.text("JobID"), namespace="", sequence=0, cause=""
    ),
    "JobNotQuarantined": _plain(errors.JobNotQuarantined),
    "LogDamaged": lambda answered: errors.LogDamaged(answered.message, sequence=0),
    "ConflictJobRevision": _conflict,
    "LogUnavailable": _plain(errors.LogUnavailable),
    "LogBusy": _plain(errors.LogBusy),
    "LogRefused": _plain(errors.LogRefused),
    "LogMissing": lambda answered: errors.LogMissing(answered.message, stream="", evidence=()),
    "StoreDamaged": _plain(errors.StoreDamaged),
    "LogNotPermitted": _plain(errors.LogNotPermitted),
    "LogUnfit": _plain(errors.LogUnfit),
    "ViewUnavailable": _plain(ViewError),
    "OutcomeUnknown": lambda answered: errors.OutcomeUnknown(
        answered.message, event_id=answered.text("EventID")
    ),
    "Unauthorized": _plain(Unauthorized),
    "Forbidden": _plain(Forbidden),
    "CursorGone": _plain(CursorGone),
    "IdempotencyKeyReused": _plain(IdempotencyKeyReused),
    "PayloadTooLarge": _plain(PayloadTooLarge),
    "UnsupportedMediaType": _plain(UnsupportedMediaType),
    "TooManyRequests": _plain(TooManyRequests),
    "AsOfBusy": lambda answered: AsOfBusy(answered.message, retry_after_seconds=ASOF_RETRY_SECONDS),
    "WebhookNotFound": _plain(WebhookNotFound),
    "WebhookExists": _plain(WebhookExists),
    "SubscriptionNotFound": _plain(SubscriptionNotFound),
    "Timeout": _plain(Timeout),
    "NotReady": _plain(NotReady),
    "NotSealed": _plain(NotSealed),
    "AuditFailed": _plain(AuditFailed),
}
