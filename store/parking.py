"""What subscriptions keep beside the log: small records by key, each written on a condition. A port.

    definition.<name>            what a subscription is: written once
    parked.<name>.<job token>    a job whose event failed
    webhooks.<name>              a webhook

Keys are tokens with dots between them; `token` makes one of any text. `jetstream.parking` keeps the records.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from jobledger.store.keys import Entry


class Change(msgspec.Struct, frozen=True, gc=False):
    """A record as it was last written.

    Attributes:
        key: of the record.
        entry: what stands there.
    """

    key: str
    entry: Entry

    @property
    def removed(self) -> bool:
        """Whether the record was removed."""
        return not self.entry.value


class Records(Protocol):
    """Records by key. A record stays until it is removed."""

    async def get(self, key: str) -> Entry | None:
        """What stands under a key, as the leader has it; None if there is nothing."""
        ...

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """Write a record if the one of this revision stands there (`keys.NO_ENTRY`: if there is none).

        Returns:
            What stands there now: this value, or what somebody else wrote; None if the expected record is
            gone. The same call again, after a lost answer, gives the same result; so `value` must be unlike
            every value that another caller could write.

        Raises:
            LogUnavailable: the server can't be reached; the record may or may not have been written.
            LogRefused: the server will never take it; nothing was written.
        """
        ...

    async def remove(self, key: str, *, expect: int) -> bool:
        """Remove the record of this revision; False if another one stands there now."""
        ...

    async def changes(self, prefix: str, *, after: int = 0) -> tuple[Sequence[Change], int]:
        """What was written under keys that begin with this one and a dot, and the revision to ask from next.

        Args:
            prefix: `parked.billing`, say.
            after: only what was written after this revision; 0: everything that stands there.
        """
        ...
