"""The Merkle tree in tiles, and its growth batch by batch. Pure.

A tile is 256 hashes wide and 8 levels high, as in C2SP `tlog-tiles`. A tile of level 0 holds the hashes of
leaves, a tile of level 1 the roots of 256 complete tiles of level 0, and so on. The levels between are not
stored; they are hashed again when a proof needs them.

Leaf `sequence - 1` is the record at that sequence. If the stream lost a sequence, no later record can have
its position, so the tree ends there permanently; the view continues without it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from jobledger.projections.merkle.hashing import HASH_BYTES, leaf_hashes, pair_up
from jobledger.projections.merkle.proofs import Node
from jobledger.store.model.events import Record

TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 1 << TILE_LEVELS


class TileRow(NamedTuple):
    """A tile, possibly incomplete."""

    level: int
    position: int
    hashes: bytes


class Growth(NamedTuple):
    """The result of appending leaves.

    Attributes:
        edge: the new right edge of the tree.
        tiles: tiles that are complete now, and tiles of level 1 and above that grew.
        tail: new hashes of leaves outside complete tiles, to append to those stored.
        is_new_tail: whether the stored tail is obsolete, because its leaves are in complete tiles now.
    """

    edge: "TileEdge"
    tiles: list[TileRow]
    tail: bytes
    is_new_tail: bool


class TileEdge(NamedTuple):
    """The incomplete tiles at the right edge of a tree. Immutable: `grow` returns a new edge.

    Attributes:
        size: leaves in the tree.
        rows: the hashes in the incomplete tile of each level, from level 0 up.
    """

    size: int = 0
    rows: tuple[tuple[bytes, ...], ...] = ((),)

    def grow(self, leaves: Sequence[bytes]) -> Growth:
        """Append the hashes of leaves."""
        first = self.rows[0]
        if len(first) + len(leaves) < TILE_WIDTH:  # the common case: one live event
            edge = TileEdge(self.size + len(leaves), ((*first, *leaves), *self.rows[1:]))
            return Growth(edge, [], b"".join(leaves), is_new_tail=False)
        rows: list[tuple[bytes, ...]] = []
        tiles: list[TileRow] = []
        level, added = 0, leaves
        while added or level < len(self.rows):
            hashes = [*(self.rows[level] if level < len(self.rows) else ()), *added]
            position = self.size >> (TILE_LEVELS * (level + 1))
            roots: list[bytes] = []
            for at in range(0, len(hashes) - TILE_WIDTH + 1, TILE_WIDTH):
                tile = hashes[at : at + TILE_WIDTH]
                tiles.append(TileRow(level, position + len(roots), b"".join(tile)))
                roots.append(_root_of_tile(tile))
            rest = hashes[len(roots) * TILE_WIDTH :]
            if level and added and rest:
                tiles.append(TileRow(level, position + len(roots), b"".join(rest)))
            rows.append(tuple(rest))
            level, added = level + 1, roots
        edge = TileEdge(self.size + len(leaves), tuple(rows))
        return Growth(edge, tiles, b"".join(rows[0]), is_new_tail=True)


class Tiles:
    """Nodes of a tree, computed from some of its tiles.

    Args:
        tiles: the hashes of each tile, by level and position.
    """

    def __init__(self, tiles: dict[tuple[int, int], bytes]) -> None:
        self._tiles = {place: [split_hashes(hashes)] for place, hashes in tiles.items()}

    def node_at(self, node: Node) -> bytes:
        """The hash of a complete subtree.

        Raises:
            KeyError: if it is in none of these tiles.
        """
        place, height, at = place_of(node)
        rows = self._tiles[place]
        while len(rows) <= height:
            rows.append(pair_up(rows[-1]))
        if at >= len(rows[height]):
            raise KeyError(node)
        return rows[height][at]


def place_of(node: Node) -> tuple[tuple[int, int], int, int]:
    """The level and position of a node's tile, and the node's height and index in the tile."""
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


class TreeExtent(NamedTuple):
    """The extent of a tree, as the checkpoint records it.

    Attributes:
        size: number of leaves.
        missing: the first sequence that the log has lost; 0 if none.
    """

    size: int
    missing: int


class TreeStep(NamedTuple):
    """The changes that one batch makes to the tree.

    Attributes:
        extent: after the batch, for the checkpoint.
        tail: new hashes of leaves outside complete tiles, written with the checkpoint.
        work: statements with their rows, for the batch's transaction; empty for most live events.
    """

    extent: TreeExtent
    tail: bytes
    work: Work


NO_TREE: Final = TreeExtent(0, 0)
NO_STEP: Final = TreeStep(NO_TREE, b"", [])


class TreeKeeper:
    """The right edge of the tree in memory; ahead of the file while a batch is written."""

    def __init__(self, edge: TileEdge, missing: int) -> None:
        self._edge = edge
        self._missing = missing

    def step(self, records: Sequence[Record], up_to: int = 0) -> TreeStep:
        """Append records. If writing the step fails, the tree must be loaded again.

        Args:
            records: all records after those appended before, in order.
            up_to: without records, the last of the sequences that are missing next.
        """
        if not records and not self._missing and up_to > self._edge.size:
            self._missing = self._edge.size + 1
        whole = self._until_hole(records) if records and not self._missing else ()
        growth = self._edge.grow(leaf_hashes(whole))
        self._edge = growth.edge
        return TreeStep(TreeExtent(self._edge.size, self._missing), growth.tail, _work(growth))

    def _until_hole(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records before the first missing sequence, which is recorded."""
        first = self._edge.size + 1
        if records[-1].sequence == first + len(records) - 1:  # sequences only increase, so none is missing
            return records
        for index, record in enumerate(records):
            if record.sequence != first + index:
                self._missing = first + index
                return records[:index]
        raise AssertionError(f"records {first} to {records[-1].sequence} are not in order")


def _work(growth: Growth) -> Work:
    """The statements that store a growth, except its tail."""
    if not growth.is_new_tail:
        return []
    start = growth.edge.size - growth.edge.size % TILE_WIDTH
    return [(_DROP_TAIL, [(start,)]), (_PUT_TILE, growth.tiles)]
