"""Which partitions a member of an elastic group lets go, from what it sees alone: nobody assigns anything.

    every member waits on every partition; the server gives each to one of those who wait
        │
        └── holding more than ceil(partitions / members)? ─► let the newest one go; wait again, but later

A member sees who waits on the partitions that it holds, and so how many members there are. One that holds
nothing sees nobody, and needs not: it has nothing to let go. Three rules make this settle:

- A member lets go only what is above its share, so the shares of all hold every partition, and one that has
  its share never moves: nothing swings to and fro.
- It lets go one at a time, and only after two looks in a row that agree: one may see what is not so.
- One who has its share and is given another partition passes it on at once, before reading it, to the next in
  line; so it comes to one who has not. Only once in a while, though: if all believe that they have their
  shares, because somebody is counted who is not there, the partition must be somebody's.

What the server does, as measured: it gives a partition that is let go to one of those who wait, once its next
event comes; until then it is nobody's. That one is mostly whoever came last: two who have their shares would
hand a partition to and fro for ever, and never to a third. Requests that carry a former pin count as waiting
until the server comes by them, so whoever lets go closes the inbox of its requests. Those of a connection
that ended are not counted.
"""

from collections.abc import Mapping
from statistics import median_low

LOOKS_TO_BE_SURE = 2
"""Looks in a row that must find too much held, before anything is let go."""


def fair_share(partitions: int, members: int) -> int:
    """The most partitions that one of so many members keeps."""
    return -(-partitions // members)


def members_seen(waiting: Mapping[int, int]) -> int:
    """How many members there are, oneself included.

    Args:
        waiting: for each partition that one holds, how many others wait there. The middle counts: a request
            that is just being renewed is missing from one, one that is given up may still stand in another.
    """
    return 1 + median_low(waiting.values()) if waiting else 1


class Balance:
    """One member's judgement, asked once per look.

    Args:
        partitions: of the group.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._looks = 0  # in a row that found too much held

    def is_sated(self, waiting: Mapping[int, int]) -> bool:
        """Whether the member has its share, and passes on what it is given beyond it.

        Args:
            waiting: as of `let_go`.
        """
        return len(waiting) >= fair_share(self._partitions, members_seen(waiting))

    def let_go(self, waiting: Mapping[int, int]) -> int | None:
        """The partition to let go now, after the event under way is finished; None: keep all.

        Args:
            waiting: the partitions held, in the order in which they came, each with how many others wait
                there.
        """
        if len(waiting) <= fair_share(self._partitions, members_seen(waiting)):
            self._looks = 0
            return None
        self._looks += 1
        if self._looks < LOOKS_TO_BE_SURE:
            return None
        return next(reversed(waiting))  # the newest: least of it is remembered
