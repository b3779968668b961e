"""The tree as the projector keeps it: it grows in the checkpoint's transaction, or not at all. Pure.

Leaf `sequence - 1` is the record at that sequence. A stream that lists a sequence as deleted has no such
record, so nothing after it can have its place: the tree ends there for good, says so, and the view goes on.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.projections.merkle.tiles import TILE_WIDTH, Growth, TileEdge
from jobledger.store.model.events import Record

TREE_TABLES: Final = ("tree_tiles", "tree_tail")

_PUT_TILE: Final = (
    "INSERT INTO tree_tiles (level, position, hashes) VALUES {values}"
    " ON CONFLICT (level, position) DO UPDATE SET hashes = excluded.hashes"
)
_DROP_TAIL: Final = "DELETE FROM tree_tail WHERE start < {values}"

Work = list[tuple[str, Sequence[Sequence[object]]]]


class TreeMark(NamedTuple):
    """What the checkpoint says of the tree.

    Attributes:
        size: leaves.
        missing: the first sequence that the log has lost; 0: none.
    """

    size: int
    missing: int


class TreeStep(NamedTuple):
    """What one batch adds to the tree.

    Attributes:
        mark: what the checkpoint is to say then.
        tail: new hashes of leaves that stand in no complete tile; the checkpoint takes them along.
        work: statements with their rows, for the batch's transaction; none for most live events.
    """

    mark: TreeMark
    tail: bytes
    work: Work


NO_TREE: Final = TreeMark(0, 0)
NO_STEP: Final = TreeStep(NO_TREE, b"", [])


class TreeKeeper:
    """The tree's right edge in memory, ahead of the file by what is being written; `load_tree` makes it."""

    def __init__(self, edge: TileEdge, missing: int) -> None:
        self._edge = edge
        self._missing = missing

    def step(self, records: Sequence[Record], up_to: int = 0) -> TreeStep:
        """Append records; if writing the step fails, the tree must be loaded again.

        Args:
            records: all that follow what was appended before, in order.
            up_to: without any, the last sequence that is missing after it.
        """
        if not records and not self._missing and up_to > self._edge.size:
            self._missing = self._edge.size + 1
        whole = self._until_hole(records) if records and not self._missing else ()
        growth = self._edge.grow(leaf_hashes(whole))
        self._edge = growth.edge
        return TreeStep(TreeMark(self._edge.size, self._missing), growth.tail, _work(growth))

    def _until_hole(self, records: Sequence[Record]) -> Sequence[Record]:
        """Those of these records before which none is missing; notes the first that is."""
        first = self._edge.size + 1
        if records[-1].sequence == first + len(records) - 1:  # sequences only rise, so none is left out
            return records
        for index, record in enumerate(records):
            if record.sequence != first + index:
                self._missing = first + index
                return records[:index]
        raise AssertionError(f"records {first} to {records[-1].sequence} do not rise")


def _work(growth: Growth) -> Work:
    """The statements that keep what a tree grew by, but its tail."""
    if not growth.is_new_tail:
        return []
    start = growth.edge.size - growth.edge.size % TILE_WIDTH
    return [(_DROP_TAIL, [(start,)]), (_PUT_TILE, growth.tiles)]
