"""Roots and proofs from a view's file, at every size up to the checkpoint: a tree only grows."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from jobledger.projections.errors import TreeUnavailable, ViewDamaged
from jobledger.projections.limits import PROOFS_AT_ONCE
from jobledger.projections.merkle.hashing import HASH_BYTES, pair_up
from jobledger.projections.merkle.proofs import (
    Node,
    Range,
    consistency_path,
    inclusion_path,
    range_root,
    subtrees,
)
from jobledger.projections.merkle.tree import (
    TILE_WIDTH,
    Tiles,
    place_of,
    split_hashes,
)
from jobledger.projections.view import View

_STATE: Final = "SELECT tree_size, tree_missing, sequence FROM checkpoint"
# One statement is one snapshot: hashes that move from the tail to a tile are in exactly one of them.
_WANTED: Final = (
    "SELECT t.level, t.position, t.hashes FROM json_each(?) AS wanted"
    " CROSS JOIN tree_tiles AS t ON t.level = json_extract(wanted.value, '$[0]')"
    " AND t.position = json_extract(wanted.value, '$[1]')"
    " UNION ALL SELECT -1, start, hashes FROM tree_tail"
    " UNION ALL SELECT -2, tree_size, NULL FROM checkpoint"
)
_HEAD: Final = "SELECT tree_size, sequence, epoch, time FROM checkpoint"
_LEAVES: Final = (
    "SELECT level, position, hashes FROM tree_tiles WHERE level = 0 AND position = ?"
    " UNION ALL SELECT level, position, hashes FROM tree_tiles WHERE level = 1 AND position = ?"
    " UNION ALL SELECT -1, start, hashes FROM tree_tail WHERE start >= ?"
)
_IN_TAIL: Final = -1
_SIZE: Final = -2


class TreeState(msgspec.Struct, frozen=True):
    """The extent of a view's tree.

    Attributes:
        size: number of leaves; leaf `sequence - 1` is the record at that sequence.
        missing: the first sequence that the log has lost, where the tree ends permanently; 0 if none.
        sequence: the view's checkpoint.
    """

    size: int
    missing: int
    sequence: int


class TreeHead(NamedTuple):
    """The extent of a tree, and the log it belongs to.

    Attributes:
        size: number of leaves.
        sequence: the view's checkpoint.
        epoch: of the log; empty if the view has not read any log.
        time: stream time of the record at the checkpoint, Unix nanoseconds.
    """

    size: int
    sequence: int
    epoch: str
    time: int


class TreeReader:
    """Roots and proofs from an open view, whose projector maintains the tree.

    Methods raise `TreeUnavailable` if the tree has fewer leaves, and `InvalidInput` for an index or a size
    out of range.
    """

    def __init__(self, view: View) -> None:
        self._path = view.path
        self._pool = view.pool

    async def state(self) -> TreeState:
        """The extent of the tree."""
        return TreeState(*(await self._pool.point_rows(_STATE))[0])

    async def root(self, size: int) -> bytes:
        """The root of the tree of this size."""
        [root] = await self._roots([Range(0, size)], size)
        return root

    async def leaves(self, first: int, last: int) -> list[bytes]:
        """The hashes of the records from `first` to `last`; the caller bounds the number."""
        return await self._roots([Range(at - 1, at) for at in range(first, last + 1)], last)

    async def head(self) -> TreeHead:
        """The extent of the tree with its log, in one snapshot."""
        [(size, sequence, epoch, time)] = await self._pool.point_rows(_HEAD)
        return TreeHead(size, sequence, epoch or "", time)

    async def tile(self, position: int) -> tuple[bytes, bool | None]:
        """The hashes of the leaves from `position * TILE_WIDTH`, and whether the tree confirms them.

        Returns:
            The hashes, concatenated, and whether the level above has their root; None if they are in the
            incomplete last tile, whose root is not stored.
        """
        rows = await self._pool.rows(_LEAVES, (position, position // TILE_WIDTH, position * TILE_WIDTH))
        tiles = {kind: hashes for kind, _, hashes in rows if kind >= 0}
        if (leaves := tiles.get(0)) is None:
            return b"".join(hashes for kind, _, hashes in sorted(rows) if kind == _IN_TAIL), None
        at = position % TILE_WIDTH * HASH_BYTES
        row = split_hashes(leaves)
        while len(row) > 1:
            row = pair_up(row)
        return leaves, [tiles.get(1, b"")[at : at + HASH_BYTES]] == row

    async def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """The proof that the tree of `old_size` is a prefix of the tree of `new_size`."""
        return await self._roots(consistency_path(old_size, new_size), new_size)

    async def inclusion(self, indexes: Sequence[int], size: int) -> list[list[bytes]]:
        """The proofs that the tree of this size has these leaves; the caller bounds the number."""
        proofs: list[list[bytes]] = []
        for start in range(0, len(indexes), PROOFS_AT_ONCE):
            paths = [inclusion_path(index, size) for index in indexes[start : start + PROOFS_AT_ONCE]]
            roots = iter(await self._roots([leaves for path in paths for leaves in path], size))
            proofs += [[next(roots) for _ in path] for path in paths]
        return proofs

    async def _roots(self, ranges: Sequence[Range], size: int) -> list[bytes]:
        """The roots of ranges of leaves, with one read."""
        tiles = await self._tiles((node for leaves in ranges for node in subtrees(leaves)), size)
        try:
            return [range_root(leaves, tiles.node_at) for leaves in ranges]
        except KeyError as error:
            damage = ViewDamaged(
                f"the Merkle tree in the view {self._path} has no node {error.args[0]}; a projector rebuilds"
                " it from the log"
            )
            self._pool.report_damage(damage)
            raise damage from error

    async def _tiles(self, nodes: Iterable[Node], size: int) -> Tiles:
        """The tiles that contain these nodes."""
        wanted = sorted({place_of(node)[0] for node in nodes})
        rows = await self._pool.rows(_WANTED, (msgspec.json.encode(wanted).decode(),))
        found = {(level, position): hashes for level, position, hashes in rows if level >= 0}
        [has] = [value for kind, value, _ in rows if kind == _SIZE]
        if not 0 <= size <= has:
            raise self._unavailable(await self.state(), size)
        tail = sorted((start, hashes) for kind, start, hashes in rows if kind == _IN_TAIL)
        if tail:
            found[0, tail[0][0] // TILE_WIDTH] = b"".join([hashes for _, hashes in tail])
        return Tiles(found)

    def _unavailable(self, state: TreeState, size: int) -> TreeUnavailable:
        if state.missing:
            why = (
                f"event {state.missing} is missing from the log, so the tree ends at {state.size};"
                " restore the stream from a backup that has the event"
            )
        elif state.size < state.sequence:
            why = "this view has no tree; start its projector with tree=True"
        else:
            why = f"it has {state.size}; wait for the view to catch up, or use a smaller size"
        return TreeUnavailable(f"the Merkle tree of this view has fewer than {size} leaves: {why}")
