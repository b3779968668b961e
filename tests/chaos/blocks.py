"""Find, check and damage the message blocks of nats-server's file store.

A block is a sequence of length-prefixed records (nats-server `server/filestore.go`,
`writeMsgRecordLocked`). A compressed block starts with `cmp`, the algorithm, and the original size,
followed by one S2 stream and the last record's checksum. Raw records after that stream make the block
unreadable: nats-server then fails with `s2: corrupt input` and removes the stream.
"""

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_LENGTH_FLAGS: Final = 1 << 31  # set if the record has headers
_HEAD: Final = struct.Struct("<IQqH")
_CHECKSUM_BYTES: Final = 8
_S2_IDENTIFIERS: Final = (b"\xff\x06\x00\x00S2sTwO", b"\xff\x06\x00\x00sNaPpY")
_MAGIC: Final = b"cmp"
_MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
_TOMBSTONE: Final = 1 << 63


class Span(NamedTuple):
    """The position of a record in its block."""

    sequence: int
    offset: int
    length: int


def stream_folders(store: Path, stream: str = "JOBS") -> list[Path]:
    """Return the message directories of a stream below a server's store directory, for every account."""
    return sorted(store.glob(f"jetstream/*/streams/{stream}/msgs")) if store.exists() else []


def blocks_of(store: Path, stream: str = "JOBS") -> list[Path]:
    """Return the blocks of a stream, oldest first."""
    found = [block for folder in stream_folders(store, stream) for block in folder.glob("*.blk")]
    return sorted(found, key=lambda block: int(block.stem))


def is_compressed(block: bytes) -> bool:
    """Whether the block is compressed."""
    return block.startswith(_MAGIC)


def problem_of(block: bytes) -> str:
    """Return the problem in the structure of a block, or an empty string.

    The last record of an uncompressed block may be incomplete after `kill -9`: that write was not
    acknowledged, and the server removes it at the next start.
    """
    return _problem_of_compressed(block) if is_compressed(block) else _problem_of_raw(block)


def corrupt_blocks(store: Path, stream: str = "JOBS") -> list[str]:
    """Return the problem of every block of a stopped server with a wrong structure."""
    found = []
    for block in blocks_of(store, stream):
        problem = problem_of(block.read_bytes())
        if problem:
            found.append(f"{block.relative_to(store)}: {problem}")
    return found


def records(block: bytes) -> Iterator[Span]:
    """Return the records of an uncompressed block, oldest first, without an incomplete last one."""
    at = 0
    while at + _HEAD.size <= len(block):
        length, sequence, _, _ = _HEAD.unpack_from(block, at)
        length &= ~_LENGTH_FLAGS
        if not _HEAD.size + _CHECKSUM_BYTES <= length <= len(block) - at:
            return
        if not sequence & _TOMBSTONE:
            yield Span(sequence, at, length)
        at += length


def flip_bit(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes((byte ^ 1 << bit,)))


def flip_payload_bit(block: Path, rng: random.Random) -> int:
    """Flip a bit in the payload of some record of a block; returns its sequence (0: compressed)."""
    content = block.read_bytes()
    if is_compressed(content):
        flip_bit(block, rng.randrange(len(content) // 4, len(content) - _CHECKSUM_BYTES), rng.randrange(8))
        return 0
    spans = list(records(content))
    span = rng.choice(spans[: max(1, len(spans) - 2)])  # with records after it
    # The checksum is the last eight bytes; the payload ends before it and is longer than 40 bytes.
    flip_bit(block, span.offset + span.length - _CHECKSUM_BYTES - rng.randrange(2, 40), rng.randrange(8))
    return span.sequence


def _problem_of_raw(block: bytes) -> str:
    at = previous = 0
    while at + _HEAD.size <= len(block):
        length, sequence, _, subject_length = _HEAD.unpack_from(block, at)
        length &= ~_LENGTH_FLAGS
        if length < _HEAD.size + subject_length + _CHECKSUM_BYTES or length > _MAX_RECORD_BYTES:
            return f"no record at byte {at} of {len(block)} (length {length})"
        if at + length > len(block):
            return ""  # the write interrupted by the kill
        if not sequence & _TOMBSTONE:
            if sequence <= previous:
                return f"sequence {sequence} after {previous} at byte {at}"
            previous = sequence
        at += length
    return ""


def _problem_of_compressed(block: bytes) -> str:
    at = len(_MAGIC) + 1
    original, shift = 0, 0
    while True:  # an unsigned varint
        byte = block[at]
        original |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            break
    if not block[at:].startswith(_S2_IDENTIFIERS):
        return f"compressed (original size {original}), but no S2 stream at byte {at}"
    end = len(block) - _CHECKSUM_BYTES
    while at < end:
        kind = block[at]
        length = int.from_bytes(block[at + 1 : at + 4], "little")
        if 0x02 <= kind <= 0x7F or at + 4 + length > end:
            return (
                f"compressed (original size {original}), but bytes {at} to {len(block)} are not part of"
                " its S2 stream: records were appended after it"
            )
        at += 4 + length
    return ""
