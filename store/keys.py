"""A place for small records by key, each written on a condition: a port, and its twin in memory.

What must be known on every replica and is no fact about a job goes here (which answer a repeated request
got), never into the log. `jetstream.keys` keeps it; `tests/store/test_keys.py` is its meaning.
"""

from typing import Protocol

import msgspec

from jobledger.store.model.errors import LogUnavailable

NO_ENTRY = 0
"""The expectation that nothing stands under a key."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What stands under a key.

    Attributes:
        value: the record.
        revision: names this very record; the next one to write expects it.
    """

    value: bytes
    revision: int


class KeyStore(Protocol):
    """Records by key. A record is forgotten `KEYS_MAX_AGE_SECONDS` after it was written, and not sooner."""

    async def get(self, key: str) -> Entry | None:
        """The record of a key, as the leader has it; None without one.

        Raises:
            LogUnavailable: the server can't be reached.
        """
        ...

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """Write a record if the one of this revision stands there (`NO_ENTRY`: if there is none).

        Returns:
            What stands there now, as the leader has it: this value, or what somebody else wrote. None if the
            expected record was forgotten in the meantime. The same call again, after a lost answer, gives
            the same result; so `value` must be unlike every value that another caller could write.

        Raises:
            LogUnavailable: the server can't be reached; the record may or may not have been written.
            LogRefused: the server will never take it (full, too large, not allowed); nothing was written.
        """
        ...


class MemoryKeys:
    """`KeyStore` over a dict: for tests. It forgets nothing, because no test lasts a day."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._writes = 0
        self.is_down = False  # a test may set it: then nothing answers

    async def get(self, key: str) -> Entry | None:
        """See `KeyStore.get`."""
        return self._entries.get(key)

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """See `KeyStore.put`."""
        if self.is_down:
            raise LogUnavailable("the keys are down, as a test wants it")
        entry = self._entries.get(key)
        if (entry.revision if entry is not None else NO_ENTRY) != expect:
            return entry
        self._writes += 1
        self._entries[key] = Entry(value, self._writes)
        return self._entries[key]
