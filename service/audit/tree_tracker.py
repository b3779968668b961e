"""What an auditor remembers of a log: enough to notice later that its past was changed. Pure.

    anchor ──── pending ────► size            the leaves that were read
      │            │
      └ a seal fitted here    hashes since then: the next seal is most likely of a size in between

A seal comes after the events that it covers, so the tree of its size must be told when the reader is beyond
it already: the right edge is kept at the last seal, and the hashes of what came after it are kept beside it,
up to a named limit. Marks, a bounded number of roots along the way, tell between which two events a past was
changed.
"""

from collections.abc import Iterable, Sequence
from typing import Self

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.service.limits import WITNESS_MARKS_MAX, WITNESS_PENDING_MAX_LEAVES


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The root of the tree at a size, as it was when the log was read that far."""

    size: int
    root: bytes


class Witness:
    """Reads leaves in order, and tells the roots of trees of sizes that it has not gone past.

    Attributes:
        marks: roots along the way, in the order of their sizes; the last is the anchor's.
    """

    def __init__(self, anchor: Frontier | None = None, marks: Sequence[Mark] = ()) -> None:
        self._anchor = anchor or Frontier()
        self._newest = Frontier.from_bytes(self._anchor.to_bytes())
        self._pending: list[bytes] = []
        self.marks = [*marks]

    @property
    def anchor_size(self) -> int:
        """The smallest size that `root_at` can still tell."""
        return self._anchor.size

    @property
    def size(self) -> int:
        """How many leaves were read."""
        return self._newest.size

    def add(self, leaves: Iterable[bytes]) -> None:
        """Read on; beyond the limit of what is kept, the oldest can be sealed no more."""
        before = len(self._pending)
        self._pending.extend(leaves)
        self._newest.extend(self._pending[before:])
        excess = len(self._pending) - WITNESS_PENDING_MAX_LEAVES
        if excess > 0:
            self.settle(self._anchor.size + excess)

    def settle(self, size: int) -> None:
        """Go on to a size: nobody will ask for a smaller one."""
        count = size - self._anchor.size
        if count > 0:
            assert count <= len(self._pending)
            self._anchor.extend(self._pending[:count])
            del self._pending[:count]
            self._mark()

    def root_at(self, size: int) -> bytes | None:
        """The root of the tree of this size; None if it is smaller than the anchor, and no mark has it.

        The size must have been reached. It becomes the anchor.
        """
        if size < self._anchor.size:
            return next((mark.root for mark in reversed(self.marks) if mark.size == size), None)
        self.settle(size)
        return self._anchor.root()

    def root(self) -> bytes:
        """The root of all that was read; the anchor stays."""
        return self._newest.root()

    def anchor_bytes(self) -> bytes:
        """The anchor as it can be kept."""
        return self._anchor.to_bytes()

    @classmethod
    def at_anchor(cls, anchor: bytes, marks: Sequence[Mark]) -> Self:
        """A witness that has read up to the anchor that `anchor_bytes` kept.

        Raises:
            InvalidInput: if these bytes are none.
        """
        return cls(Frontier.from_bytes(anchor), marks)

    def _mark(self) -> None:
        marks = self.marks
        marks.append(Mark(self._anchor.size, self._anchor.root()))
        if len(marks) > WITNESS_MARKS_MAX:
            # Those that stay are spread over all of the past, and half of the room is free again.
            apart = 2 * self._anchor.size // WITNESS_MARKS_MAX
            spread = marks[:1]
            for mark in marks[1:-1]:
                if mark.size - spread[-1].size > apart:
                    spread.append(mark)
            self.marks = [*spread, marks[-1]]
