"""`KeyStore` on a stream of its own, beside the log's: one subject per key, one message per subject.

It shares the log's connection and the server's durability, and nothing else: its messages grow old and go.
"""

import hashlib

from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import KEYS, KEYS_PREFIX
from jobledger.store.jetstream.entries import read_entry, write_entry
from jobledger.store.jetstream.stream import Streams
from jobledger.store.keys import Entry


class JetStreamKeys:
    """The keys beside a log; made by `open`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    @classmethod
    async def open(cls, connection: Connection, streams: Streams) -> "JetStreamKeys":
        """Check the stream of keys; create it if there never was one.

        Args:
            connection: the log's.
            streams: the log's.

        Raises:
            LogMissing: if it existed, and is missing.
            LogUnfit: if an existing stream breaks a promise; every such field is named.
            LogUnavailable: if the server does not answer.
        """
        await streams.open(KEYS)
        return cls(connection, KEYS.name(streams.log_name))

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """See `KeyStore.put`."""
        return await write_entry(self._connection, self._stream, _subject(key), value, expect=expect)

    async def get(self, key: str) -> Entry | None:
        """See `KeyStore.get`."""
        return await read_entry(self._connection, self._stream, _subject(key))


def _subject(key: str) -> str:
    return KEYS_PREFIX + hashlib.sha256(key.encode()).hexdigest()
