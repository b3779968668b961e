"""However a tree is stored, by its right edge or in tiles, it is the same tree."""

import pytest
from hypothesis import given, strategies as st

from jobledger.projections.merkle.frontier import Frontier, root_of
from jobledger.projections.merkle.proofs import Node, Range, range_root
from jobledger.projections.merkle.tree import TILE_WIDTH, TileEdge, Tiles
from jobledger.store.model.errors import InvalidInput
from tests.support.proofs import mth, numbered


@given(st.integers(0, 700), st.data())
def test_a_range_is_combined_from_complete_subtrees(size: int, data: st.DataObject) -> None:
    """The root of any tree, from the roots of its complete subtrees, is the one that the RFC defines."""
    leaves = numbered(size)
    start = data.draw(st.sampled_from([0, *(1 << n for n in range(9) if 1 << n < max(size, 2))]))

    def node_at(node: Node) -> bytes:
        return mth(leaves[node.position << node.level : (node.position + 1) << node.level])

    end = min(size, 2 * start) if start else size
    assert range_root(Range(start, max(start, end)), node_at) == mth(leaves[start : max(start, end)])


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_frontier_survives_encoding(first: int, more: int) -> None:
    """Appending, encoding, decoding and appending more gives the root of all leaves."""
    leaves = numbered(first + more)
    frontier = Frontier()
    frontier.extend(leaves[:first])
    again = Frontier.from_bytes(frontier.to_bytes())
    again.extend(leaves[first:])
    assert (again.size, again.root()) == (first + more, mth(leaves))


@pytest.mark.parametrize("kept", [b"", b"\0" * 7, b"\0" * 9, b"\0" * 40, b"\0" * 7 + b"\1"])
def test_invalid_frontier_bytes_are_refused(kept: bytes) -> None:
    """Another length, or a size that has another number of subtrees."""
    with pytest.raises(InvalidInput, match="edge of a tree"):
        Frontier.from_bytes(kept)


@given(st.lists(st.sampled_from([1, 1, 2, 100, 255, 256, 257, 700]), max_size=12))
def test_tiles_hold_every_node_however_the_tree_grew(portions: list[int]) -> None:
    """However leaves were batched, the tiles and the tail give each complete subtree's root."""
    leaves = numbered(sum(portions))
    edge, tiles, tail = TileEdge(), dict[tuple[int, int], bytes](), b""
    for portion in portions:
        growth = edge.grow(leaves[edge.size : edge.size + portion])
        tail = growth.tail if growth.is_new_tail else tail + growth.tail
        tiles.update({(tile.level, tile.position): tile.hashes for tile in growth.tiles})
        edge = growth.edge
    assert tail == b"".join(edge.rows[0]) == b"".join(leaves[len(leaves) - len(leaves) % TILE_WIDTH :])
    tiles[0, edge.size // TILE_WIDTH] = tail
    known = Tiles(tiles)
    assert range_root(Range(0, edge.size), known.node_at) == root_of(leaves)
    for level in range(edge.size.bit_length()):
        for position in {0, (edge.size >> level) - 1}:
            part = leaves[position << level : (position + 1) << level]
            assert known.node_at(Node(level, position)) == root_of(part)


def test_a_tile_of_the_third_level_grows() -> None:
    """65,536 leaves and one more: a complete tile of level 1, and the first hash of level 2."""
    leaves = numbered(65_537)
    growth = TileEdge().grow(leaves[:65_535])
    assert [tile.level for tile in growth.tiles].count(1) == 1
    growth = growth.edge.grow(leaves[65_535:])
    assert [(tile.level, tile.position, len(tile.hashes) // 32) for tile in growth.tiles] == [
        (0, 255, 256),
        (1, 0, 256),
        (2, 0, 1),
    ]
    assert growth.tiles[2].hashes == root_of(leaves[:65_536])


def test_a_node_outside_the_tiles_is_not_found() -> None:
    """A node of another tile, or beyond what a tile has."""
    known = Tiles({(0, 0): b"".join(numbered(3))})
    for node in (Node(0, 3), Node(1, 1), Node(0, 256), Node(8, 0)):
        with pytest.raises(KeyError):
            known.node_at(node)
