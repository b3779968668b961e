"""What is known of one webhook's target, and when it may be asked again.

    answering ── events of WEBHOOK_OUTAGE_JOBS jobs fail in a row ──► down ── any event is taken ──► answering

An event that a target does not take is the event's problem, and the subscription's machinery tries it again
and parks its job, while all other jobs go on. If nothing is taken any more, it is the target's problem: then
the event at hand is held, with growing waits, and nothing is parked only because a target was away for a
night. One event is held for WEBHOOK_HOLD_MAX_SECONDS at most: it may be the reason.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from jobledger.service.limits import (
    WEBHOOK_OUTAGE_JOBS,
    WEBHOOK_OUTAGE_MAX_WAIT_SECONDS,
    WEBHOOK_OUTAGE_WAIT_SECONDS,
)

_NEVER: Final = float("-inf")


class Endpoint:
    """A target as this process knows it.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._failing: set[str] = set()  # jobs whose events failed since the last one that was taken
        self._not_before = _NEVER
        self._wait_seconds = WEBHOOK_OUTAGE_WAIT_SECONDS
        self._asked_to_wait = False
        self.problem = ""  # why the last event was not taken; empty if it was

    @property
    def is_down(self) -> bool:
        """Whether nothing is taken any more."""
        return len(self._failing) >= WEBHOOK_OUTAGE_JOBS

    @property
    def holds(self) -> bool:
        """Whether an event that was not taken is to be sent again when the target may be asked again.

        Else it is the event's problem.
        """
        return self.is_down or self._asked_to_wait

    @property
    def wait_seconds(self) -> float:
        """How long from now the target is to be left alone."""
        return max(0.0, self._not_before - self._clock())

    def took(self) -> None:
        """An event was taken."""
        self._failing.clear()
        self._not_before = _NEVER
        self._wait_seconds = WEBHOOK_OUTAGE_WAIT_SECONDS
        self._asked_to_wait = False
        self.problem = ""

    def failed(self, job_id: str, problem: str, asked_seconds: float = 0.0) -> None:
        """An event was not taken.

        Args:
            job_id: of its job.
            problem: why, for people.
            asked_seconds: how long the target asks to be left alone; 0: it does not.
        """
        self.problem = problem
        if len(self._failing) < WEBHOOK_OUTAGE_JOBS:  # more of them would say nothing more
            self._failing.add(job_id)
        self._asked_to_wait = asked_seconds > 0
        seconds = asked_seconds
        if self.is_down:
            seconds = max(seconds, self._wait_seconds)
            self._wait_seconds = min(2 * self._wait_seconds, WEBHOOK_OUTAGE_MAX_WAIT_SECONDS)
        if seconds:
            self._not_before = self._clock() + seconds
