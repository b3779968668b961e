"""The errors of the read side. The root and the base classes are in `store.model.errors`.

JobledgerError
├── InvalidInput
│   ├── InvalidSelector           a label selector that does not parse
│   └── InvalidCursor             a list cursor that is invalid, or belongs to another list
├── JobNotFound
│   └── VersionNotFound           the job has no such version (in `store.model.errors`)
├── AmbiguousId                   a short id that matches several jobs; has the candidates
├── SubscriptionNotFound          no durable subscription has this name
├── WaitTimeout                   the view did not reach a sequence in time
├── ProofError                    a proof does not show what it claims
├── AsOfBusy                      the snapshot for a point is not ready, or too many are being built
└── ViewError                     the SQLite file
    ├── TreeUnavailable           the view has no Merkle tree of that size
    ├── ViewMissing               no projector has created the file yet
    │   └── ViewReplaced          another file replaced it
    ├── ViewDamaged               the file cannot be read, or contradicts the log: it is rebuilt
    ├── ViewRebuilding            the view is being rebuilt from the log; try again later
    ├── ViewFromNewerRelease      created by a newer Jobledger
    ├── ViewBusy                  another process keeps it locked
    └── ViewUnwritable            read-only file or directory, full disk
"""

from collections.abc import Sequence

from jobledger.store.model.errors import InvalidInput, JobledgerError, VersionNotFound


class InvalidSelector(InvalidInput):
    """A label selector does not parse; the message shows where, and the grammar."""


class InvalidCursor(InvalidInput):
    """A list cursor is invalid, or belongs to a list with another order."""


class AmbiguousId(JobledgerError):
    """Several job ids start with this short id.

    Attributes:
        candidates: the first few ids.
    """

    def __init__(self, message: str, *, candidates: Sequence[str]) -> None:
        self.candidates = tuple(candidates)
        super().__init__(message)


class SubscriptionNotFound(JobledgerError):
    """No durable subscription has this name."""


class WaitTimeout(JobledgerError):
    """The view did not reach the sequence in time; it is catching up, or no projector is running."""


class AsOfBusy(JobledgerError):
    """The snapshot for a point is being built or waits for other builds; try again later.

    Attributes:
        retry_after_seconds: recommended wait.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class ViewError(JobledgerError):
    """A problem with the view's SQLite file."""


class ProofError(JobledgerError):
    """A proof, a root or a record is invalid."""


class TreeUnavailable(ViewError):
    """The view has no Merkle tree of that size: not yet, not beyond a hole in the log, or no tree."""


class ViewMissing(ViewError):
    """The view does not exist: start a projector on that path. A running projector creates it again."""


class ViewReplaced(ViewMissing):
    """Another file replaced the open one."""


class ViewDamaged(ViewError):
    """The file is not a database, or its content is damaged. A projector renames and rebuilds it."""


class ViewRebuilding(ViewError):
    """The view is being rebuilt from the log and is not yet complete."""


class ViewFromNewerRelease(ViewError):
    """The file was created by a newer Jobledger; upgrade this one, or use another file."""


class ViewBusy(ViewError):
    """Another process kept the file locked for longer than BUSY_TIMEOUT_SECONDS."""


class ViewUnwritable(ViewError):
    """The file cannot be written: permissions, a read-only file system, or a full disk.

    Attributes:
        may_be_damage: whether it is an I/O error, which may be permanent.
    """

    may_be_damage = False


__all__ = [
    "AmbiguousId",
    "AsOfBusy",
    "InvalidCursor",
    "InvalidSelector",
    "ProofError",
    "SubscriptionNotFound",
    "TreeUnavailable",
    "VersionNotFound",
    "ViewBusy",
    "ViewDamaged",
    "ViewError",
    "ViewFromNewerRelease",
    "ViewMissing",
    "ViewRebuilding",
    "ViewReplaced",
    "ViewUnwritable",
    "WaitTimeout",
]
