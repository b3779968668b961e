"""Which hashes a proof is made of, as ranges of leaves, and how such a range falls into complete subtrees.

Nothing is hashed here: a reader finds out first what it needs, reads that, and then puts it together.
"""

from collections.abc import Callable
from typing import NamedTuple

from jobledger.projections.merkle.hashing import EMPTY_ROOT, node_hash
from jobledger.store.model.errors import InvalidInput


class Range(NamedTuple):
    """The leaves from `start` up to `end`, which is not one of them."""

    start: int
    end: int


class Node(NamedTuple):
    """The root of a complete subtree: it has 2**level leaves, and is the position-th of its size, from 0."""

    level: int
    position: int


def inclusion_path(index: int, size: int) -> list[Range]:
    """The ranges whose roots prove that a leaf is in a tree, from the leaf up (RFC 9162, section 2.1.3.1).

    Args:
        index: of the leaf, from 0.
        size: of the tree, in leaves.

    Raises:
        InvalidInput: if the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise InvalidInput(f"a tree of {size!r:.40} leaves has no leaf {index!r:.40}; they count from 0")
    path: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(Range(middle, end))
            end = middle
        else:
            path.append(Range(start, middle))
            start = middle
    return path[::-1]


def consistency_path(old_size: int, new_size: int) -> list[Range]:
    """The ranges whose roots prove that a tree begins with another (RFC 9162, section 2.1.4.1).

    Args:
        old_size: of the tree that is said to be the beginning, in leaves.
        new_size: of the other one.

    Raises:
        InvalidInput: if the first is larger than the second, or negative.
    """
    if not 0 <= old_size <= new_size:
        raise InvalidInput(
            f"no tree of {new_size!r:.40} leaves begins with one of {old_size!r:.40}; swap them, or ask for"
            " sizes from 0"
        )
    path: list[Range] = []
    start, end = 0, new_size
    if old_size == 0:
        return path  # every tree begins with the empty one
    whole = True  # the old root itself is a node of the new tree, and so known
    while old_size < end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(Range(middle, end))
            end = middle
        else:
            path.append(Range(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(Range(start, end))
    return path[::-1]


def subtrees(leaves: Range) -> list[Node]:
    """The largest complete subtrees that a range of leaves falls into, from left to right."""
    nodes: list[Node] = []
    start, end = leaves
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def range_root(leaves: Range, node_at: Callable[[Node], bytes]) -> bytes:
    """The root of the leaves of a range that a proof asks for, or of a whole tree.

    Args:
        leaves: the range; it begins where a subtree does that could hold all of it.
        node_at: gives the hash of a complete subtree.
    """
    nodes = subtrees(leaves)
    if not nodes:
        return EMPTY_ROOT
    root = node_at(nodes[-1])
    for node in nodes[-2::-1]:
        root = node_hash(node_at(node), root)
    return root


def _split(width: int) -> int:
    """The largest power of two below a width that is 2 or more: how many leaves go to the left."""
    return 1 << ((width - 1).bit_length() - 1)
