"""Metrics of durable subscriptions, read from the server at a bounded rate, however often they are scraped.

A service reports every subscription of its log, whichever process reads it.
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
    SUBSCRIPTIONS_POLL_SECONDS,
    SUBSCRIPTIONS_READ_TIMEOUT_SECONDS,
)
from jobledger.store.model.errors import JobledgerError

OTHER: Final = "other"


class SubscriptionMetrics(Collector):
    """Collects the metrics of a log's subscriptions; none before `watch`."""

    def __init__(self) -> None:
        self._infos: Sequence[SubscriptionInfo] = ()
        self._subscriptions: Subscriptions | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")

    def watch(self, subscriptions: Subscriptions) -> None:
        """Report these subscriptions."""
        self._subscriptions = subscriptions

    async def refresh(self) -> None:
        """Read them from the server, unless that was done less than SUBSCRIPTIONS_POLL_SECONDS ago."""
        if self._reading is None or self._reading.done():
            if asyncio.get_running_loop().time() - self._read_at < SUBSCRIPTIONS_POLL_SECONDS:
                return
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)  # concurrent callers share one read

    async def close(self) -> None:
        """Cancel a read in progress."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        if self._subscriptions is not None:
            with suppress(JobledgerError, TimeoutError):  # keep what was read last
                async with asyncio.timeout(SUBSCRIPTIONS_READ_TIMEOUT_SECONDS):
                    self._infos = await self._subscriptions.list()
        self._read_at = asyncio.get_running_loop().time()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the metrics are created by `collect`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics of what was read last."""
        named = self._infos[:METRIC_LABEL_VALUES_MAX]
        others = self._infos[METRIC_LABEL_VALUES_MAX:]
        state = GaugeMetricFamily(
            "jobledger_subscription_state",
            "1 for the state of a durable subscription: `unattended`, `catching_up`, `parked`, `live`.",
            labels=("subscription", "state"),
        )
        for info in named:
            for each in Attendance:
                state.add_metric((info.name, each.value), float(info.state is each))
        yield state
        for name, help_text, read, combine in _MEASURES:
            family = GaugeMetricFamily(f"jobledger_subscription_{name}", help_text, labels=("subscription",))
            for info in named:
                family.add_metric((info.name,), read(info))
            if others:
                family.add_metric((OTHER,), combine([read(info) for info in others]))
            yield family


class _Measure(NamedTuple):
    """A metric of one subscription, and how it combines for several."""

    name: str
    help_text: str
    read: Callable[[SubscriptionInfo], float]
    combine: Callable[[Iterable[float]], float]


_MEASURES: Final = (
    _Measure(
        "gap_events", "Events that a durable subscription has not handled yet.", lambda info: info.gap, sum
    ),
    _Measure(
        "lag_seconds",
        "Age of the oldest event that a durable subscription has not handled yet.",
        lambda info: info.lag_seconds,
        max,
    ),
    _Measure(
        "parked_jobs",
        "Parked jobs of a durable subscription, which wait for an operator.",
        lambda info: info.parked,
        sum,
    ),
    _Measure(
        "retrying_jobs",
        "Jobs that a durable subscription retries by itself.",
        lambda info: info.retrying,
        sum,
    ),
)
