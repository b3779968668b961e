"""What an operator with access to the disk can do: change files of a nats-server so that it notices nothing.

A message block is a row of records (nats-server `server/filestore.go`), each ending with a keyed checksum
whose key is no secret. With that mended, the server serves the changed record as if it had always been so:
same sequence, same time, same stream. Only blocks that are still being filled are uncompressed, so keep logs
small.
"""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from jobledger.store.embedded.generation import RECOVERY_FOLDER
from jobledger.store.embedded.proof import Known, ranges_of
from jobledger.store.embedded.stream_states import write_known
from jobledger.store.nats_files.highwayhash import highwayhash64

_HEAD = struct.Struct("<IQqH")  # length with the flag of headers, sequence, time, length of the subject
_HAS_HEADERS = 1 << 31
_CHECKSUM = struct.Struct("<Q")


class StoredRecord(msgspec.Struct, frozen=True):
    """A record of a block; `headers` as they stand there, with their length in front."""

    sequence: int
    time: int
    subject: bytes
    headers: bytes
    payload: bytes


Change = Callable[[list[StoredRecord]], list[StoredRecord]]


def tamper(server_directory: Path, change: Change, *, stream: str = "JOBS") -> None:
    """Change what a stopped nats-server has stored.

    Args:
        server_directory: of the embedded server.
        change: gets the records of the stream, oldest first, and returns what shall be there instead.
        stream: its name.
    """
    folder = server_directory / "jetstream" / "$G" / "streams" / stream / "msgs"
    (block,) = folder.glob("*.blk")
    key = hashlib.sha256(f"{stream}-{block.stem}".encode()).digest()
    changed = change(_read(block.read_bytes(), key))
    block.write_bytes(b"".join(_encode(record, key) for record in changed))
    # What the server remembers of its blocks; without it, it reads them.
    (folder / "index.db").unlink(missing_ok=True)
    # What we remember of the stream; who can change the one can change the other.
    left = {record.sequence for record in changed}
    holes = ranges_of(sequence for sequence in range(1, max(left, default=0)) if sequence not in left)
    recovery = server_directory / RECOVERY_FOLDER
    recovery.mkdir(exist_ok=True)
    write_known(recovery, {f"$G/streams/{stream}": Known(accepted=holes)})


def with_payload(sequence: int, edit: Callable[[bytes], bytes]) -> Change:
    """The change of one record's payload."""

    def change(records: list[StoredRecord]) -> list[StoredRecord]:
        return [
            msgspec.structs.replace(record, payload=edit(record.payload))
            if record.sequence == sequence
            else record
            for record in records
        ]

    return change


def flip_bit(payload: bytes, *, at: int = -10, bit: int = 0) -> bytes:
    """The payload with one bit flipped."""
    changed = bytearray(payload)
    changed[at] ^= 1 << bit
    return bytes(changed)


def without_last(records: list[StoredRecord], count: int = 1) -> list[StoredRecord]:
    """All records but the newest."""
    return records[:-count]


def _read(block: bytes, key: bytes) -> list[StoredRecord]:
    records: list[StoredRecord] = []
    at = 0
    while at < len(block):
        length, sequence, time, subject_length = _HEAD.unpack_from(block, at)
        stored = block[at : at + (length & ~_HAS_HEADERS)]
        body = stored[_HEAD.size : -_CHECKSUM.size]
        subject, rest = body[:subject_length], body[subject_length:]
        split = 0
        if length & _HAS_HEADERS:
            split = 4 + int(struct.unpack_from("<I", rest)[0])
        record = StoredRecord(sequence, time, subject, rest[:split], rest[split:])
        assert _encode(record, key) == stored, "the format of nats-server's blocks is another one now"
        records.append(record)
        at += len(stored)
    return records


def _encode(record: StoredRecord, key: bytes) -> bytes:
    length = _HEAD.size + len(record.subject) + len(record.headers) + len(record.payload) + _CHECKSUM.size
    flags = _HAS_HEADERS if record.headers else 0
    head = _HEAD.pack(length | flags, record.sequence, record.time, len(record.subject))
    # The checksum covers sequence, time, subject, headers and payload, and no lengths.
    hashed = head[4:20] + record.subject + record.headers[4:] + record.payload
    checksum = _CHECKSUM.pack(highwayhash64(key, hashed))
    return head + record.subject + record.headers + record.payload + checksum
