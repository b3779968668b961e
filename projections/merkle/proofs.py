"""Proofs of inclusion and consistency (RFC 9162): construction and verification.

Construction has two steps: a path names the ranges of leaves whose roots make up the proof; the caller reads
the nodes of these ranges and combines them. Verification accepts untrusted input: an invalid proof raises
`ProofError`, and nothing else is raised.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.hashing import EMPTY_ROOT, HASH_BYTES, node_hash
from jobledger.store.model.errors import InvalidInput


class Range(NamedTuple):
    """The leaves from `start` to `end`, exclusive."""

    start: int
    end: int


class Node(NamedTuple):
    """The root of a complete subtree with 2**level leaves; `position` counts subtrees of that size from 0."""

    level: int
    position: int


def inclusion_path(index: int, size: int) -> list[Range]:
    """The ranges whose roots prove that a tree has a leaf, from the leaf up (RFC 9162, section 2.1.3.1)."""
    if not 0 <= index < size:
        raise InvalidInput(f"leaf index {index!r:.40} is out of range for a tree of {size!r:.40} leaves")
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
    """The ranges whose roots prove that one tree is a prefix of another (RFC 9162, section 2.1.4.1)."""
    if not 0 <= old_size <= new_size:
        raise InvalidInput(f"old size must be 0..{new_size!r:.40}, got {old_size!r:.40}")
    path: list[Range] = []
    start, end = 0, new_size
    if old_size == 0:
        return path  # the empty tree is a prefix of every tree
    whole = True  # the old root is a node of the new tree, so the verifier knows it
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
    """The largest complete subtrees that a range of leaves consists of, from left to right."""
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
    """The root of a range of a proof, or of a whole tree.

    Args:
        leaves: the range; it starts where a complete subtree of at least its size starts.
        node_at: returns the hash of a complete subtree.
    """
    nodes = subtrees(leaves)
    if not nodes:
        return EMPTY_ROOT
    root = node_at(nodes[-1])
    for node in nodes[-2::-1]:
        root = node_hash(node_at(node), root)
    return root


def _split(width: int) -> int:
    """The number of leaves in the left subtree: the largest power of two less than `width`, from 2."""
    return 1 << ((width - 1).bit_length() - 1)


# --- verification (RFC 9162, sections 2.1.3.2 and 2.1.4.2)
# ------------------------------------------------------


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that a tree contains a leaf."""
    _check_hashes((leaf, root, *proof))
    if not 0 <= index < size:
        raise ProofError(f"leaf index {index!r:.40} is out of range for a tree of {size!r:.40} leaves")
    found = leaf
    for sibling, is_left in _siblings(index, size - 1, proof):
        found = node_hash(sibling, found) if is_left else node_hash(found, sibling)
    if found != root:
        raise ProofError(
            f"the proof for leaf {index} gives the root {found.hex()}, but the tree of {size} leaves has the"
            f" root {root.hex()}"
        )


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Verify that one tree is a prefix of another."""
    _check_hashes((old_root, new_root, *proof))
    if not 0 <= old_size <= new_size:
        raise ProofError(f"old size must be 0..{new_size!r:.40}, got {old_size!r:.40}")
    if old_size in {0, new_size}:
        known = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != known or (new_size == 0 and new_root != EMPTY_ROOT):
            raise _inconsistent(old_size, old_root, new_size, new_root)
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # the old tree is a complete subtree of the new one
        path.insert(0, old_root)
    if not path:
        raise _inconsistent(old_size, old_root, new_size, new_root)
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = path[0]
    for sibling, is_left in _siblings(position, last, path[1:]):
        if is_left:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    if old != old_root or new != new_root:
        raise _inconsistent(old_size, old_root, new_size, new_root)


def _siblings(position: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The hashes of a proof from a position to the root, and whether each is the left sibling."""
    for sibling in proof:
        if last == 0:
            raise ProofError(f"the proof has {len(proof)} hashes, more than the path to the root")
        is_left = bool(position & 1) or position == last
        if is_left:
            while not position & 1 and position:  # levels where the subtree has no sibling
                position, last = position >> 1, last >> 1
        position, last = position >> 1, last >> 1
        yield sibling, is_left
    if last:
        raise ProofError(f"the proof has {len(proof)} hashes, fewer than the path to the root")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for each in hashes:
        if len(each) != HASH_BYTES:
            raise ProofError(f"a hash of the tree must have {HASH_BYTES} bytes, got {len(each)}")


def _inconsistent(old_size: int, old_root: bytes, new_size: int, new_root: bytes) -> ProofError:
    return ProofError(
        f"the proof does not show that the tree of {new_size} leaves with the root {new_root.hex()} starts"
        f" with the {old_size} leaves with the root {old_root.hex()}"
    )
