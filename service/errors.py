"""What can go wrong at the doors, and the one place where the command line makes exit codes of errors.

JobledgerError
├── InvalidInput
│   ├── InvalidSettings           settings that are unknown or contradict each other
│   └── TargetRefused             a webhook's target that must not be connected to
└── ServiceError
    ├── Unauthorized              no token, or one that is not valid
    ├── Forbidden                 the token does not give that right
    ├── CursorGone                a position of another stream, or of a part that is gone
    ├── IdempotencyKeyReused      the key was used before, for another request
    ├── PayloadTooLarge           the body is over the limit
    ├── UnsupportedMediaType      the body is not JSON
    ├── TooManyRequests           a named limit of requests or feeds is reached
    ├── Timeout                   a wait ended without what was waited for
    ├── NotReady                  the service is draining, or can't serve yet
    ├── OutputFailed              what a command tells can't be written where it was to go
    ├── NotSealed                 no seal covers what is to be proven
    ├── AuditFailed               a check of the log, a seal, a view or a bundle found something wrong
    ├── NoLogs                    what an execution prints is not kept here
    ├── WebhookNotFound           there is no webhook of that name
    ├── WebhookExists             there is one of that name, and it is another one
    └── RemoteError               another answer of a service that the command line asked
        └── ServiceUnreachable    nobody answers at its address

HTTP statuses are in `http/problems`.
"""

from typing import Final

from jobledger.projections.errors import AmbiguousId, AsOfBusy, SubscriptionNotFound, ViewError, WaitTimeout
from jobledger.store.model.errors import (
    Conflict,
    EmbeddedServerError,
    InvalidInput,
    JobledgerError,
    JobNotFound,
    LogError,
    Refused,
)


class InvalidSettings(InvalidInput):
    """A setting is unknown, wrong, or contradicts another; the message names it and where it came from."""


class TargetRefused(InvalidInput):
    """A webhook's target is, or leads to, an address that must not be connected to."""


class ServiceError(JobledgerError):
    """Something about the request or the service rather than about a job."""


class Unauthorized(ServiceError):
    """No token was sent, or none that is valid."""


class Forbidden(ServiceError):
    """The token is valid and does not give this right."""


class CursorGone(ServiceError):
    """A position that can't be read from any more: of another stream, or of a part that was removed."""


class IdempotencyKeyReused(ServiceError):
    """The idempotency key was used before for a request that was not this one."""


class PayloadTooLarge(ServiceError):
    """The body is over the named limit."""


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON."""


class TooManyRequests(ServiceError):
    """A named limit of requests in flight or of feeds is reached; try again later.

    Attributes:
        retry_after_seconds: when.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Timeout(ServiceError):
    """A wait ended without what was waited for."""


class NotReady(ServiceError):
    """The service is draining, or can't serve yet."""


class NotSealed(ServiceError):
    """No seal covers any of what is to be proven yet; one is made every so often, and by asking for it."""


class AuditFailed(ServiceError):
    """An audit was carried out, and what it looked at is not what it must be; the message says where."""


class NoLogs(ServiceError):
    """The output of a job's executions was asked for, which is not kept here."""


class WebhookNotFound(ServiceError):
    """There is no webhook of that name."""


class WebhookExists(ServiceError):
    """A webhook of that name stands in the way, or changed meanwhile; nothing was written."""


class OutputFailed(ServiceError):
    """What a command tells can't be written: the disk is full, or the file can't be made."""


class RemoteError(ServiceError):
    """A service that the command line asked answered with something that has no class of its own."""


class ServiceUnreachable(RemoteError):
    """Nobody answers at the address of the service. Nothing was written."""


BAD_INPUT_CODE: Final = 2  # also click's own, for wrong usage: bad input has one code, wherever it is found

# The first that fits.
EXIT_CODES: Final[tuple[tuple[type[JobledgerError], int], ...]] = (
    (InvalidInput, BAD_INPUT_CODE),
    (PayloadTooLarge, BAD_INPUT_CODE),
    (JobNotFound, 3),
    (AmbiguousId, 3),
    (WebhookNotFound, 3),
    (SubscriptionNotFound, 3),
    (Refused, 4),
    (Conflict, 5),
    (WebhookExists, 5),
    (LogError, 6),
    (EmbeddedServerError, 6),
    (ViewError, 6),
    (Unauthorized, 7),
    (Forbidden, 7),
    (WaitTimeout, 8),
    (Timeout, 8),
    (NotReady, 6),
    (AsOfBusy, 6),
    (ServiceUnreachable, 6),
    (NotSealed, 6),
    (AuditFailed, 9),
    (JobledgerError, 1),
)


def exit_code(error: JobledgerError) -> int:
    """What the process ends with when a command raised this."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
