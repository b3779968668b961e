"""Everything that can go wrong on the read side, under the one root of `store.errors`.

JobledgerError
├── InvalidInput
│   ├── InvalidSelector           a label selector that does not parse
│   └── InvalidCursor             a list's cursor that is not ours, or of another list
├── JobNotFound
│   └── VersionNotFound           the job exists, that version of it does not (of `store.errors`)
├── AmbiguousId                   a short id that several jobs begin with; carries the candidates
├── SubscriptionNotFound          there is no durable subscription of that name
├── WaitTimeout                   the view did not reach a sequence in time
├── ProofError                    a proof does not show what it is said to
├── AsOfBusy                      the view as of a point is not ready yet, or too many points are asked for
└── ViewError                     the SQLite file
    ├── TreeUnavailable           the view has no Merkle tree, or none of that size
    ├── ViewMissing               a reader came before any projector made the file
    │   └── ViewReplaced          another file is in its place
    ├── ViewDamaged               SQLite can't read it, or its rows contradict the log: it is rebuilt
    ├── ViewRebuilding            it is being rebuilt from the log; ask again
    ├── ViewFromNewerRelease      made by a newer Jobledger
    ├── ViewBusy                  another process keeps it locked
    └── ViewUnwritable            read-only file or directory, full disk
"""

from collections.abc import Sequence

from jobledger.store.model.errors import InvalidInput, JobledgerError, VersionNotFound


class InvalidSelector(InvalidInput):
    """A label selector does not parse; the message shows where, and the grammar."""


class InvalidCursor(InvalidInput):
    """A list cursor is not one of ours, or belongs to a list with another order."""


class AmbiguousId(JobledgerError):
    """Several jobs begin with this short id.

    Attributes:
        candidates: the ids of the first few.
    """

    def __init__(self, message: str, *, candidates: Sequence[str]) -> None:
        self.candidates = tuple(candidates)
        super().__init__(message)


class SubscriptionNotFound(JobledgerError):
    """There is no durable subscription of that name."""


class WaitTimeout(JobledgerError):
    """The view did not reach the sequence in time; it may be catching up, or no projector runs."""


class AsOfBusy(JobledgerError):
    """The view as of a point is being made, or waits for others that are; ask again.

    Attributes:
        retry_after_seconds: when.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class ViewError(JobledgerError):
    """Something about the SQLite file rather than about a job."""


class ProofError(JobledgerError):
    """A proof, a root or a record does not check out: what it is said to show is not shown."""


class TreeUnavailable(ViewError):
    """The view has no Merkle tree of that size: not yet, not behind a hole in the log, or none at all."""


class ViewMissing(ViewError):
    """There is no view: start a projector on that path. A running projector makes it again."""


class ViewReplaced(ViewMissing):
    """Another file was put in the place of the one that is open."""


class ViewDamaged(ViewError):
    """The file is not a database, or its content is damaged. A projector moves it aside and rebuilds it."""


class ViewRebuilding(ViewError):
    """The view is being rebuilt from the log, and does not have yet what it had before."""


class ViewFromNewerRelease(ViewError):
    """The file was made by a newer Jobledger; upgrade this one, or use another file."""


class ViewBusy(ViewError):
    """Another process kept the file locked for longer than the named limit."""


class ViewUnwritable(ViewError):
    """The file can't be written: permissions, a read-only file system, or no space.

    Attributes:
        may_be_damage: whether it is an I/O error, which a file can have for good.
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
