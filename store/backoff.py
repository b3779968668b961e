"""Exponential backoff with jitter: the waits of every loop that retries.

A loop that also resets after a success, waits on an event instead of sleeping, or stops at a deadline of its
own does not fit the retry libraries (stamina, tenacity), which own the loop; this class owns only the wait.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

_DOUBLINGS_MAX: Final = 60  # beyond every maximum, and before the float overflows

_random: Final = random.Random()  # noqa: S311 - spreads retries; not a secret


def exponential_seconds(attempt: int, first_seconds: float, max_seconds: float) -> float:
    """Return the wait before a retry, without jitter.

    Args:
        attempt: 1 for the first retry.
        first_seconds: the wait before the first retry; it doubles with every further one.
        max_seconds: the longest wait.
    """
    return min(first_seconds * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX), max_seconds)


class Backoff:
    """The waits of one retry loop: they double up to a maximum, and each is shortened at random.

    Without jitter, clients that failed together retry together.

    Args:
        first_seconds: the first wait.
        max_seconds: the longest wait.
        jitter: the share of a wait that is random. 0.5: at least half of the wait passes; 1.0 spreads
            writers that race on one subject best.
        uniform: the random source, for tests: a number between its two arguments.
    """

    def __init__(
        self,
        first_seconds: float,
        max_seconds: float,
        *,
        jitter: float = 0.5,
        uniform: Callable[[float, float], float] = _random.uniform,
    ) -> None:
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._jitter = jitter
        self._uniform = uniform
        self.attempts = 0
        """Waits since the last reset."""

    def next_seconds(self) -> float:
        """Return the next wait, for a loop that waits on something else than the clock."""
        self.attempts += 1
        seconds = exponential_seconds(self.attempts, self._first_seconds, self._max_seconds)
        return seconds * self._uniform(1.0 - self._jitter, 1.0)

    async def sleep(self) -> None:
        """Sleep for the next wait."""
        await asyncio.sleep(self.next_seconds())

    def reset(self) -> None:
        """Start over with the first wait, after a success."""
        self.attempts = 0
