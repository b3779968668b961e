"""Which partitions a member of an elastic group releases. No coordinator assigns partitions. Pure.

    every member waits for every partition; the server assigns each one to a waiting member
        │
        └── holds more than ceil(partitions / members)? ─► release the newest one; wait again, but later

A member sees how many others wait for the partitions that it holds, and so how many members there are. A
member that holds none sees no other, and has nothing to release. Three rules make the group settle:

- A member releases only partitions above its share. The shares together cover every partition, and a member
  at its share releases nothing, so no partition moves back and forth.
- It releases one partition at a time, and only after two observations in a row agree: one may be wrong.
- A member at its share that is assigned another partition passes it on before reading it, so that it
  reaches a member below its share. It does so only once in a while: if every member believes that it is at
  its share, because a member is counted that no longer exists, some member must keep the partition.

Measured behavior of the server: it assigns a released partition to a waiting member with the partition's
next event; until then the partition is unassigned. It mostly picks the member that came last: without the
third rule two members at their shares would hand a partition to each other and never to a third one.
Requests with a former pin count as waiting until the server processes them, so a member that releases a
partition closes the inbox of its requests. Requests of closed connections are not counted.
"""

from collections.abc import Mapping
from statistics import median_low
from typing import Final

OBSERVATIONS_TO_BE_SURE: Final = 2
"""Observations in a row that must find too many partitions held before one is released."""


def fair_share(partitions: int, members: int) -> int:
    """The most partitions that one of the members keeps."""
    return -(-partitions // members)


def members_seen(waiting: Mapping[int, int]) -> int:
    """How many members there are, this one included.

    Args:
        waiting: for each held partition, how many others wait for it. The median counts: a request that is
            being renewed is missing from one partition, an abandoned one may still count in another.
    """
    return 1 + median_low(waiting.values()) if waiting else 1


class Balance:
    """The decisions of one member; call it once per observation.

    Args:
        partitions: number of partitions of the group.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._observations = 0  # in a row that found too many held

    def is_at_quota(self, waiting: Mapping[int, int]) -> bool:
        """Whether the member holds its share, and passes on further partitions; `waiting` as of `release`."""
        return len(waiting) >= fair_share(self._partitions, members_seen(waiting))

    def release(self, waiting: Mapping[int, int]) -> int | None:
        """The partition to release once its current event is handled; None: keep all.

        Args:
            waiting: the held partitions, oldest first, each with the number of others that wait for it.
        """
        if len(waiting) <= fair_share(self._partitions, members_seen(waiting)):
            self._observations = 0
            return None
        self._observations += 1
        if self._observations < OBSERVATIONS_TO_BE_SURE:
            return None
        return next(reversed(waiting))  # the newest one: the least of its jobs is cached
