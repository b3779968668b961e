"""`Records` on a stream beside the log's: `<log>_SUBSCRIPTIONS` or the like, one subject and message per key.

A record that was removed is an empty message for a day, so that whoever looks at changes sees it go: the
rights that applications have allow no purge.
"""

import asyncio
from collections.abc import Sequence

from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import SUBSCRIPTIONS, WEBHOOKS
from jobledger.store.jetstream.entries import read_entry, write_entry
from jobledger.store.jetstream.reader import leader_get, read_page
from jobledger.store.jetstream.stream import Streams
from jobledger.store.keys import NO_ENTRY, Entry
from jobledger.store.model.errors import InvalidInput, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    READ_MAX_TRIES,
    RECORD_MAX_BYTES,
    RECORD_REMOVED_SECONDS,
    RETRY_WAIT_SECONDS,
)
from jobledger.store.parking import Change

_KINDS = {each.suffix.removeprefix("_"): each for each in (SUBSCRIPTIONS, WEBHOOKS)}


class JetStreamRecords:
    """The records beside a log; made by `open`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    @classmethod
    async def open(cls, connection: Connection, streams: Streams, of: str) -> "JetStreamRecords":
        """Check the stream of records; create it if there never was one.

        Args:
            connection: the log's.
            streams: the log's.
            of: what the records are of, as the end of the stream's name: SUBSCRIPTIONS or WEBHOOKS.

        Raises:
            LogMissing: if it existed, and is missing.
            LogUnfit: if an existing stream breaks a promise; every such field is named.
            LogUnavailable: if the server does not answer.
        """
        declaration = _KINDS[of]
        await streams.open(declaration)
        return cls(connection, declaration.name(streams.log_name))

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
