"""What a subscription works with, once it is open."""

from collections.abc import Sequence

import msgspec

from jobledger.projections.subscriptions.parked_jobs import SetAside
from jobledger.projections.subscriptions.parking import Parking
from jobledger.projections.subscriptions.partition import Partition
from jobledger.projections.subscriptions.rebalance import Balance
from jobledger.store.log import EventLog


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What `subscribe` makes when a subscription is entered.

    Attributes:
        lanes: one per partition that this process may hold.
        parts: how many partitions there are in all.
        setbacks: what becomes of events that fail; None: nothing, there is no name.
        balance: judges which partition to let go; None: partitions are not shared in this way.
        owned: a log to close in the end.
    """

    lanes: Sequence[Partition] = ()
    parts: int = 1
    setbacks: Parking | None = None
    balance: Balance | None = None
    owned: EventLog | None = None

    @property
    def aside(self) -> SetAside | None:
        """The jobs that are set aside; None: none can be."""
        return self.setbacks.aside if self.setbacks is not None else None
