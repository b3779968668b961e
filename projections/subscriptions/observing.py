"""Hearing of what changes: for who reads a subscription, and for who waits until it is somewhere."""

import asyncio

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.limits import WAIT_DEFAULT_SECONDS
from jobledger.projections.subscriptions.status import SubscriptionState


class Observed:
    """Something with a state that others wait for."""

    def __init__(self) -> None:
        self._news = asyncio.Event()  # for who reads
        self._changed = asyncio.Event()  # for who waits
        self._known = SubscriptionState.STOPPED

    @property
    def state(self) -> SubscriptionState:
        """Where it is."""
        raise NotImplementedError

    async def wait_state(
        self, *states: SubscriptionState, timeout_seconds: float = WAIT_DEFAULT_SECONDS
    ) -> None:
        """Wait until it is in one of these states; somebody else must be reading it meanwhile.

        Raises:
            WaitTimeout: if it is not in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.state not in states:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            wanted = " or ".join(states)
            raise WaitTimeout(
                f"the subscription is {self.state} and was not {wanted} within {timeout_seconds:g} s"
            ) from None

    def news(self) -> None:
        """There is something to look at."""
        self._news.set()
        self._changed.set()

    def _tell(self) -> None:
        state = self.state
        if state is not self._known:
            self._known = state
            self._changed.set()
