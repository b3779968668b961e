"""The tree is that of RFC 6962 and RFC 9162: public vectors, and the RFC's definition."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import (
    EMPTY_ROOT,
    hash_leaf,
    leaf_hash,
    leaf_hashes,
    node_hash,
    record_bytes,
)
from jobledger.projections.merkle.proofs import (
    consistency_path,
    inclusion_path,
    verify_consistency,
    verify_inclusion,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from tests.support.proofs import mth, numbered

# The vectors of Certificate Transparency, as its implementations share them (transparency-dev/merkle).
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
_G = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSIONS: list[tuple[int, int, list[str]]] = [
    (0, 1, []),
    (0, 8, [_A, _B, _C]),
    (5, 8, [_D, _E, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], _B, _D]),
]
CONSISTENCIES: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (1, 8, [_A, _B, _C]),
    (6, 8, [_F, _E, ROOTS[4]]),
    (2, 5, [_B, _D]),
    (6, 7, [_F, _G, ROOTS[4]]),
]
LEAVES = [hash_leaf(entry) for entry in INPUTS]


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    return [mth(leaves[start:end]) for start, end in inclusion_path(index, len(leaves))]


def consistency(leaves: Sequence[bytes], old: int) -> list[bytes]:
    return [mth(leaves[start:end]) for start, end in consistency_path(old, len(leaves))]


def hexed(hashes: Sequence[bytes]) -> list[str]:
    return [each.hex() for each in hashes]


def test_the_roots_are_those_of_the_public_vectors() -> None:
    """Every tree of the first 0 to 8 published entries has the published root."""
    assert [root_of(LEAVES[:size]).hex() for size in range(9)] == ROOTS
    assert EMPTY_ROOT.hex() == ROOTS[0]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSIONS)
def test_the_inclusion_proofs_are_those_of_the_public_vectors(
    index: int, size: int, proof: list[str]
) -> None:
    """The published proofs are built, hash for hash, and verify."""
    assert hexed(inclusion(LEAVES[:size], index)) == proof
    verify_inclusion(
        LEAVES[index], index, size, [bytes.fromhex(each) for each in proof], bytes.fromhex(ROOTS[size])
    )


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCIES)
def test_the_consistency_proofs_are_those_of_the_public_vectors(old: int, new: int, proof: list[str]) -> None:
    """The published proofs are built, hash for hash, and verify."""
    assert hexed(consistency(LEAVES[:new], old)) == proof
    verify_consistency(
        old,
        bytes.fromhex(ROOTS[old]),
        new,
        bytes.fromhex(ROOTS[new]),
        [bytes.fromhex(each) for each in proof],
    )


def test_every_leaf_of_every_small_tree_is_provable() -> None:
    """For each size to 40 and each leaf, the proof verifies, and for no other leaf."""
    for size in range(1, 41):
        leaves = numbered(size)
        root = mth(leaves)
        for index in range(size):
            proof = inclusion(leaves, index)
            verify_inclusion(leaves[index], index, size, proof, root)
            with pytest.raises(ProofError):
                verify_inclusion(leaves[index - 1] if size > 1 else b"x" * 32, index, size, proof, root)


def test_every_small_tree_is_a_prefix_of_every_larger_one() -> None:
    """For each two sizes to 40 the consistency proof verifies; with another old root it does not."""
    leaves = numbered(40)
    for new in range(41):
        for old in range(new + 1):
            proof = consistency(leaves[:new], old)
            verify_consistency(old, mth(leaves[:old]), new, mth(leaves[:new]), proof)
            with pytest.raises(ProofError):
                verify_consistency(old, b"x" * 32, new, mth(leaves[:new]), proof)


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSIONS)
def test_a_wrong_inclusion_proof_is_rejected(index: int, size: int, proof: list[str]) -> None:
    """Another index, size, leaf or root, a hash too many or too few, a flipped bit."""
    leaf, root = LEAVES[index], bytes.fromhex(ROOTS[size])
    good = [bytes.fromhex(each) for each in proof]
    other = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")
    spoilt: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (leaf, index - 1, size, good, root),
        (leaf, index + 1, size, good, root),
        (leaf, index ^ 2, size, good, root),
        (leaf, index, size * 2, good, root),
        (leaf, index, size // 2, good, root),
        (b"WrongLeaf", index, size, good, root),
        (leaf, index, size, good, EMPTY_ROOT),
        (leaf, index, size, good, other),
        (leaf, index, size, [*good, b""], root),
        (leaf, index, size, [*good, root], root),
        (leaf, index, size, [b"", *good], root),
        (leaf, index, size, [root, *good], root),
        *((leaf, index, size, good[:at] + good[at + 1 :], root) for at in range(len(good))),
        *(
            (leaf, index, size, [*good[:at], _flipped(good[at]), *good[at + 1 :]], root)
            for at in range(len(good))
        ),
    ]
    for arguments in spoilt:
        with pytest.raises(ProofError):
            verify_inclusion(*arguments)


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCIES[1:])
def test_a_wrong_consistency_proof_is_rejected(old: int, new: int, proof: list[str]) -> None:
    """Other sizes, other roots, swapped ones, a hash too many or too few, a flipped bit."""
    first, second = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    good = [bytes.fromhex(each) for each in proof]
    spoilt: list[tuple[int, bytes, int, bytes, list[bytes]]] = [
        (old - 1, first, new, second, good),
        (old + 1, first, new, second, good),
        (old ^ 2, first, new, second, good),
        (old, first, new * 2, second, good),
        (old, first, new // 2, second, good),
        (old, b"WrongRoot", new, second, good),
        (old, first, new, b"WrongRoot", good),
        (old, second, new, first, good),
        (old, first, new, second, []),
        *((old, first, new, second, [*good, more]) for more in (b"", first, second)),
        *((old, first, new, second, [more, *good]) for more in (b"", first, second, good[0])),
        (old, first, new, second, good[:-1]),
        *(
            (old, first, new, second, [*good[:at], _flipped(good[at]), *good[at + 1 :]])
            for at in range(len(good))
        ),
    ]
    for arguments in spoilt:
        with pytest.raises(ProofError):
            verify_consistency(*arguments)


@pytest.mark.parametrize(
    ("old", "new", "first", "second", "proof"),
    [
        (0, 0, EMPTY_ROOT, LEAVES[0], []),
        (0, 0, LEAVES[0], LEAVES[0], []),
        (0, 0, EMPTY_ROOT, EMPTY_ROOT, [EMPTY_ROOT]),
        (0, 1, LEAVES[1], LEAVES[0], []),
        (0, 1, EMPTY_ROOT, LEAVES[0], [LEAVES[0]]),
        (1, 1, LEAVES[0], LEAVES[1], []),
        (1, 1, LEAVES[0], LEAVES[0], [LEAVES[0]]),
        (1, 0, LEAVES[0], EMPTY_ROOT, []),
        (2, 1, LEAVES[0], LEAVES[0], []),
        (1, 2, LEAVES[0], LEAVES[1], []),
        (3, 4, LEAVES[0], LEAVES[1], []),
        (-1, 2, LEAVES[0], LEAVES[1], []),
    ],
)
def test_a_consistency_proof_with_inconsistent_sizes_is_rejected(
    old: int, new: int, first: bytes, second: bytes, proof: list[bytes]
) -> None:
    """Equal sizes with different roots, a tree that shrinks, a proof where none is needed."""
    with pytest.raises(ProofError):
        verify_consistency(old, first, new, second, proof)


def test_a_record_is_encoded_as_documented() -> None:
    """Sequence and time, the subject after its length, the payload; a 0x00 byte marks a leaf."""
    record = Record(7, 1_760_000_000_000_000_001, "jobs.default.03.j-1", b'{"a":1}')
    encoded = bytes.fromhex("0000000000000007186cc6acd4b000010013") + b"jobs.default.03.j-1" + b'{"a":1}'
    assert record_bytes(record) == encoded
    assert leaf_hash(record) == sha256(b"\x00" + encoded).digest()
    assert leaf_hashes([record, record]) == [leaf_hash(record)] * 2


@given(
    st.lists(
        st.builds(
            Record, st.integers(0, 2), st.integers(0, 2), st.text("ab\x00", max_size=3), st.binary(max_size=3)
        ),
        max_size=6,
    )
)
def test_different_records_have_different_bytes(records: list[Record]) -> None:
    """No part of one field can be taken for part of another."""
    distinct = {(each.sequence, each.time, each.subject, each.payload) for each in records}
    assert len({record_bytes(each) for each in records}) == len(distinct)


@pytest.mark.parametrize(
    "record",
    [
        Record(-1, 0, "a", b""),
        Record(1 << 64, 0, "a", b""),
        Record(1, -1, "a", b""),
        Record(1, 0, "a" * 65_536, b""),
        Record(1, 0, "\ud800", b""),
    ],
)
def test_a_record_that_no_log_can_hold_has_no_leaf(record: Record) -> None:
    """Numbers beyond 8 bytes, a subject beyond 65,535 bytes or not UTF-8: a ProofError."""
    with pytest.raises(ProofError, match="invalid record: no log holds"):
        leaf_hash(record)
    with pytest.raises(ProofError, match="invalid record: no log holds"):
        leaf_hashes([record])


def test_a_leaf_is_not_a_node() -> None:
    """A leaf with the bytes of two hashes is not their parent."""
    assert hash_leaf(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3)])
def test_a_path_to_a_missing_leaf_is_invalid_input(index: int, size: int) -> None:
    """So is a path to a larger tree."""
    with pytest.raises(InvalidInput, match="is out of range for a tree"):
        inclusion_path(index, size)
    with pytest.raises(InvalidInput, match="old size must be"):
        consistency_path(size + 1, size)


def _flipped(each: bytes) -> bytes:
    return bytes([each[0] ^ 8]) + each[1:]
