"""The tree as the projector keeps it: it grows in the checkpoint's transaction, or not at all. Pure.

Leaf `sequence - 1` is the record at that sequence. A stream that lists a sequence as deleted has no such
record, so nothing after it can have its place: the tree ends there for good, says so, and the view goes on.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from jobledger.projections.merkle.hashing import HASH_BYTES, leaf_hashes, pair_up
from jobledger.projections.merkle.proofs import Node
from jobledger.store.model.events import Record

TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 1 << TILE_LEVELS


class TileRow(NamedTuple):
    """A tile, or as much of it as there is."""

    level: int
    position: int
    hashes: bytes


class Growth(NamedTuple):
    """What appending leaves comes to.

    Attributes:
        edge: the tree's edge afterwards.
        tiles: those that are complete now, and those of level 1 and above that have more hashes than before.
        tail: hashes of leaves that stand in no complete tile, to be kept behind what is kept of them already.
        is_new_tail: whether nothing of what is kept of them already is still in the tail.
    """

    edge: "TileEdge"
    tiles: list[TileRow]
    tail: bytes
    is_new_tail: bool


class TileEdge(NamedTuple):
    """The incomplete tiles at the right edge of a tree: a value, which growing leaves as it is.

    Attributes:
        size: leaves in the tree.
        rows: the hashes in the incomplete tile of each level, from level 0 up.
    """

    size: int = 0
    rows: tuple[tuple[bytes, ...], ...] = ((),)

    def grow(self, leaves: Sequence[bytes]) -> Growth:
        """The tree with more leaves' hashes at its end."""
        first = self.rows[0]
        if len(first) + len(leaves) < TILE_WIDTH:  # one event that just came: nothing else is touched
            edge = TileEdge(self.size + len(leaves), ((*first, *leaves), *self.rows[1:]))
            return Growth(edge, [], b"".join(leaves), is_new_tail=False)
        rows: list[tuple[bytes, ...]] = []
        tiles: list[TileRow] = []
        level, came = 0, leaves
        while came or level < len(self.rows):
            hashes = [*(self.rows[level] if level < len(self.rows) else ()), *came]
            position = self.size >> (TILE_LEVELS * (level + 1))
            roots: list[bytes] = []
            for at in range(0, len(hashes) - TILE_WIDTH + 1, TILE_WIDTH):
                tile = hashes[at : at + TILE_WIDTH]
                tiles.append(TileRow(level, position + len(roots), b"".join(tile)))
                roots.append(_root_of_tile(tile))
            rest = hashes[len(roots) * TILE_WIDTH :]
            if level and came and rest:
                tiles.append(TileRow(level, position + len(roots), b"".join(rest)))
            rows.append(tuple(rest))
            level, came = level + 1, roots
        edge = TileEdge(self.size + len(leaves), tuple(rows))
        return Growth(edge, tiles, b"".join(rows[0]), is_new_tail=True)


class Tiles:
    """Some tiles of a tree, from which the nodes in them can be told.

    Args:
        tiles: the hashes of each tile, by level and position.
    """

    def __init__(self, tiles: dict[tuple[int, int], bytes]) -> None:
        self._tiles = {place: [split_hashes(hashes)] for place, hashes in tiles.items()}

    def node_at(self, node: Node) -> bytes:
        """The hash of a complete subtree.

        Raises:
            KeyError: if it does not stand in one of these tiles.
        """
        place, height, at = place_of(node)
        rows = self._tiles[place]
        while len(rows) <= height:
            rows.append(pair_up(rows[-1]))
        if at >= len(rows[height]):
            raise KeyError(node)
        return rows[height][at]


def place_of(node: Node) -> tuple[tuple[int, int], int, int]:
    """Where a node stands: level and position of its tile, the height in it, the place at that height."""
    level, height = divmod(node.level, TILE_LEVELS)
    width = TILE_LEVELS - height
    return (level, node.position >> width), height, node.position & ((1 << width) - 1)


def split_hashes(hashes: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def _root_of_tile(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = pair_up(row)
    return row[0]


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
