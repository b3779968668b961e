"""The errors of the service, and the table from every error to its HTTP status and exit code.

JobledgerError
├── InvalidInput
│   ├── InvalidSettings           unknown settings, or settings that contradict each other
│   └── TargetRefused             a webhook target that must not be connected to
└── ServiceError
    ├── Unauthorized              no token, or an invalid one
    ├── Forbidden                 the token lacks the permission
    ├── CursorGone                a position in another stream, or in a removed part of this one
    ├── IdempotencyKeyReused      the key was used for a different request
    ├── PayloadTooLarge           the body exceeds the limit
    ├── UnsupportedMediaType      the body is not JSON
    ├── RouteNotFound             no operation has the path
    ├── MethodNotAllowed          the path has operations, but none with the method
    ├── TooManyRequests           a limit on requests or feeds is reached
    ├── Timeout                   a wait ended without its condition
    ├── NotReady                  the service is draining, or is not ready yet
    ├── OutputFailed              a command cannot write its output
    ├── NotSealed                 no seal covers the events to prove
    ├── AuditFailed               a check of the log, a seal, a view or a bundle failed
    ├── NoLogs                    output of executions is not stored here
    ├── WebhookNotFound           no webhook has that name
    ├── WebhookExists             a different webhook has that name
    └── RemoteError               any other error response of a service
        └── ServiceUnreachable    the service cannot be reached

The other parts of the tree are in `store/model/errors.py` and `projections/errors.py`. `ERROR_KINDS` has one
entry per class; HTTP, the client and the command line translate with it.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from jobledger.projections import errors as view
from jobledger.store.model import errors as store
from jobledger.store.model.errors import InvalidInput, JobledgerError


class InvalidSettings(InvalidInput):
    """A setting is unknown, invalid, or contradicts another; the message names the setting and its source."""


class TargetRefused(InvalidInput):
    """A webhook target is, or resolves to, an address that must not be connected to."""


class ServiceError(JobledgerError):
    """An error of the request or the service, not of a job."""


class Unauthorized(ServiceError):
    """The request has no token, or an invalid one."""


class Forbidden(ServiceError):
    """The token is valid but lacks the permission."""


class CursorGone(ServiceError):
    """The position cannot be resumed: it is in another stream, or in a part that was removed."""


class IdempotencyKeyReused(ServiceError):
    """The idempotency key was used before for a different request."""


class PayloadTooLarge(ServiceError):
    """The body exceeds the limit."""


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON."""


