"""Checking proofs with no more than roots, a leaf and some hashes, as RFC 9162 says (2.1.3.2 and 2.1.4.2).

Everything here may come from a stranger. A proof that is not the right one raises `ProofError`; nothing else
is ever raised.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.hashing import EMPTY_ROOT, HASH_BYTES, node_hash
from jobledger.store.model.errors import InvalidInput


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Make sure that a leaf is the index-th of the tree of this size and root.

    Args:
        leaf: the leaf's hash.
        index: from 0.
        size: of the tree, in leaves.
        proof: the hashes beside the way from the leaf to the root.
        root: of the tree.

    Raises:
        ProofError: if the proof does not show that.
    """
    _check_hashes((leaf, root, *proof))
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size!r:.40} leaves has no leaf {index!r:.40}")
    found = leaf
    place, last = index, size - 1
    for sibling in proof:
        if last == 0:
            raise ProofError(
                f"the proof has {len(proof)} hashes, more than lead from leaf {index} to the root"
            )
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while not place & 1 and place:  # levels where the leaf's subtree has no neighbour
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"the proof has {len(proof)} hashes, fewer than lead from leaf {index} to the root")
    if found != root:
        raise ProofError(
            f"the proof leads from leaf {index} to the root {found.hex()}, and the tree of {size} leaves has"
            f" the root {root.hex()}"
        )


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Make sure that one tree begins with another, leaf for leaf.

    Args:
        old_size: of the tree that is said to be the beginning, in leaves.
        old_root: its root.
        new_size: of the other one.
        new_root: its root.
        proof: the hashes that both are put together from.

    Raises:
        ProofError: if the proof does not show that.
    """
    _check_hashes((old_root, new_root, *proof))
    if not 0 <= old_size <= new_size:
        raise ProofError(f"no tree of {new_size!r:.40} leaves begins with one of {old_size!r:.40}")
    if old_size in {0, new_size}:
        known = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != known or (new_size == 0 and new_root != EMPTY_ROOT):
            raise _inconsistent(old_size, old_root, new_size, new_root)
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # the old tree is one subtree of the new one
        path.insert(0, old_root)
    if not path:
        raise _inconsistent(old_size, old_root, new_size, new_root)
    old, new = _lead_up(old_size, new_size, path)
    if old != old_root or new != new_root:
        raise _inconsistent(old_size, old_root, new_size, new_root)


def _lead_up(old_size: int, new_size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of both trees that a way up leads to."""
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError(f"the proof has more hashes than lead to a tree of {new_size} leaves")
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"the proof has fewer hashes than lead to a tree of {new_size} leaves")
    return old, new


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for each in hashes:
        if len(each) != HASH_BYTES:
            raise ProofError(f"a hash of the tree has {HASH_BYTES} bytes, and one of these has {len(each)}")


def _inconsistent(old_size: int, old_root: bytes, new_size: int, new_root: bytes) -> ProofError:
    return ProofError(
        f"the tree of {new_size} leaves with the root {new_root.hex()} was not shown to begin with the"
        f" {old_size} leaves whose root is {old_root.hex()}"
    )


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
