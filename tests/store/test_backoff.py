"""Waits double up to the maximum, are shortened at random within the stated share, and reset."""

import asyncio

from jobledger.store.backoff import Backoff, exponential_seconds


def _longest(_low: float, high: float) -> float:
    return high


def test_waits_double_up_to_the_maximum() -> None:
    """Also after more retries than a float has exponents."""
    assert [exponential_seconds(attempt, 0.5, 10.0) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert exponential_seconds(10**9, 0.5, 10.0) == 10.0
    backoff = Backoff(0.5, 3.0, uniform=_longest)
    assert [backoff.next_seconds() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.attempts == 5


def test_a_reset_starts_over() -> None:
    """After a success the next failure waits as briefly as the first one."""
    backoff = Backoff(0.5, 3.0, uniform=_longest)
    backoff.next_seconds()
    backoff.next_seconds()
    backoff.reset()
    assert (backoff.attempts, backoff.next_seconds()) == (0, 0.5)


def test_jitter_stays_within_its_share() -> None:
    """By default half of a wait is certain; the full jitter of racing writers may be no wait at all."""
    half, full = Backoff(8.0, 8.0), Backoff(8.0, 8.0, jitter=1.0)
    halves = [half.next_seconds() for _ in range(1_000)]
    fulls = [full.next_seconds() for _ in range(1_000)]
    assert 4.0 <= min(halves) < 4.5
    assert 7.5 < max(halves) <= 8.0
    assert 0.0 <= min(fulls) < 0.5
    assert 7.5 < max(fulls) <= 8.0


async def test_sleep_waits_for_the_next_wait() -> None:
    """Each sleep counts as an attempt."""
    clock = asyncio.get_running_loop().time
    backoff = Backoff(0.01, 0.01, uniform=_longest)
    started = clock()
    await backoff.sleep()
    assert clock() - started >= 0.009
    assert backoff.attempts == 1
