"""The tree's edge, read from a view's file by the projector that goes on from there."""

from typing import Final

from jobledger.projections.database import Writer
from jobledger.projections.errors import ViewDamaged
from jobledger.projections.merkle.hashing import HASH_BYTES
from jobledger.projections.merkle.tiles import TILE_LEVELS, TILE_WIDTH, TileEdge, split_hashes
from jobledger.projections.merkle.tree import TreeKeeper, TreeMark

_TAIL: Final = "SELECT hashes FROM tree_tail ORDER BY start"
_TILE: Final = "SELECT hashes FROM tree_tiles WHERE level = ? AND position = ?"


async def load_tree(writer: Writer, mark: TreeMark) -> TreeKeeper:
    """The tree that a view's file holds, to go on from; inside the transaction that read its mark.

    Raises:
        ViewDamaged: if it does not hold what its checkpoint says.
    """
    rows = [b"".join([row[0] for row in await writer.rows(_TAIL)])]
    above = mark.size >> TILE_LEVELS
    while above:
        tile = await writer.row(_TILE, (len(rows), above >> TILE_LEVELS)) if above % TILE_WIDTH else None
        rows.append(tile[0] if tile else b"")
        above >>= TILE_LEVELS
    for level, hashes in enumerate(rows):
        count = (mark.size >> (TILE_LEVELS * level)) % TILE_WIDTH
        if len(hashes) != count * HASH_BYTES:
            raise ViewDamaged(
                f"the Merkle tree in the view {writer.path} has {len(hashes) // HASH_BYTES} hashes where its"
                f" checkpoint says {count}; delete the file: it is rebuilt from the log"
            )
    return TreeKeeper(TileEdge(mark.size, tuple(tuple(split_hashes(row)) for row in rows)), mark.missing)
