"""What to export: the query, its range in the log, and the chunks that a source yields. Pure."""

from typing import NamedTuple

import msgspec


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of an export, as the user gave them; empty: not given.

    Attributes:
        after: a cursor or a sequence; events after it.
        since: a point; events at it or later.
        until: a point; events up to and including it.
        job: a name or an ID.
        types: CloudEvents types.
    """

    after: str = ""
    since: str = ""
    until: str = ""
    namespace: str = ""
    job: str = ""
    types: frozenset[str] = frozenset()
    actors: frozenset[str] = frozenset()

    def matches(self, event_type: str, actor: str) -> bool:
        """Whether to export an event of this type and actor."""
        return (not self.types or event_type in self.types) and (not self.actors or actor in self.actors)


class ExportRange(NamedTuple):
    """The events after the sequence `after`, up to and including `end`; `stream_tag` is part of cursors."""

    stream_tag: str
    after: int
    end: int


class Chunk(NamedTuple):
    """Events that are written together.

    Attributes:
        documents: CloudEvents with their position in the stream, one line of JSON each.
        reached: every matching event up to this sequence is in this chunk or an earlier one.
        anomalies: records up to there that changed no job, and are omitted.
        read: the last sequence that was read, including events that are not exported.
    """

    documents: list[bytes]
    reached: int
    anomalies: int = 0
    read: int = 0
