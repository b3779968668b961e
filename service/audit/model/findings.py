"""Findings: what the audit commands report, in one vocabulary. Pure."""

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The kind of a finding, as the metric, the webhook and docs/AUDIT.md name it."""

    REWRITE = "rewrite"  # a record differs from the one that was there before
    TRUNCATION = "truncation"  # records at the end of the log are missing
    HOLE = "hole"  # records are missing, or can't be read
    LINK = "link"  # an event names another predecessor than the log has
    REPLACED = "replaced"  # another log: the stream was deleted and created again
    FORK = "fork"  # two seals by a known key, neither of which extends the other
    UNFIT = "unfit"  # a seal by a known key with another root than the log has
    UNKNOWN_KEY = "unknown_key"  # a seal that no known key signed
    REPLICA = "replica"  # one copy of the log lost events, or has different ones
    DAMAGED = "damaged"  # a seal or a view file that can't be read
    STALE = "stale"  # no seal for longer than requested
    VIEW = "view"  # a row of the view differs from the log
    TREE = "tree"  # the tree of the view differs from that of the log


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One problem.

    Attributes:
        kind: the kind of problem.
        message: where and how, in one sentence.
        sequence: the first affected event; 0 if none in particular.
        last: the last affected event of a range; 0 if it is not a range.
        job_id: the affected job; empty if none in particular.
        column: the affected `table.column` of the view; empty if none.
    """

    kind: Kind
    message: str
    sequence: int = 0
    last: int = 0
    job_id: str = ""
    column: str = ""

    def __str__(self) -> str:
        """`kind: message`."""
        return f"{self.kind.value}: {self.message}"
