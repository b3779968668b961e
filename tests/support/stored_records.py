"""Change the files of a nats-server so that it does not notice, as an operator with access to the disk can.

A message block is a sequence of records (nats-server `server/filestore.go`), each with a keyed checksum
whose key is not secret. With a recomputed checksum the server serves the changed record unchanged in
sequence, time and stream. Only the block being written is uncompressed, so keep logs small.
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
    """A record of a block; `headers` includes the length prefix."""

    sequence: int
    time: int
    subject: bytes
    headers: bytes
    payload: bytes


Change = Callable[[list[StoredRecord]], list[StoredRecord]]


def tamper(server_directory: Path, change: Change, *, stream: str = "JOBS") -> None:
    """Change the stored records of a stopped nats-server.

    Args:
        server_directory: of the embedded server.
        change: receives the records of the stream, oldest first, and returns the new ones.
        stream: its name.
    """
    folder = server_directory / "jetstream" / "$G" / "streams" / stream / "msgs"
    (block,) = folder.glob("*.blk")
    key = hashlib.sha256(f"{stream}-{block.stem}".encode()).digest()
    changed = change(_read(block.read_bytes(), key))
    block.write_bytes(b"".join(_encode(record, key) for record in changed))
    # The server's index of its blocks; without it, the server reads them.
    (folder / "index.db").unlink(missing_ok=True)
    # Jobledger's record of the stream; an attacker who can change one can change the other.
    left = {record.sequence for record in changed}
    holes = ranges_of(sequence for sequence in range(1, max(left, default=0)) if sequence not in left)
    recovery = server_directory / RECOVERY_FOLDER
    recovery.mkdir(exist_ok=True)
    write_known(recovery, {f"$G/streams/{stream}": Known(accepted=holes)})


def with_payload(sequence: int, edit: Callable[[bytes], bytes]) -> Change:
    """Return a change of one record's payload."""

    def change(records: list[StoredRecord]) -> list[StoredRecord]:
        return [
            msgspec.structs.replace(record, payload=edit(record.payload))
            if record.sequence == sequence
            else record
            for record in records
        ]

    return change


def flip_bit(payload: bytes, *, at: int = -10, bit: int = 0) -> bytes:
    """Return the payload with one bit flipped."""
    changed = bytearray(payload)
    changed[at] ^= 1 << bit
    return bytes(changed)


def without_last(records: list[StoredRecord], count: int = 1) -> list[StoredRecord]:
    """Return all records but the newest."""
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
    # The checksum covers sequence, time, subject, headers and payload, but not the lengths.
    hashed = head[4:20] + record.subject + record.headers[4:] + record.payload
    checksum = _CHECKSUM.pack(highwayhash64(key, hashed))
    return head + record.subject + record.headers + record.payload + checksum
