"""Key-value buckets next to the log, written on a condition: a port, and an adapter in memory for tests.

Data that every replica needs and that is not an event of a job is kept in a bucket, never in the log:

    KEYS            the answer to each request with an Idempotency-Key; expires after KEYS_MAX_AGE_SECONDS
    SUBSCRIPTIONS   definition.<name>, parked.<name>.<job token>: kept until deleted
    WEBHOOKS        webhooks.<name>: kept until deleted
    SEALS           the signed checkpoints of each log; every one of them is kept (`KeyHistory`)

Every write names the revision that it replaces, so of several writers one wins and the others see its entry.
`jetstream.kv` stores buckets in JetStream streams. `tests/store/test_kv.py` is the contract of both adapters.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import Record

NO_ENTRY: Final = 0
"""The expected revision of a key that has no entry."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """The value of a key, with the revision that the next write must name."""

    value: bytes
    revision: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """The last write to a key. A deletion has an empty value."""

    key: str
    entry: Entry

    @property
    def is_deleted(self) -> bool:
        """Whether the entry was deleted."""
        return not self.entry.value


class KeyValue(Protocol):
    """A bucket that keeps the newest entry of each key."""

    async def get(self, key: str) -> Entry | None:
        """Returns the entry of a key as the leader has it; None without one.

        Raises:
            LogUnavailable: the server cannot be reached.
        """
        ...

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """Writes an entry if the key's revision is `expect` (`NO_ENTRY`: if it has none).

        Returns:
            The entry that the key has now: this value, or the one that another caller wrote. None if the
            expected entry no longer exists. A repeated call after a lost answer returns the same entry, so
            `value` must differ from every value that another caller could write.

        Raises:
            LogUnavailable: the server cannot be reached; the entry may or may not have been written.
            LogRefused: the server rejects it permanently (full, too large); nothing was written.
        """
        ...

    async def delete(self, key: str, *, expect: int) -> bool:
        """Deletes the entry of this revision; False if the key has another entry now.

        Not for a bucket whose entries expire.

        Raises:
            LogUnavailable: the server cannot be reached; the entry may or may not have been deleted.
            LogRefused: the server rejects it permanently; nothing was deleted.
        """
        ...

    async def changes(self, prefix: str, *, after: int = 0) -> tuple[Sequence[Change], int]:
        """Returns the last write to each key below a prefix, and the revision to continue from.

        Args:
            prefix: the tokens before the last dot, such as `parked.billing`.
            after: only writes after this revision, deletions included; 0: every existing entry.

        Raises:
            LogUnavailable: the server cannot be reached, or a replica lags for too long.
        """
        ...


class BucketInfo(msgspec.Struct, frozen=True):
    """Identity and size of a bucket.

    Attributes:
        epoch: identifies the stream; one that was deleted and created again has another epoch.
        last_sequence: of the newest entry of any key; 0 without one.
    """

    epoch: str
    last_sequence: int


class KeyHistory(Protocol):
    """All entries of one key of a bucket, in the order of writing. None is ever deleted.

    Every method raises LogUnavailable if the server cannot be reached.
    """

    async def append(self, value: bytes, *, expect: int) -> Record | None:
        """Appends an entry after the one at sequence `expect` (`NO_ENTRY`: as the first one).

        Returns:
            The last entry now: this one if it was appended by this call or by another one with the same
            value, else the one that another caller appended. None if an entry was expected and none exists.

        Raises:
            LogUnavailable: the server cannot be reached; the entry may or may not have been appended.
            LogRefused: the server rejects it permanently; nothing was written.
        """
        ...

    async def last(self) -> Record | None:
        """Returns the newest entry as the leader has it; None without one."""
        ...

    async def read(self, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """Returns a page of entries after a sequence, oldest first; empty if there are none."""
        ...

    async def read_all(self, *, after: int) -> Sequence[Record]:
        """Returns a page of the entries of every key after a sequence; empty if no readable one follows."""
        ...

    async def info(self) -> BucketInfo:
        """Returns identity and size of the bucket, as the leader has them."""
        ...


class MemoryKeyValue:
    """`KeyValue` over a dict, for tests. Entries do not expire."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._writes = 0
        self.is_down = False  # set by a test: every write fails

    async def get(self, key: str) -> Entry | None:
        """See `KeyValue.get`."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.value else None

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """See `KeyValue.put`."""
        entry = await self.get(key)
        if self.is_down:
            raise LogUnavailable("the bucket is down, as the test requests")
        if (entry.revision if entry is not None else NO_ENTRY) != expect:
            return entry
        return self._write(key, value)

    async def delete(self, key: str, *, expect: int) -> bool:
        """See `KeyValue.delete`."""
        entry = await self.get(key)
        if entry is not None and entry.revision == expect:
            self._write(key, b"")
        return await self.get(key) is None

    async def changes(self, prefix: str, *, after: int = 0) -> tuple[Sequence[Change], int]:
        """See `KeyValue.changes`."""
        below = {key: entry for key, entry in self._entries.items() if key.startswith(f"{prefix}.")}
        found = [Change(key, entry) for key, entry in below.items() if entry.revision > after]
        place = max((each.entry.revision for each in found), default=after)
        return tuple(each for each in found if after or not each.is_deleted), place

    def _write(self, key: str, value: bytes) -> Entry:
        self._writes += 1
        self._entries[key] = Entry(value, self._writes)
        return self._entries[key]
