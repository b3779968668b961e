"""The metrics of the copies that answer for earlier points."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobledger.projections.as_of.copies import SnapshotCache


class AsOfReadings(Collector):
    """What the copies of the view as of earlier points take, read when somebody asks for it."""

    def __init__(self) -> None:
        self._copies: SnapshotCache | None = None

    def watch(self, copies: SnapshotCache) -> None:
        """Tell of these."""
        self._copies = copies

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead: the figures are made when they are asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        copies = self._copies
        kept, size_bytes, built = (
            (len(copies.sequences), copies.size_bytes, copies.built) if copies is not None else (0, 0, 0)
        )
        yield GaugeMetricFamily(
            "jobledger_asof_copies", "Copies of the view as of earlier points that are kept.", value=kept
        )
        yield GaugeMetricFamily("jobledger_asof_bytes", "Size of these copies.", value=size_bytes)
        yield CounterMetricFamily("jobledger_asof_built", "Such copies made since the start.", value=built)
