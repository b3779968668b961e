"""The store's errors as exit codes: the one place where the command line translates them."""

from typing import Final

from jobledger.projections.errors import AmbiguousId, ViewError, WaitTimeout
from jobledger.store.errors import (
    Conflict,
    EmbeddedServerError,
    InvalidInput,
    JobledgerError,
    JobNotFound,
    LogError,
    Refused,
)

# The first that fits; 2 is click's own, for wrong usage.
EXIT_CODES: Final[tuple[tuple[type[JobledgerError], int], ...]] = (
    (InvalidInput, 1),
    (JobNotFound, 3),
    (Refused, 4),
    (Conflict, 5),
    (LogError, 6),
    (EmbeddedServerError, 6),
    (ViewError, 6),
    (WaitTimeout, 6),
    (AmbiguousId, 3),
    (JobledgerError, 1),
)


def exit_code(error: JobledgerError) -> int:
    """What the process ends with when a command raised this."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