class RouteNotFound(ServiceError):
    """No operation has this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no operation has the path {path}")


class MethodNotAllowed(ServiceError):
    """The path has operations, but none with this method."""

    def __init__(self, method: str, path: str, allow: bytes) -> None:
        super().__init__(f"{path} does not allow {method}")
        self.allow = allow


class TooManyRequests(ServiceError):
    """A limit on concurrent requests or feeds is reached; retry after `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Timeout(ServiceError):
    """A wait ended before its condition was met."""


class NotReady(ServiceError):
    """The service is draining, or is not ready yet."""


class NotSealed(ServiceError):
    """No seal covers the events to prove yet. Seals are made at an interval and on request."""


class AuditFailed(ServiceError):
    """An audit found a difference; the message names the place."""


class NoLogs(ServiceError):
    """The output of a job's executions was requested; it is not stored here."""


class WebhookNotFound(ServiceError):
    """No webhook has that name."""


class WebhookExists(ServiceError):
    """A different webhook has that name, or the webhook changed meanwhile. Nothing was written."""


class OutputFailed(ServiceError):
    """A command cannot write its output: the disk is full, or the file cannot be created."""


class RemoteError(ServiceError):
    """The service responded with an error that has no class of its own."""


class ServiceUnreachable(RemoteError):
    """The service does not respond at its address. Nothing was written."""


class ErrorKind(NamedTuple):
    """How an error class is reported.

    Attributes:
        status: the HTTP status.
        code: the word that programs test; also the end of the problem's `type`.
        exit_code: of a command that raises it.
        hint: what to do, if the message does not say it.
        cli_hint: the hint that the client shows instead; None: `hint`.
    """

    status: int
    code: str
    exit_code: int
    hint: str = ""
    cli_hint: str | None = None


INVALID_INPUT_EXIT_CODE: Final = 2  # click uses it for wrong usage: invalid input has one code

INTERNAL: Final = ErrorKind(
    500, "InternalError", 1, "This is a bug in Jobledger; the service's log contains the request ID"
)
_INVALID: Final = ErrorKind(400, "BadRequest", INVALID_INPUT_EXIT_CODE)
_NOT_FOUND: Final = ErrorKind(
    404, "NotFound", 3, "List the jobs to see which exist; for a new job, use `wait_for`", cli_hint=""
)
_STATE_CONFLICT: Final = ErrorKind(409, "ConflictJobState", 4)
_NOTHING_WRITTEN: Final = "Nothing was written: try again"
_LOG_UNAVAILABLE: Final = ErrorKind(503, "LogUnavailable", 6, _NOTHING_WRITTEN)
_LOG_UNFIT: Final = ErrorKind(503, "LogUnfit", 6, "An operator must check the log; nothing was written")
_VIEW_UNAVAILABLE: Final = ErrorKind(
    503, "ViewUnavailable", 6, "An operator must check the view; it can be rebuilt"
)
_REVISION_CONFLICT: Final = "ConflictJobRevision"
_TIMEOUT: Final = "Timeout"

ERROR_KINDS: Final[Mapping[type[JobledgerError], ErrorKind]] = {
    JobledgerError: INTERNAL,
    # 400
    store.InvalidSpec: ErrorKind(
        400,
        "ValidationError",
        INVALID_INPUT_EXIT_CODE,
        "Correct each problem; `jobledger job validate` checks a spec offline",
        cli_hint="",
    ),
    InvalidInput: _INVALID,
    view.InvalidSelector: _INVALID,
    view.InvalidCursor: _INVALID,
    InvalidSettings: _INVALID,
    TargetRefused: _INVALID,
    # 401, 403, 404, 405, 410
    Unauthorized: ErrorKind(
        401,
        "Unauthorized",
        7,
        "Send `Authorization: Bearer TOKEN`",
        cli_hint="Pass a token with --token-file FILE or JOBLEDGER_TOKEN_FILE",
    ),
    Forbidden: ErrorKind(403, "Forbidden", 7),
    store.JobNotFound: _NOT_FOUND,
    store.VersionNotFound: _NOT_FOUND,
    NoLogs: ErrorKind(404, "NotFound", 1, "Read the output where the job runs", cli_hint=""),
    WebhookNotFound: ErrorKind(
        404,
        "WebhookNotFound",
        3,
        "List the webhooks to see which exist",
        cli_hint="`jobledger webhook list` shows the webhooks",
    ),
    view.SubscriptionNotFound: ErrorKind(
        404,
        "SubscriptionNotFound",
        3,
        "List the subscriptions to see which exist",
        cli_hint="`jobledger subscriptions list` shows the subscriptions",
    ),
    RouteNotFound: ErrorKind(404, "NotFound", 1, "See /docs for the available paths"),
    MethodNotAllowed: ErrorKind(405, "MethodNotAllowed", 1, "See /docs for the methods of this path"),
    CursorGone: ErrorKind(410, "CursorGone", 1),
    # 409, 412: the job, a webhook or the log is not as the caller expects
    store.JobExists: ErrorKind(409, "ResourceInUse", 4),
    store.JobQuarantined: ErrorKind(
        409, "JobQuarantined", 4, "An operator must check it: `jobledger view quarantine`"
    ),
    store.JobNotQuarantined: ErrorKind(409, "JobNotQuarantined", 4),
    store.JobTerminal: _STATE_CONFLICT,
    store.JobNotRerunnable: _STATE_CONFLICT,
    store.TooManyTags: _STATE_CONFLICT,
    store.Refused: _STATE_CONFLICT,
    store.RevisionMismatch: ErrorKind(
        412,
        _REVISION_CONFLICT,
        5,
        "Read the job again (on another replica with `wait_for=<Sequence>`) and use its current revision",
        cli_hint="",
    ),
    store.Contention: ErrorKind(
        409, _REVISION_CONFLICT, 5, "Other writers were faster; try again", cli_hint=""
    ),
    store.Conflict: ErrorKind(
        409, _REVISION_CONFLICT, 5, "Other writers were faster; try again", cli_hint=""
    ),
    view.AmbiguousId: ErrorKind(
        409,
        "MultipleJobsFound",
        3,
        "Use the full job ID",
        cli_hint="Use a longer prefix of the ID, or all of it",
    ),
    WebhookExists: ErrorKind(409, "WebhookExists", 5),
    AuditFailed: ErrorKind(409, "AuditFailed", 9, "An operator must check it: `jobledger audit verify`"),
    NotSealed: ErrorKind(
        409, "NotSealed", 6, "Wait for the next seal, or let an admin make one: POST /api/v1/audit/seals"
    ),
    # Other statuses of a request
    PayloadTooLarge: ErrorKind(413, "PayloadTooLarge", INVALID_INPUT_EXIT_CODE),
    UnsupportedMediaType: ErrorKind(415, "UnsupportedMediaType", 1),
    IdempotencyKeyReused: ErrorKind(422, "IdempotencyKeyReused", 1, "Use a new key for each request"),
    TooManyRequests: ErrorKind(429, "TooManyRequests", 1),
    # 503: the log
    store.LogUnavailable: _LOG_UNAVAILABLE,
    store.LogBehind: _LOG_UNAVAILABLE,
    store.EmbeddedServerError: _LOG_UNAVAILABLE,
    store.EmbeddedServerInUse: _LOG_UNAVAILABLE,
    store.OutcomeUnknown: ErrorKind(
        503,
        "OutcomeUnknown",
        6,
        "Repeat the request with the same Idempotency-Key",
        cli_hint="Check the job before you repeat this; `job run` repeats safely with --idempotency-key",
    ),
    store.LogBusy: ErrorKind(503, "LogBusy", 6, _NOTHING_WRITTEN),
    store.LogRefused: ErrorKind(
        503, "LogRefused", 6, "An operator must check the log's server; nothing was written"
    ),
    store.LogMissing: ErrorKind(
        503, "LogMissing", 6, "An operator must restore the stream; nothing was written"
    ),
    store.LogNotPermitted: ErrorKind(
        503, "LogNotPermitted", 6, "An operator must grant the permission; nothing was written"
    ),
    store.StoreDamaged: ErrorKind(
        503, "StoreDamaged", 6, "An operator must restore the files; nothing was written"
    ),
    store.LogDamaged: ErrorKind(503, "LogDamaged", 6, "An operator must check it: `jobledger view damage`"),
    store.LogUnfit: _LOG_UNFIT,
    store.LogBroken: _LOG_UNFIT,
    store.LogReplaced: _LOG_UNFIT,
    store.LogTruncated: _LOG_UNFIT,
    store.LogGap: _LOG_UNFIT,
    store.SubscriptionDeleted: _LOG_UNFIT,
    store.LogError: _LOG_UNFIT,
    # 503, 504: the view and the service
    view.ViewError: _VIEW_UNAVAILABLE,
    view.TreeUnavailable: _VIEW_UNAVAILABLE,
    view.ViewMissing: _VIEW_UNAVAILABLE,
    view.ViewReplaced: _VIEW_UNAVAILABLE,
    view.ViewDamaged: _VIEW_UNAVAILABLE,
    view.ViewRebuilding: _VIEW_UNAVAILABLE,
    view.ViewFromNewerRelease: _VIEW_UNAVAILABLE,
    view.ViewBusy: _VIEW_UNAVAILABLE,
    view.ViewUnwritable: _VIEW_UNAVAILABLE,
    view.AsOfBusy: ErrorKind(503, "AsOfBusy", 6),
    NotReady: ErrorKind(503, "NotReady", 6),
    Timeout: ErrorKind(504, _TIMEOUT, 8, cli_hint=""),
    view.WaitTimeout: ErrorKind(
        504, _TIMEOUT, 8, "The view is behind; wait longer, or check /readyz?verbose", cli_hint=""
    ),
    # Raised by commands and the client; a service never responds with these
    ServiceError: INTERNAL,
    view.ProofError: INTERNAL,
    OutputFailed: INTERNAL,
    RemoteError: INTERNAL,
    ServiceUnreachable: INTERNAL._replace(exit_code=6),
}
"""Where several classes share a code, the client raises the first of them."""


def error_kind(cls: type[BaseException]) -> ErrorKind:
    """The kind of an error class, or of its nearest base class in the table; `INTERNAL` for other errors."""
    return next((ERROR_KINDS[base] for base in cls.__mro__ if base in ERROR_KINDS), INTERNAL)


def exit_code(error: JobledgerError) -> int:
    """The exit code of a command that raised this error."""
    return error_kind(type(error)).exit_code
