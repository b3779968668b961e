"""What durable subscriptions are up to, as metrics: looked at with a bounded rate, however often it is asked.

A service tells of all subscriptions of its log, also of those that others read.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobledger.projections.subscriptions.admin import Attendance, SubscriptionInfo, Subscriptions
from jobledger.service.limits import (
    METRIC_LABEL_VALUES_MAX,
    SUBSCRIPTIONS_LOOK_SECONDS,
    SUBSCRIPTIONS_LOOK_TIMEOUT_SECONDS,
)
from jobledger.store.model.errors import JobledgerError

OTHER: Final = "other"


class SubscriptionReadings(Collector):
    """Tells of a log's subscriptions; of none, until it is told of which log."""

    def __init__(self) -> None:
        self.seen: Sequence[SubscriptionInfo] = ()
        self._subscriptions: Subscriptions | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    def watch(self, subscriptions: Subscriptions) -> None:
        """Tell of these."""
        self._subscriptions = subscriptions

    async def look(self) -> None:
        """Look at them, unless that was done no longer than SUBSCRIPTIONS_LOOK_SECONDS ago."""
        if self._looking is None or self._looking.done():
            if asyncio.get_running_loop().time() - self._looked_at < SUBSCRIPTIONS_LOOK_SECONDS:
                return
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)  # others wait for the same look

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        if self._subscriptions is not None:
            with suppress(JobledgerError, TimeoutError):  # then what was seen last is told on
                async with asyncio.timeout(SUBSCRIPTIONS_LOOK_TIMEOUT_SECONDS):
                    self.seen = await self._subscriptions.list()
        self._looked_at = asyncio.get_running_loop().time()

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead: the figures are made when they are asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """What was seen last."""
        named = self.seen[:METRIC_LABEL_VALUES_MAX]
        others = self.seen[METRIC_LABEL_VALUES_MAX:]
        state = GaugeMetricFamily(
            "jobledger_subscription_state",
            "1 for the state a durable subscription is in: `unattended`, `catching_up`, `parked`, `live`.",
            labels=("subscription", "state"),
        )
        for info in named:
            for each in Attendance:
                state.add_metric((info.name, each.value), float(info.state is each))
        yield state
        for name, meaning, read, together in _FIGURES:
            family = GaugeMetricFamily(f"jobledger_subscription_{name}", meaning, labels=("subscription",))
            for info in named:
                family.add_metric((info.name,), read(info))
            if others:
                family.add_metric((OTHER,), together([read(info) for info in others]))
            yield family


class _Figure(NamedTuple):
    """One figure of a subscription, and what it is for several of them together."""

    name: str
    meaning: str
    read: Callable[[SubscriptionInfo], float]
    together: Callable[[Iterable[float]], float]


_FIGURES: Final = (
    _Figure(
        "gap_events", "Events that a durable subscription has not handled yet.", lambda info: info.gap, sum
    ),
    _Figure("lag_seconds", "Age of the oldest of these.", lambda info: info.lag_seconds, max),
    _Figure(
        "parked_jobs", "Jobs that it has set aside until an operator decides.", lambda info: info.parked, sum
    ),
    _Figure("retrying_jobs", "Jobs whose event it tries again by itself.", lambda info: info.retrying, sum),
)
