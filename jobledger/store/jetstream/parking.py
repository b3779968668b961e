"""`Records` on a stream beside the log's: `<log>_SUBSCRIPTIONS` or the like, one subject and message per key.

A record that was removed is an empty message for a day, so that whoever looks at changes sees it go: the
rights that applications have allow no purge.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from jobledger.store.errors import InvalidInput, LogUnavailable
from jobledger.store.events import Record
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.entries import read_entry, write_entry
from jobledger.store.jetstream.reader import leader_get, read_page
from jobledger.store.jetstream.stream import StreamSettings, check_beside, find_or_make_stream
from jobledger.store.keys import NO_ENTRY, Entry
from jobledger.store.limits import (
    READ_MAX_TRIES,
    RECORD_MAX_BYTES,
    RECORD_REMOVED_SECONDS,
    RETRY_WAIT_SECONDS,
)
from jobledger.store.parking import Change

_REQUIRED: dict[str, tuple[object, str]] = {
    "storage": ("file", "a job that was set aside is so after a restart"),
    "retention": ("limits", "reading a record must not remove it"),
    "discard": ("new", "a full stream refuses new records instead of forgetting old ones"),
    "max_msgs": (-1, "a new record must not push out an old one"),
    "max_age": (0, "a record stays until it is removed"),
    "max_msgs_per_subject": (1, "a key has one record"),
    "allow_direct": (True, "changes are read by direct get"),
    "allow_msg_ttl": (True, "what was removed is forgotten after a day"),
}
_FORBIDDEN = ("sealed", "no_ack", "mirror", "sources", "subject_transform", "discard_new_per_subject")


class JetStreamRecords:
    """The records beside a log; made by `open`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    @classmethod
    async def open(cls, connection: Connection, log: StreamSettings, of: str) -> "JetStreamRecords":
        """Make the stream of records if it is missing, and check it if it is there.

        Args:
            connection: the log's.
            log: the settings of the log's stream; this one is named after it, and has as many replicas.
            of: what the records are of, as the end of the stream's name.

        Raises:
            LogUnfit: if an existing stream breaks a promise; every such field is named.
            LogUnavailable: if the server does not answer.
        """
        name = f"{log.name}_{of}"
        info = await find_or_make_stream(connection, _config(name, log.replicas))
        required = {**_REQUIRED, "subjects": ([f"{name}.>"], "records live there")}
        check_beside(name, info.config, required, _FORBIDDEN)
        return cls(connection, name)

    async def get(self, key: str) -> Entry | None:
        """See `Records.get`."""
        entry = await read_entry(self._connection, self._stream, self._subject(key))
        return entry if entry is not None and entry.value else None

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """See `Records.put`."""
        if not 0 < len(value) <= RECORD_MAX_BYTES:
            raise InvalidInput(f"the record {key} is {len(value)} bytes; it may have 1 to {RECORD_MAX_BYTES}")
        return await self._write(key, value, expect=expect)

    async def remove(self, key: str, *, expect: int) -> bool:
        """See `Records.remove`."""
        entry = await self._write(key, b"", expect=expect)
        return entry is None or not entry.value

    async def changes(self, prefix: str, *, after: int = 0) -> tuple[Sequence[Change], int]:
        """See `Records.changes`."""
        subjects = f"{self._subject(prefix)}.>"
        last = await leader_get(self._connection, self._stream, {"last_by_subj": subjects})
        if last is None or last.seq <= after:
            return (), after
        found: dict[str, Change] = {}
        place, tries = after, 0
        while place < last.seq:
            page = await read_page(self._connection, self._stream, subjects, after=place, up_to=None)
            for record in page:
                change = self._change(record)
                found[change.key] = change
            if page:
                place, tries = page[-1].sequence, 0
                continue
            tries += 1  # a replica that does not have it yet; or it was written again meanwhile
            if tries > READ_MAX_TRIES:
                raise LogUnavailable(f"a replica of {self._stream} lags: it does not have {last.seq} yet")
            await asyncio.sleep(RETRY_WAIT_SECONDS * tries)
        return [change for change in found.values() if after or not change.removed], place

    async def _write(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        headers = {} if value else {"Nats-TTL": f"{RECORD_REMOVED_SECONDS}s"}
        for _ in range(READ_MAX_TRIES):
            entry = await write_entry(
                self._connection, self._stream, self._subject(key), value, expect=expect, headers=headers
            )
            if entry is None or entry.value or not value:
                return entry
            if expect != NO_ENTRY:
                return None
            expect = entry.revision  # a removed one stands there: as good as none
        raise LogUnavailable(f"the record {key} is written and removed all the time; try again")

    def _subject(self, key: str) -> str:
        return f"{self._stream}.{key}"

    def _change(self, record: Record) -> Change:
        key = record.subject.removeprefix(f"{self._stream}.")
        return Change(key, Entry(record.payload, record.sequence))


def _config(name: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "description": "Jobledger: records, the last one of each key",
        "subjects": [f"{name}.>"],
        "num_replicas": replicas,
        "max_bytes": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "compression": "s2",
        **{field: wanted for field, (wanted, _) in _REQUIRED.items()},
    }
