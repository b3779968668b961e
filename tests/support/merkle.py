"""What the tests of the tree share: the RFC's own definition of it, and leaves."""

from collections.abc import Sequence
from hashlib import sha256

from jobledger.projections.merkle.hashing import hash_leaf


def mth(leaves: Sequence[bytes]) -> bytes:
    """The Merkle Tree Hash, word for word as RFC 6962 defines it in section 2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def numbered(count: int) -> list[bytes]:
    """Leaves that are all different."""
    return [hash_leaf(number.to_bytes(4, "big")) for number in range(count)]
