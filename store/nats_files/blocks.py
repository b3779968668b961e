"""The files in which nats-server keeps a stream, read without the server. Pure.

A message block (`msgs/N.blk`) is a sequence of records, nats-server `server/filestore.go`:

    u32 length (top bit: has headers) | u64 sequence | i64 time | u16 subject length
    | subject | [u32 header length, headers] | payload | u64 checksum

The checksum is HighwayHash-64 with the key SHA-256("<stream>-<block number>"). The two top bits of a sequence
mark a tombstone and an erased record. `meta.inf` (JSON) has its checksum, in hex, in `meta.sum`.

A compressed block is `cmp`, one byte of algorithm, the length as uvarint, an S2 stream, and the eight bytes
of the last record's checksum as they were. Decoded, it is what the server has in memory after it read it.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from jobledger.store.model import events
from jobledger.store.nats_files.highwayhash import highwayhash64
from jobledger.store.nats_files.s2 import S2Error, decode_stream, read_uvarint

HEAD: Final = struct.Struct("<IQqH")
HAS_HEADERS: Final = 1 << 31
ERASED: Final = 1 << 63
TOMBSTONE: Final = 1 << 62
CHECKSUM: Final = struct.Struct("<Q")
BLOCK_SUFFIX: Final = ".blk"
INDEX_FILE: Final = "index.db"
_EXPIRES: Final = b"Nats-TTL:"  # the header of a message that is removed after a time
_MARK: Final = b"cmp"  # how a block begins that an older release had compressed
_S2: Final = 1
_BLOCK_MAX_BYTES: Final = 256 * 1_048_576  # nats-server's are 8 MiB, larger only for a single huge message
SECTOR_BYTES: Final = 512  # what a disk writes in one piece: a torn write ends at a multiple of it
RECORD_MAX_BYTES: Final = 32 * 1_048_576  # nats-server calls a longer record bad
_LARGEST_STEP: Final = 1_000_000  # how far apart two sequences may be for the second one to be believed


class Record(NamedTuple):
    """Where a record is.

    Attributes:
        offset: of its first byte.
        length: in bytes.
        sequence: with the bits `ERASED` and `TOMBSTONE`.
    """

    offset: int
    length: int
    sequence: int

    @property
    def is_event(self) -> bool:
        """Whether it holds a message, and not the mark of one that was deleted."""
        return 0 < self.sequence < TOMBSTONE


class Tail(NamedTuple):
    """What follows the last record that can be read.

    Attributes:
        offset: of the first byte that belongs to no readable record.
        is_torn: whether a write that was cut off explains it; otherwise something changed the file.
    """

    offset: int
    is_torn: bool


def is_compressed(start: bytes) -> bool:
    """Whether a block that begins with these bytes is compressed."""
    return start.startswith(_MARK)


def decompress(block: bytes) -> bytes:
    """A block as it is without compression.

    Raises:
        S2Error: if it is damaged.
    """
    if not is_compressed(block):
        return block
    if len(block) < len(_MARK) + 2 + CHECKSUM.size or block[len(_MARK)] != _S2:
        raise S2Error("the block's header is not one of S2")
    size, at = read_uvarint(block, len(_MARK) + 1)
    if size > _BLOCK_MAX_BYTES:
        raise S2Error(f"the block would have {size} bytes")
    content = decode_stream(block[at : -CHECKSUM.size]) + block[-CHECKSUM.size :]
    if len(content) != size:
        raise S2Error(f"the block has {len(content)} bytes instead of {size}")
    return content


def block_key(stream: str, number: int) -> bytes:
    """The key of a block's checksums."""
    return hashlib.sha256(f"{stream}-{number}".encode()).digest()


def meta_checksum(name: str, meta: bytes) -> bytes:
    """What `meta.sum` holds for this `meta.inf`.

    Args:
        name: of the stream; of a consumer `<stream>/<consumer>`.
        meta: the content of `meta.inf`.
    """
    value = highwayhash64(hashlib.sha256(name.encode()).digest(), meta)
    return CHECKSUM.pack(value).hex().encode()


def record_at(block: bytes, offset: int) -> Record | None:
    """The record that begins there, if its lengths make sense; its checksum is not looked at."""
    if offset + HEAD.size > len(block):
        return None
    flags, sequence, _, subject = HEAD.unpack_from(block, offset)
    length = flags & ~HAS_HEADERS
    needed = HEAD.size + subject + (4 if flags & HAS_HEADERS else 0) + CHECKSUM.size
    if not needed <= length <= RECORD_MAX_BYTES or offset + length > len(block):
        return None
    return Record(offset, length, sequence)


def records(block: bytes, offset: int = 0) -> Iterator[Record]:
    """The records from an offset on, as far as their lengths lead from one to the next."""
    while (record := record_at(block, offset)) is not None:
        yield record
        offset += record.length


def messages(block: bytes) -> list[events.Record]:
    """The messages of a block, as far as their lengths lead from one to the next; no checksum is verified."""
    found: list[events.Record] = []
    for offset, length, sequence in records(block):
        if not 0 < sequence < TOMBSTONE:
            continue
        flags, _, time, size = HEAD.unpack_from(block, offset)
        start, end = offset + HEAD.size + size, offset + length - CHECKSUM.size
        subject = block[start - size : start].decode(errors="replace")
        if flags & HAS_HEADERS:
            start += 4 + int.from_bytes(block[start : start + 4], "little")
        found.append(events.Record(sequence, time, subject, block[start:end]))
    return found


