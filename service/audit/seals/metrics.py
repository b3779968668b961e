"""What the sealer knows, as metrics."""

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobledger.service.audit.seals.sealer import Sealer, SealState


class SealReadings(Collector):
    """Tells of a service's sealer; of nothing, until it is told which one.

    Args:
        clock: Unix seconds, as the stream of seals has them.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sealer: Sealer | None = None

    def watch(self, sealer: Sealer) -> None:
        """Tell of this one."""
        self._sealer = sealer

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead: the figures are made when they are asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        state = self._sealer.state if self._sealer is not None else SealState()
        last = state.last
        failures = CounterMetricFamily("jobledger_seal_failures", "Times that a seal could not be made.")
        failures.add_metric((), state.failures)
        yield failures
        ignored = CounterMetricFamily(
            "jobledger_seal_notes_ignored",
            "Notes on the stream of seals that do not count: by an unknown key, or damaged.",
            labels=("reason",),
        )
        for reason, count in (self._sealer.ignored if self._sealer is not None else {}).items():
            ignored.add_metric((reason,), count)
        yield ignored
        for name, meaning, value in (
            (
                "seal_alarm",
                "1 if the log does not fit a seal, or replaces one that was sealed before.",
                float(bool(state.alarm)),
            ),
            ("seal_events", "Events that the last seal covers.", last.seal.size if last else 0),
            (
                "seal_age_seconds",
                "Time since the last seal was published; it grows while nothing happens.",
                max(0.0, self._clock() - last.time / 1e9) if last else 0.0,
            ),
        ):
            yield GaugeMetricFamily(f"jobledger_{name}", meaning, value=value)
