"""The three hashes of the tree, and the bytes of a record that a leaf is the hash of.

A leaf and a node are hashed behind different first bytes, so that neither can pass for the other (RFC 6962,
section 2.1). docs/AUDIT.md has the encoding with a worked example.
"""

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from jobledger.projections.errors import ProofError
from jobledger.store.model.events import Record

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of the tree without leaves."""

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
# Sequence, stream time (Unix nanoseconds), length of the subject in bytes; all big-endian. The payload is
# last, and so needs no length.
_HEAD: Final = struct.Struct(">QQH")
_LEAF_HEAD: Final = struct.Struct(">BQQH")  # the same, behind the byte of a leaf


def record_bytes(record: Record) -> bytes:
    """A record as the tree knows it: no two different records have the same bytes.

    Raises:
        ProofError: for a record that no log can hold: a number out of range, a subject that is too long.
    """
    try:
        subject = record.subject.encode()
        return _HEAD.pack(record.sequence, record.time, len(subject)) + subject + record.payload
    except (struct.error, UnicodeEncodeError) as error:
        raise _no_record(record) from error


def leaf_hash(record: Record) -> bytes:
    """The hash of a record's leaf.

    Raises:
        ProofError: for a record that no log can hold.
    """
    return hash_leaf(record_bytes(record))


def leaf_hashes(records: Iterable[Record]) -> list[bytes]:
    """The hashes of many records' leaves: `leaf_hash` without a call and a copy for each.

    Raises:
        ProofError: for a record that no log can hold.
    """
    pack, digest_of = _LEAF_HEAD.pack, sha256
    hashes: list[bytes] = []
    for record in records:
        try:
            subject = record.subject.encode()
            head = pack(0, record.sequence, record.time, len(subject))
        except (struct.error, UnicodeEncodeError) as error:
            raise _no_record(record) from error
        hashes.append(digest_of(head + subject + record.payload).digest())
    return hashes


def hash_leaf(entry: bytes) -> bytes:
    """The hash of the leaf that holds these bytes."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two others."""
    return sha256(_NODE + left + right).digest()


def pair_up(hashes: list[bytes]) -> list[bytes]:
    """The nodes above each two of a row; the last of an odd number has no pair, and is left out."""
    digest_of = sha256
    pairs = zip(hashes[::2], hashes[1::2], strict=False)
    return [digest_of(b"\x01" + left + right).digest() for left, right in pairs]


def _no_record(record: Record) -> ProofError:
    return ProofError(
        f"no log holds a record of sequence {record.sequence!r:.40}, time {record.time!r:.40} and a subject"
        f" of {len(record.subject)} characters: it has no place in the tree"
    )
