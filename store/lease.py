"""The clock of leases: it advances also while the process is stopped and while the machine sleeps."""

import time
from collections.abc import Callable
from functools import partial


def _clock() -> Callable[[], float]:
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux, where the monotonic clock stops in a suspended machine
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    return time.monotonic


lease_clock = _clock()
"""Return seconds since an arbitrary time; never decreases."""