def most_expiring(block: bytes) -> int:
    """At most how many messages of a block expire: more if the header's name is also in a payload.

    A compressed block is not decoded for this: its length is more than it can be.
    """
    return len(block) if is_compressed(block) else block.count(_EXPIRES)


def is_sound(block: bytes, record: Record, key: bytes) -> bool:
    """Whether the record's checksum is right."""
    flags, _, _, subject = HEAD.unpack_from(block, record.offset)
    start, end = record.offset + HEAD.size, record.offset + record.length - CHECKSUM.size
    rest = start + subject + (4 if flags & HAS_HEADERS else 0)  # the length of the headers is not covered
    covered = block[record.offset + 4 : record.offset + 20] + block[start : start + subject] + block[rest:end]
    return bool(CHECKSUM.unpack_from(block, end)[0] == highwayhash64(key, covered))


def sound_records(block: bytes, key: bytes) -> Iterator[Record]:
    """The records whose checksums are right; damage between them is skipped, byte by byte if need be."""
    offset = last = 0
    while offset < len(block):
        record = record_at(block, offset)
        if record is not None and is_sound(block, record, key):
            last = max(last, record.sequence & ~(ERASED | TOMBSTONE))
            offset += record.length
            yield record
            continue
        if record is not None and _follows(block, record, key):  # damage within one record
            offset += record.length
            continue
        offset = _next_sound(block, offset + 1, last, key)


def _follows(block: bytes, record: Record, key: bytes) -> bool:
    after = record_at(block, record.offset + record.length)
    return after is not None and is_sound(block, after, key)


def _next_sound(block: bytes, offset: int, last: int, key: bytes) -> int:
    """The offset of the next record with a believable sequence and the right checksum, else the end."""
    for at in range(offset, len(block) - HEAD.size):
        sequence = int.from_bytes(block[at + 4 : at + 12], "little") & ~(ERASED | TOMBSTONE)
        if last < sequence <= last + _LARGEST_STEP or (not last and sequence):
            record = record_at(block, at)
            if record is not None and is_sound(block, record, key):
                return at
    return len(block)


def last_sequence(block: bytes, before: int, key: bytes) -> int:
    """The highest sequence in a block: a damaged one may be anything, so only what can be right counts.

    Args:
        block: its content.
        before: the highest sequence before it; 0 if that is not known.
        key: of the block's checksums.
    """
    last = before
    for record in records(block):
        sequence = record.sequence & ~(ERASED | TOMBSTONE)
        if sequence == last + 1 or (sequence > last and is_sound(block, record, key)):
            last = sequence
    return last


def first_sequence(start: bytes) -> int:
    """The first sequence of a block, from its first bytes; 0 if there is none to be read."""
    if len(start) < HEAD.size or is_compressed(start):
        return 0
    return int(HEAD.unpack_from(start)[1]) & ~(ERASED | TOMBSTONE)


def tail_after(block: bytes, last: int, key: bytes) -> Tail | None:
    """What a block holds after the record of sequence `last`; None if nothing does.

    A write that was cut off (`kill -9`, power loss) leaves a prefix of a record, or sectors of zeros. All
    else was complete once, so it was acknowledged, or may have been.
    """
    if is_compressed(block):
        return None
    offset = previous = 0
    for record in records(block):
        if record.is_event:
            if not previous < record.sequence <= last:
                break
            previous = record.sequence
        elif not is_sound(block, record, key):
            break
        offset = record.offset + record.length
    rest = block[offset:]
    if not rest:
        return None
    return Tail(offset, _is_torn(rest, offset, last, key))


def _is_torn(rest: bytes, offset: int, last: int, key: bytes) -> bool:
    if _has_empty_sector(rest, offset):
        return True
    if len(rest) < HEAD.size:
        return True
    if record_at(rest, 0) is not None:  # complete, and yet the server could not read it
        return False
    flags, sequence, _, _ = HEAD.unpack_from(rest)
    if sequence != last + 1 or not len(rest) < flags & ~HAS_HEADERS <= RECORD_MAX_BYTES:
        return False  # no beginning of the next record
    whole = struct.pack("<I", len(rest) | flags & HAS_HEADERS) + rest[4:]
    found = record_at(whole, 0)
    if found is not None and is_sound(whole, found, key):  # only its length is wrong
        return False
    return _next_sound(rest, 1, last, key) == len(rest)


def _has_empty_sector(rest: bytes, offset: int) -> bool:
    """Whether a sector of the disk within these bytes is all zeros: it was allocated and never written."""
    at = -offset % SECTOR_BYTES
    pieces = [rest[:at]] if at >= CHECKSUM.size else []
    pieces += [rest[start : start + SECTOR_BYTES] for start in range(at, len(rest), SECTOR_BYTES)]
    return any(len(piece) >= CHECKSUM.size and not piece.strip(b"\0") for piece in pieces)


def mark_of_sequence(sequence: int, time: int, key: bytes) -> bytes:
    """A record that says that this sequence existed and is gone: the next message gets the one after it."""
    length = HEAD.size + CHECKSUM.size
    head = HEAD.pack(length, sequence | ERASED, time, 0)
    return head + CHECKSUM.pack(highwayhash64(key, head[4:20]))
