"""What is to be told again, as the user asked it. Pure."""

from typing import NamedTuple

import msgspec


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One question; texts as they were given, empty where nothing was.

    Attributes:
        after: a cursor or a sequence: what came behind it.
        since: a point: what came then or later.
        until: a point: what came up to then, that one included.
        namespace: only of jobs of this one.
        job: only of this job, by name or id.
        types: only events of any of these CloudEvents types.
        actors: only events of any of these.
    """

    after: str = ""
    since: str = ""
    until: str = ""
    namespace: str = ""
    job: str = ""
    types: frozenset[str] = frozenset()
    actors: frozenset[str] = frozenset()

    def passes(self, kind: str, actor: str) -> bool:
        """Whether an event of this type and actor is told."""
        return (not self.types or kind in self.types) and (not self.actors or actor in self.actors)


class Range(NamedTuple):
    """Where the telling begins and ends.

    Attributes:
        mark: of the stream, for cursors.
        after: the sequence behind which it begins.
        end: the last sequence.
    """

    mark: str
    after: int
    end: int


class Chunk(NamedTuple):
    """Events that are told together.

    Attributes:
        documents: the CloudEvents with their place in the stream, one line of JSON each.
        reached: all up to this sequence was told, or is not asked for.
        anomalies: records up to there that changed no job, and so are left out.
        read: all up to this sequence was read, what is not told included.
    """

    documents: list[bytes]
    reached: int
    anomalies: int = 0
    read: int = 0
