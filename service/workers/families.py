"""The metrics of several processes as one: counters and histograms are added, and some gauges.

The counts of a worker that has ended stay in the sums, as it last sent them, so that no counter goes back.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from jobledger.service.workers.messages import Family

_COUNTED: Final = frozenset({"counter", "histogram"})
# Of each process; every other gauge describes the service, and is the owner's.
_ADDED_GAUGES: Final = frozenset(
    {
        "jobledger_feeds_open",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)

_Key = tuple[str, tuple[tuple[str, str], ...]]


def families_of(registry: Collector) -> list[Family]:
    """The metrics of a worker that are added to those of the owner."""
    return [
        Family(
            metric.name, metric.type, [(each.name, dict(each.labels), each.value) for each in metric.samples]
        )
        for metric in registry.collect()
        if metric.type in _COUNTED or metric.name in _ADDED_GAUGES
    ]


class Totals:
    """What the workers have sent."""

    def __init__(self) -> None:
        self._running: dict[int, list[Family]] = {}
        self._ended: dict[str, dict[_Key, float]] = defaultdict(dict)

    def update(self, number: int, families: list[Family]) -> None:
        """Replace what a running worker has sent."""
        self._running[number] = families

    def retire(self, number: int) -> None:
        """Keep the counts of a worker that has ended."""
        for family in self._running.pop(number, ()):
            if family.kind in _COUNTED:
                _add(self._ended[family.name], family)

    def added_to(self, registry: Collector) -> Collector:
        """The metrics of the owner, with those of the workers added."""
        sums: dict[str, dict[_Key, float]] = defaultdict(dict)
        for name, samples in self._ended.items():
            sums[name] = dict(samples)
        for families in self._running.values():
            for family in families:
                _add(sums[family.name], family)
        return _Merged([_merged(metric, sums.get(metric.name, {})) for metric in registry.collect()])


class _Merged(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics."""
        return iter(self._metrics)


def _add(sums: dict[_Key, float], family: Family) -> None:
    for name, labels, value in family.samples:
        key = name, tuple(labels.items())
        sums[key] = sums.get(key, 0.0) + value


def _merged(metric: Metric, sums: dict[_Key, float]) -> Metric:
    left = dict(sums)
    samples = [
        each._replace(value=each.value + left.pop((each.name, tuple(each.labels.items())), 0.0))
        for each in metric.samples
    ]
    merged = Metric(metric.name, metric.documentation, metric.type)
    merged.samples = samples + [Sample(name, dict(labels), value) for (name, labels), value in left.items()]
    return merged
