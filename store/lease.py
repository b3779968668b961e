"""The clock of leases: it must run on while the process is stopped, and while the machine sleeps."""

import time
from collections.abc import Callable
from functools import partial


def _clock() -> Callable[[], float]:
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux: its monotonic clock stands still in a suspended machine
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    return time.monotonic


lease_clock = _clock()
"""Seconds, of no particular origin; never goes back."""
