"""The positions that all processes of a service share: 64-bit numbers in a page of memory without a name.

Each number has one writer, is written as one aligned machine word, and only grows, so a reader sees an old or
the new value and never a mixture. A worker writes its number before it answers a client, and reads those of
the others when a request arrives: the socket in between orders the two.
"""

import mmap
import os
import tempfile
from typing import Final, Self

OWNER: Final = 0
"""The number of the owner; workers have 1 and more."""

_VISIBLE: Final = 0  # the owner's: the last sequence visible in the view
_ACKNOWLEDGED: Final = 1  # the first of one word per process, by its number
_WORD_BYTES: Final = 8


class SharedPositions:
    """The shared positions.

    Attributes:
        fd: the file of the memory, inherited by workers.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.fd = fd
        self.workers = workers
        self._memory = mmap.mmap(fd, _size(workers))
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls, workers: int) -> Self:
        """The positions of a service with this many workers, all 0."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("jobledger-positions")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _size(workers))
        return cls(fd, workers)

    def close(self) -> None:
        """Release the memory. Idempotent."""
        if self.fd < 0:
            return
        self._words.release()
        self._memory.close()
        os.close(self.fd)
        self.fd = -1

    @property
    def visible(self) -> int:
        """The last sequence visible in the view."""
        return self._words[_VISIBLE]

    def set_visible(self, sequence: int) -> None:
        """Raise the visible sequence; only the owner does."""
        self._raise(_VISIBLE, sequence)

    @property
    def acknowledged(self) -> int:
        """The last sequence that any process has acknowledged to a client."""
        return max(self._words[_ACKNOWLEDGED : _ACKNOWLEDGED + 1 + self.workers])

    def set_acknowledged(self, number: int, sequence: int) -> None:
        """Raise the sequence that a process has acknowledged; only that process does."""
        self._raise(_ACKNOWLEDGED + number, sequence)

    def has_feeds(self, number: int) -> bool:
        """Whether a worker has readers of the live feed, and wants the events of each batch."""
        return bool(self._words[_ACKNOWLEDGED + self.workers + number])

    def set_has_feeds(self, number: int, *, has: bool) -> None:
        """Set whether a worker wants the events of each batch; only that worker does."""
        self._words[_ACKNOWLEDGED + self.workers + number] = int(has)

    def _raise(self, index: int, sequence: int) -> None:
        self._words[index] = max(self._words[index], sequence)


def _size(workers: int) -> int:
    return (_ACKNOWLEDGED + 1 + 2 * workers) * _WORD_BYTES
