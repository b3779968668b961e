"""The tree in tiles, as it is kept: 256 hashes wide and 8 levels high, the shape of C2SP `tlog-tiles`.

A tile of level 0 holds the hashes of leaves, one of level 1 the roots of 256 complete tiles of level 0, and
so on. What is between two levels of tiles is not kept: it is hashed again when a proof needs it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from jobledger.projections.merkle.hashing import HASH_BYTES, pair_up
from jobledger.projections.merkle.ranges import Node

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
