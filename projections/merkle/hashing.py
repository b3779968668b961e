"""The hashes of the tree, and the encoding of a record as a leaf.

Leaves and nodes are hashed with different prefixes, so that one cannot be presented as the other (RFC 6962,
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
"""The root of the empty tree."""

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
# Sequence, stream time (Unix nanoseconds), length of the subject in bytes; all big-endian. The payload comes
# last, so it needs no length.
_HEAD: Final = struct.Struct(">QQH")
_LEAF_HEAD: Final = struct.Struct(">BQQH")  # the same, after the prefix of a leaf


def record_bytes(record: Record) -> bytes:
    """The content of a record's leaf; different records have different bytes.

    Raises:
        ProofError: if no log can hold the record: a number is out of range, or the subject too long.
    """
    try:
        subject = record.subject.encode()
        return _HEAD.pack(record.sequence, record.time, len(subject)) + subject + record.payload
    except (struct.error, UnicodeEncodeError) as error:
        raise _no_record(record) from error


def leaf_hash(record: Record) -> bytes:
    """The hash of a record's leaf."""
    return hash_leaf(record_bytes(record))


def leaf_hashes(records: Iterable[Record]) -> list[bytes]:
    """The hashes of many records' leaves; avoids a call and a copy per record."""
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
    """The hash of a leaf with this content."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the parent of two nodes."""
    return sha256(_NODE + left + right).digest()


def pair_up(hashes: list[bytes]) -> list[bytes]:
    """The parents of each pair of nodes in a row; an unpaired last node is dropped."""
    digest_of = sha256
    pairs = zip(hashes[::2], hashes[1::2], strict=False)
    return [digest_of(b"\x01" + left + right).digest() for left, right in pairs]


def _no_record(record: Record) -> ProofError:
    return ProofError(
        f"invalid record: no log holds sequence {record.sequence!r:.40} with time {record.time!r:.40} and a"
        f" subject of {len(record.subject)} characters"
    )
