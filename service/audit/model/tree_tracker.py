"""The Merkle tree of a log as an auditor remembers it: enough to notice a later change of the past. Pure.

    anchor ──── pending ────► size            the leaves read so far
      │            │
      └ last seal  └ hashes since then: the size of the next seal is most likely in between

A seal is published after the events that it covers, so the root at its size must be computable when the
reader is already beyond that size. The tracker therefore keeps the right edge of the tree at the last seal
(the anchor), and up to a limit the leaf hashes after it. Marks, a bounded number of roots along the way,
narrow down where a past was changed.
"""

from collections.abc import Iterable, Sequence
from typing import Self

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.service.limits import TREE_TRACKER_MARKS_MAX, TREE_TRACKER_PENDING_MAX_LEAVES


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The root of the tree at a size, when the log was read that far."""

    size: int
    root: bytes


class TreeTracker:
    """Reads leaves in order, and computes roots of sizes not before the anchor.

    Attributes:
        marks: roots along the way, by size; the last one is the anchor's.
    """

    def __init__(self, anchor: Frontier | None = None, marks: Sequence[Mark] = ()) -> None:
        self._anchor = anchor or Frontier()
        self._newest = Frontier.from_bytes(self._anchor.to_bytes())
        self._pending: list[bytes] = []
        self.marks = [*marks]

    @property
    def anchor_size(self) -> int:
        """The smallest size that `root_at` can compute."""
        return self._anchor.size

    @property
    def size(self) -> int:
        """The number of leaves read."""
        return self._newest.size

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves; beyond the limit of pending hashes the anchor advances."""
        before = len(self._pending)
        self._pending.extend(leaves)
        self._newest.extend(self._pending[before:])
        excess = len(self._pending) - TREE_TRACKER_PENDING_MAX_LEAVES
        if excess > 0:
            self.advance_anchor(self._anchor.size + excess)

    def advance_anchor(self, size: int) -> None:
        """Advance the anchor to a size; smaller ones can't be computed afterwards."""
        count = size - self._anchor.size
        if count > 0:
            assert count <= len(self._pending)
            self._anchor.extend(self._pending[:count])
            del self._pending[:count]
            self._mark()

    def root_at(self, size: int) -> bytes | None:
        """Return the root at a size that was reached, and advance the anchor to it.

        None for a size before the anchor without a mark.
        """
        if size < self._anchor.size:
            return next((mark.root for mark in reversed(self.marks) if mark.size == size), None)
        self.advance_anchor(size)
        return self._anchor.root()

    def root(self) -> bytes:
        """Return the root of all leaves read; the anchor does not move."""
        return self._newest.root()

    def anchor_bytes(self) -> bytes:
        """Return the anchor for `at_anchor`."""
        return self._anchor.to_bytes()

    @classmethod
    def at_anchor(cls, anchor: bytes, marks: Sequence[Mark]) -> Self:
        """Return a tracker that has read up to the anchor of `anchor_bytes`.

        Raises:
            InvalidInput: the bytes are not an anchor.
        """
        return cls(Frontier.from_bytes(anchor), marks)

    def _mark(self) -> None:
        marks = self.marks
        marks.append(Mark(self._anchor.size, self._anchor.root()))
        if len(marks) > TREE_TRACKER_MARKS_MAX:
            # Keep marks spread over the whole past, and free half of the capacity.
            apart = 2 * self._anchor.size // TREE_TRACKER_MARKS_MAX
            spread = marks[:1]
            for mark in marks[1:-1]:
                if mark.size - spread[-1].size > apart:
                    spread.append(mark)
            self.marks = [*spread, marks[-1]]
