"""Decodes an S2 stream, the compression of nats-server's blocks. Pure.

S2 is Snappy's framing and element format with two extensions: a copy with offset 0 repeats the last offset
and has longer lengths, and a chunk may hold 4 MiB (github.com/klauspost/compress, `s2/README.md`, "Format
Extensions"; github.com/google/snappy, `framing_format.txt` and `format_description.txt`). No known Python
package reads repeated offsets. Decoding is verified by the CRC-32C of every chunk.
"""

import struct
from typing import Final

_COMPRESSED: Final = 0x00
_PLAIN: Final = 0x01
_IDENTIFIER: Final = 0xFF
_FIRST_SKIPPABLE: Final = 0x80
_IDENTIFIERS: Final = (b"S2sTwO", b"sNaPpY")
_CRC_BYTES: Final = 4
_MASK_DELTA: Final = 0xA282EAD8  # of a CRC that is stored next to its data
CHUNK_MAX_BYTES: Final = 4 * 1_048_576


class S2Error(ValueError):
    """The stream is damaged, or is not S2."""


def decode_stream(data: bytes) -> bytes:
    """Returns the content of an S2 stream.

    Raises:
        S2Error: names the position of the damage.
    """
    out = bytearray()
    at = 0
    while at < len(data):
        kind, size = data[at], int.from_bytes(data[at + 1 : at + 4], "little")
        body = data[at + 4 : at + 4 + size]
        if len(body) != size:
            raise S2Error(f"the chunk at byte {at} is cut off")
        if kind in (_COMPRESSED, _PLAIN):
            content = body[_CRC_BYTES:] if kind == _PLAIN else _decode_block(body[_CRC_BYTES:])
            if _masked(crc32c(content)) != int.from_bytes(body[:_CRC_BYTES], "little"):
                raise S2Error(f"the chunk at byte {at} does not match its checksum")
            out += content
        elif kind == _IDENTIFIER:
            if body not in _IDENTIFIERS:
                raise S2Error(f"the chunk at byte {at} identifies another format")
        elif kind < _FIRST_SKIPPABLE:
            raise S2Error(f"the chunk at byte {at} has the unknown type {kind}")
        at += 4 + size
    return bytes(out)


def _decode_block(src: bytes) -> bytes:
    try:
        return _elements(src)
    except IndexError:
        raise S2Error("a block is cut off") from None


def _elements(src: bytes) -> bytes:  # noqa: C901, PLR0912  # one branch per kind of element
    """The content of one block: its length, then literals and copies."""
    size, at = read_uvarint(src, 0)
    if size > CHUNK_MAX_BYTES:
        raise S2Error(f"a block must have at most {CHUNK_MAX_BYTES} bytes, got {size}")
    out = bytearray()
    offset, end = 0, len(src)
    while at < end:
        tag = src[at]
        kind, value = tag & 3, tag >> 2
        at += 1
        if kind == 0:  # a literal
            length = value
            if value >= 60:
                width = value - 59
                length = int.from_bytes(src[at : at + width], "little")
                at += width
            length += 1
            out += src[at : at + length]
            at += length
            continue
        if kind == 1:
            length = value & 7
            short = (tag & 0xE0) << 3 | src[at]
            at += 1
            if short:
                offset = short
            elif length >= 5:  # the last offset again, and a length of one to three bytes
                width = length - 4
                length = int.from_bytes(src[at : at + width], "little") + (4, 1 << 8, 1 << 16)[width - 1]
                at += width
            length += 4
        else:
            width = 2 if kind == 2 else 4
            length = value + 1
            offset = int.from_bytes(src[at : at + width], "little")
            at += width
        start = len(out) - offset
        if offset == 0 or start < 0 or at > end:
            raise S2Error("a block has a copy from outside of it")
        if offset >= length:
            out += out[start : start + length]
        else:  # the source overlaps the target: a run
            run = bytes(out[start:])
            out += (run * (length // offset + 1))[:length]
        if len(out) > size:
            break
    if len(out) != size:
        raise S2Error(f"a block has {len(out)} bytes instead of {size}")
    return bytes(out)


def read_uvarint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number as Go's `encoding/binary.Uvarint` reads it, and the position after it.

    Raises:
        S2Error: the data ends within it.
    """
    value = shift = 0
    for position in range(at, min(at + 10, len(data))):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    raise S2Error(f"invalid length at byte {at}")


def _table() -> tuple[tuple[int, ...], ...]:
    """CRC-32C of every byte, and of every byte with one to seven zeros after it."""
    first = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        first.append(crc)
    tables = [first]
    for _ in range(7):
        tables.append([first[crc & 0xFF] ^ crc >> 8 for crc in tables[-1]])
    return tuple(map(tuple, tables))


_TABLES: Final = _table()


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli, RFC 3720); processes eight bytes at a time."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _TABLES
    crc = 0xFFFFFFFF
    whole = len(data) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        low = (word & 0xFFFFFFFF) ^ crc
        high = word >> 32
        crc = (
            t7[low & 0xFF]
            ^ t6[low >> 8 & 0xFF]
            ^ t5[low >> 16 & 0xFF]
            ^ t4[low >> 24]
            ^ t3[high & 0xFF]
            ^ t2[high >> 8 & 0xFF]
            ^ t1[high >> 16 & 0xFF]
            ^ t0[high >> 24]
        )
    for byte in data[whole:]:
        crc = t0[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
