"""What an audit can find, in one vocabulary for all the commands of audits. Pure."""

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What is wrong; the words of the metric, the webhook and docs/AUDIT.md."""

    REWRITE = "rewrite"  # a record is not the one that was there before
    TRUNCATION = "truncation"  # records that were there before are gone from the log's end
    HOLE = "hole"  # records are missing, or can't be read
    LINK = "link"  # an event names another one before it than the log has
    REPLACED = "replaced"  # it is another log: the stream was deleted and made again
    FORK = "fork"  # two seals by a known key, of which neither extends the other
    UNFIT = "unfit"  # a seal by a known key whose root is not that of the log
    UNKNOWN_KEY = "unknown_key"  # a seal that no known key has signed
    REPLICA = "replica"  # one copy of the log has lost events, or has others
    DAMAGED = "damaged"  # a seal, or a view's file, that can't be read
    STALE = "stale"  # no seal for longer than asked
    VIEW = "view"  # a row of the view is not what the log says
    TREE = "tree"  # the view's own tree is not that of the log


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong.

    Attributes:
        kind: what.
        message: where and how, in one sentence.
        sequence: the first event concerned; 0: it is about none in particular.
        last: the last event concerned, where it is a range; 0: it is not.
        job_id: the job concerned; empty: none in particular.
        column: `table.column` of the view; empty: it is not about one.
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
