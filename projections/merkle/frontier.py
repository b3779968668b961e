"""A growing tree that stores only its right edge, at most about 60 hashes.

This is enough for the root after each leaf: an auditor that reads a log from end to end needs no more.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from jobledger.projections.merkle.hashing import EMPTY_ROOT, HASH_BYTES, node_hash
from jobledger.store.model.errors import InvalidInput

_SIZE_BYTES = 8


class Frontier:
    """The right edge of a tree."""

    def __init__(self, size: int = 0, edge: Sequence[bytes] = ()) -> None:
        """A tree of this size, whose complete subtrees have these roots, from left to right."""
        if size < 0 or len(edge) != size.bit_count() or any(len(each) != HASH_BYTES for each in edge):
            raise InvalidInput(
                f"the edge of a tree of {size!r:.40} leaves does not consist of these {len(edge)} hashes"
            )
        self.size = size
        self._edge = list(edge)

    def append(self, leaf: bytes) -> None:
        """Append the hash of a leaf."""
        edge, size = self._edge, self.size
        while size & 1:  # two complete subtrees of one size become one of the next
            leaf = node_hash(edge.pop(), leaf)
            size >>= 1
        edge.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append the hashes of leaves."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The root of the tree."""
        if not self._edge:
            return EMPTY_ROOT
        root = self._edge[-1]
        for left in self._edge[-2::-1]:
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """Encode the edge: the size in 8 bytes, big-endian, then the hashes."""
        return self.size.to_bytes(_SIZE_BYTES, "big") + b"".join(self._edge)

    @classmethod
    def from_bytes(cls, kept: bytes) -> Self:
        """Decode what `to_bytes` returned."""
        hashes = kept[_SIZE_BYTES:]
        if len(kept) < _SIZE_BYTES or len(hashes) % HASH_BYTES:
            raise InvalidInput(
                f"{len(kept)} bytes are not the edge of a tree: expected 8 plus a multiple of {HASH_BYTES}"
            )
        edge = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
        return cls(int.from_bytes(kept[:_SIZE_BYTES], "big"), edge)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree over the hashes of leaves."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()
