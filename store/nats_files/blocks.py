"""The files in which nats-server keeps a stream, read without the server. Pure.

A message block (`msgs/N.blk`) is a sequence of records, nats-server `server/filestore.go`:

    u32 length (top bit: has headers) | u64 sequence | i64 time | u16 subject length
    | subject | [u32 header length, headers] | payload | u64 checksum

The checksum is HighwayHash-64 with the key SHA-256("<stream>-<block number>"). The two top bits of a sequence
mark a tombstone and an erased record. `meta.inf` (JSON) has its checksum, in hex, in `meta.sum`.

A compressed block is `cmp`, one byte for the algorithm, the length as uvarint, an S2 stream, and the eight
bytes of the last record's checksum, uncompressed. Decoded, it is what the server has in memory after reading.
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
_EXPIRES: Final = b"Nats-TTL:"  # the header of a message that expires
_MARK: Final = b"cmp"  # the start of a block that an older release compressed
_S2: Final = 1
_BLOCK_MAX_BYTES: Final = 256 * 1_048_576  # nats-server's are 8 MiB, larger only for a single huge message
SECTOR_BYTES: Final = 512  # a disk writes whole sectors: a torn write ends at a multiple of it
RECORD_MAX_BYTES: Final = 32 * 1_048_576  # nats-server rejects a longer record
_LARGEST_STEP: Final = 1_000_000  # a sequence further beyond the previous one is not plausible


class Record(NamedTuple):
    """The position of a record in its block.

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
        """Whether it is a message, and not the mark of a deleted one."""
        return 0 < self.sequence < TOMBSTONE


class Tail(NamedTuple):
    """What follows the last readable record.

    Attributes:
        offset: of the first byte that belongs to no readable record.
        is_torn: an interrupted write explains it; otherwise something changed the file.
    """

    offset: int
    is_torn: bool


def is_compressed(start: bytes) -> bool:
    """Whether a block that starts with these bytes is compressed."""
    return start.startswith(_MARK)


def decompress(block: bytes) -> bytes:
    """Returns a block without compression.

    Raises:
        S2Error: it is damaged.
    """
    if not is_compressed(block):
        return block
    if len(block) < len(_MARK) + 2 + CHECKSUM.size or block[len(_MARK)] != _S2:
        raise S2Error("the block does not have the header of S2")
    size, at = read_uvarint(block, len(_MARK) + 1)
    if size > _BLOCK_MAX_BYTES:
        raise S2Error(f"the block must have at most {_BLOCK_MAX_BYTES} bytes, its header has {size}")
    content = decode_stream(block[at : -CHECKSUM.size]) + block[-CHECKSUM.size :]
    if len(content) != size:
        raise S2Error(f"the block has {len(content)} bytes instead of {size}")
    return content


def block_key(stream: str, number: int) -> bytes:
    """Returns the key of a block's checksums."""
    return hashlib.sha256(f"{stream}-{number}".encode()).digest()


def meta_checksum(name: str, meta: bytes) -> bytes:
    """Returns the content of `meta.sum` for a `meta.inf`.

    Args:
        name: of the stream; of a consumer `<stream>/<consumer>`.
        meta: the content of `meta.inf`.
    """
    value = highwayhash64(hashlib.sha256(name.encode()).digest(), meta)
    return CHECKSUM.pack(value).hex().encode()


def record_at(block: bytes, offset: int) -> Record | None:
    """Returns the record at an offset if its lengths are plausible; its checksum is not verified."""
    if offset + HEAD.size > len(block):
        return None
    flags, sequence, _, subject = HEAD.unpack_from(block, offset)
    length = flags & ~HAS_HEADERS
    needed = HEAD.size + subject + (4 if flags & HAS_HEADERS else 0) + CHECKSUM.size
    if not needed <= length <= RECORD_MAX_BYTES or offset + length > len(block):
        return None
    return Record(offset, length, sequence)


