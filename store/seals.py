"""Where seals are published, beside the log: a port. `jetstream.seals` keeps them.

A seal is a signed statement about the log, not a fact about a job, so it is not in the log. Several replicas
seal: each publishes only behind the seal that it looked at, so that there is one row of them and no fork.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from jobledger.store.model.events import Record

NO_SEAL = 0
"""The expectation that nothing was published yet."""


class SealStreamInfo(msgspec.Struct, frozen=True):
    """The stream of seals as a whole, with the seals of all logs that it ever stood beside.

    Attributes:
        epoch: names this stream; one that is deleted and created again has another.
        last_sequence: of the newest note; 0 if there never was one.
    """

    epoch: str
    last_sequence: int


class SealStore(Protocol):
    """The seals of one log, in the order in which they were published. None is ever deleted."""

    async def append(self, seal: bytes, *, expect: int) -> Record | None:
        """Publish a seal behind the one at this sequence (`NO_SEAL`: as the first).

        Returns:
            The seal that stands last now: this one if it was published, by this call or by another one that
            said the same; else the one that came first. None if there is none, although one was expected.

        Raises:
            LogUnavailable: the server can't be reached; the seal may or may not have been published.
            LogRefused: the server will never take it; nothing was published.
        """
        ...

    async def last(self) -> Record | None:
        """The seal that was published last, as the leader has it; None if there is none.

        Raises:
            LogUnavailable: the server can't be reached.
        """
        ...

    async def read(self, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """A page of seals after a sequence, oldest first; empty if there are none.

        Raises:
            LogUnavailable: the server can't be reached.
        """
        ...

    async def info(self) -> SealStreamInfo:
        """The stream's identity and end, as the leader has them.

        Raises:
            LogUnavailable: the server can't be reached.
        """
        ...

    async def read_all(self, *, after: int) -> Sequence[Record]:
        """A page of notes of every log after a sequence, oldest first; empty if no readable one follows.

        Raises:
            LogUnavailable: the server can't be reached.
        """
        ...
