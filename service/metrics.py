"""What is counted and measured, for Prometheus; one `Metrics` per service, with no state of the process.

No label takes a value that a client can make up: methods and routes are the known ones, everything else is
`other`. Names and meanings are in docs/OPERATIONS.md, and a test compares.
"""

import platform
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobledger import __version__
from jobledger.projections.as_of.snapshots import SnapshotCache
from jobledger.projections.projector import ProjectorState
from jobledger.service.audit.sealer import Sealer, SealState
from jobledger.service.limits import METRIC_LABEL_VALUES_MAX
from jobledger.service.subscription_metrics import SubscriptionReadings
from jobledger.service.webhooks.metrics import WebhookFigures


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


if TYPE_CHECKING:
    from jobledger.service.server.monitor import Monitor

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
OTHER: Final = "other"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Without this, each counter has a second series, with a time that nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.monitor: Monitor | None = None
        self._requests = Counter(
            "jobledger_http_requests",
            "Requests answered, by method, route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "jobledger_http_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("method", "route"),
            buckets=_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._writes = Counter(
            "jobledger_writes",
            "Commands, by name and outcome: `written`, `unchanged`, or the error's class.",
            ("command", "outcome"),
            registry=self.registry,
        )
        self._feeds_open = Gauge("jobledger_feeds_open", "Live feeds that are open.", registry=self.registry)
        self._feeds_closed = Counter(
            "jobledger_feeds_closed",
            "Live feeds that ended: `gone`, `drained`, `slow` (its reader was cut off), `revoked`, `broken`.",
            ("reason",),
            registry=self.registry,
        )
        self._feed_sent = Counter(
            "jobledger_feed_events_sent", "Events sent to live feeds.", registry=self.registry
        )
        build = Gauge(
            "jobledger_build_info", "Always 1; what runs.", ("version", "python"), registry=self.registry
        )
        build.labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Readings(self))
        self.seals = SealReadings()
        self.registry.register(self.seals)
        self.asof = AsOfReadings()
        self.registry.register(self.asof)
        self._seen: dict[str, set[str]] = {}
        self.webhooks = WebhookFigures(self.registry, self._bounded, _BUCKETS_SECONDS)
        self.subscriptions = SubscriptionReadings()
        self.registry.register(self.subscriptions)
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            method: of HTTP.
            route: the template, never the path: `/api/v1/orchestrator/jobs/{id}`; empty: none fits.
            status: of the answer.
            seconds: from headers to the end of the answer.
        """
        known = method if method in _METHODS else OTHER
        bounded = self._bounded("route", route or OTHER)
        key = (known, bounded, status)
        series = self._series.get(key)
        if series is None:  # the library looks them up under a lock, and makes texts of the labels, each time
            series = self._requests.labels(known, bounded, str(status)), self._seconds.labels(known, bounded)
            self._series[key] = series
        series[0].inc()
        series[1].observe(seconds)

    def write(self, command: str, outcome: str) -> None:
        """Count a command: its name, and `written`, `unchanged` or the name of an error's class."""
        self._writes.labels(self._bounded("command", command), self._bounded("outcome", outcome)).inc()

    def feed_opened(self) -> None:
        """Count a live feed that began."""
        self._feeds_open.inc()

    def feed_closed(self, reason: str) -> None:
        """Count a live feed that ended, and why: a word of a fixed set."""
        self._feeds_open.dec()
        self._feeds_closed.labels(self._bounded("reason", reason)).inc()

    def feed_sent(self, count: int) -> None:
        """Count events that were sent to feeds."""
        self._feed_sent.inc(count)

    def watch(self, monitor: "Monitor") -> None:
        """Tell the state of log, projector and view as this monitor sees it."""
        self.monitor = monitor

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _bounded(self, label: str, value: str) -> str:
        """The value, or `other` once there are too many: a mistake of ours must not fill the memory."""
        seen = self._seen.setdefault(label, set())
        if value not in seen:
            if len(seen) >= METRIC_LABEL_VALUES_MAX:
                return OTHER
            seen.add(value)
        return value


class _Readings(Collector):
    """What the monitor last saw, as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        monitor = self._metrics.monitor
        if monitor is None:
            return
        seen = monitor.seen
        projector = GaugeMetricFamily(
            "jobledger_projector_state", "1 for the state that the projector is in.", labels=("state",)
        )
        for state in ProjectorState:
            projector.add_metric((state.value,), float(seen.projector is state))
        yield projector
        restarts = CounterMetricFamily(
            "jobledger_nats_restarts",
            "Times that the embedded nats-server was restarted: it died, hung, or could not write.",
        )
        restarts.add_metric((), monitor.server_restarts)
        yield restarts
        feeds = CounterMetricFamily(
            "jobledger_feed_restarts", "Times that the projector's feed was restarted: it delivered nothing."
        )
        feeds.add_metric((), monitor.feed_restarts)
        yield feeds
        rebuilds = CounterMetricFamily(
            "jobledger_view_rebuilds", "Times that the view's file was damaged or lost and was begun again."
        )
        rebuilds.add_metric((), seen.view_rebuilds)
        yield rebuilds
        steps = CounterMetricFamily(
            "jobledger_log_clock_steps",
            "Events read whose stream time is before that of the event before: a server's clock went back.",
        )
        steps.add_metric((), seen.clock_steps)
        yield steps
        failed = GaugeMetricFamily(
            "jobledger_check_failed", "1 for each check of /readyz?verbose that fails.", labels=("check",)
        )
        for check in monitor.checks:
            failed.add_metric((check.name,), float(bool(check.problem)))
        yield failed
        for name, meaning, value in (
            ("ready", "1 if /readyz says yes.", float(monitor.is_ready)),
            ("log_connected", "1 if the log answered when it was last asked.", float(not seen.log_error)),
            ("log_sequence", "The log's last sequence, when it last answered.", seen.log_sequence),
            ("view_sequence", "The last sequence that is visible in the view.", seen.view_sequence),
            ("view_gap_events", "Events that are in the log and not yet in the view.", seen.gap),
            ("view_lag_seconds", "Age of the oldest event that is not yet in the view.", seen.lag_seconds),
            ("view_anomalies", "Events in the view that made no sense where they stood.", seen.anomalies),
            (
                "disk_free_bytes",
                "Least free space of the file systems that the service writes to.",
                min((disk.free_bytes for disk in seen.disks), default=0),
            ),
            ("quarantined_jobs", "Jobs that are frozen: an event can't be read.", seen.troubles.quarantined),
            ("log_damaged", "1 if events are missing from the log.", float(seen.damaged_events > 0)),
            ("log_damaged_events", "Events that are missing from the log.", seen.damaged_events),
            ("view_size_bytes", "Size of the view's files.", seen.view_bytes),
        ):
            yield GaugeMetricFamily(f"jobledger_{name}", meaning, value=value)