def records(block: bytes, offset: int = 0) -> Iterator[Record]:
    """Returns the records from an offset on, until one has an implausible length."""
    while (record := record_at(block, offset)) is not None:
        yield record
        offset += record.length


def messages(block: bytes) -> list[events.Record]:
    """Returns the messages of a block, until a record has an implausible length; verifies no checksum."""
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
    """Returns an upper bound of the messages of a block that expire; a payload may contain the header's name.

    A compressed block is not decoded for this: its length is an upper bound too.
    """
    return len(block) if is_compressed(block) else block.count(_EXPIRES)


def is_sound(block: bytes, record: Record, key: bytes) -> bool:
    """Whether the record's checksum is correct."""
    flags, _, _, subject = HEAD.unpack_from(block, record.offset)
    start, end = record.offset + HEAD.size, record.offset + record.length - CHECKSUM.size
    rest = start + subject + (4 if flags & HAS_HEADERS else 0)  # the length of the headers is not covered
    covered = block[record.offset + 4 : record.offset + 20] + block[start : start + subject] + block[rest:end]
    return bool(CHECKSUM.unpack_from(block, end)[0] == highwayhash64(key, covered))


def sound_records(block: bytes, key: bytes) -> Iterator[Record]:
    """Returns the records with correct checksums; skips damage between them, byte by byte if necessary."""
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
    """The offset of the next record with a plausible sequence and a correct checksum, else the end."""
    for at in range(offset, len(block) - HEAD.size):
        sequence = int.from_bytes(block[at + 4 : at + 12], "little") & ~(ERASED | TOMBSTONE)
        if last < sequence <= last + _LARGEST_STEP or (not last and sequence):
            record = record_at(block, at)
            if record is not None and is_sound(block, record, key):
                return at
    return len(block)


def last_sequence(block: bytes, before: int, key: bytes) -> int:
    """Returns the highest plausible sequence in a block: that of a damaged record may be any number.

    Args:
        block: its content.
        before: the highest sequence before it; 0 if unknown.
        key: of the block's checksums.
    """
    last = before
    for record in records(block):
        sequence = record.sequence & ~(ERASED | TOMBSTONE)
        if sequence == last + 1 or (sequence > last and is_sound(block, record, key)):
            last = sequence
    return last


def first_sequence(start: bytes) -> int:
    """Returns the first sequence of a block, from its first bytes; 0 if it cannot be read."""
    if len(start) < HEAD.size or is_compressed(start):
        return 0
    return int(HEAD.unpack_from(start)[1]) & ~(ERASED | TOMBSTONE)


def tail_after(block: bytes, last: int, key: bytes) -> Tail | None:
    """Returns what follows the record of sequence `last` in a block; None if nothing does.

    An interrupted write (`kill -9`, power loss) leaves a prefix of a record, or sectors of zeros. Anything
    else was complete once, so it may have been acknowledged.
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
        return False  # not the start of the next record
    whole = struct.pack("<I", len(rest) | flags & HAS_HEADERS) + rest[4:]
    found = record_at(whole, 0)
    if found is not None and is_sound(whole, found, key):  # only its length is wrong
        return False
    return _next_sound(rest, 1, last, key) == len(rest)


def _has_empty_sector(rest: bytes, offset: int) -> bool:
    """Whether one of the disk's sectors within these bytes is all zeros: allocated and never written."""
    at = -offset % SECTOR_BYTES
    pieces = [rest[:at]] if at >= CHECKSUM.size else []
    pieces += [rest[start : start + SECTOR_BYTES] for start in range(at, len(rest), SECTOR_BYTES)]
    return any(len(piece) >= CHECKSUM.size and not piece.strip(b"\0") for piece in pieces)


def mark_of_sequence(sequence: int, time: int, key: bytes) -> bytes:
    """Returns a record that marks a sequence as used and erased: the next message gets the one after it."""
    length = HEAD.size + CHECKSUM.size
    head = HEAD.pack(length, sequence | ERASED, time, 0)
    return head + CHECKSUM.pack(highwayhash64(key, head[4:20]))
