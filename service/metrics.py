"""The Prometheus metrics of one service; one `Metrics` per service, no process-wide state.

No label takes a value from a client: methods and routes are from a fixed set, all others count as `other`.
Names and descriptions are listed in docs/OPERATIONS.md; a test compares.
"""

import platform
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

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
from jobledger.service.server.monitor import Monitor
from jobledger.service.subscription_metrics import SubscriptionMetrics
from jobledger.service.webhooks.metrics import WebhookMetrics
from jobledger.service.workers.families import Totals

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
OTHER: Final = "other"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Without this, each counter has a second series with its creation time.
disable_created_metrics()  # type: ignore[no-untyped-call]


class WorkerSource(Protocol):
    """The workers of a service, as its owner sees them: a `WorkerPool`."""

    restarts: int

    @property
    def running(self) -> int:
        """How many workers accept requests."""
        ...

    async def collect(self) -> Totals:
        """The metrics of all workers."""
        ...


class Metrics:
    """The metrics of one service.

    Attributes:
        source: the workers whose metrics are added; None if this is the only process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "jobledger_http_requests",
            "Requests answered, by method, route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "jobledger_http_request_seconds",
            "Time from the request headers to the end of the response.",
            ("method", "route"),
            buckets=_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._writes = Counter(
            "jobledger_writes",
            "Commands, by name and outcome: `written`, `unchanged`, or the class of the error.",
            ("command", "outcome"),
            registry=self.registry,
        )
        self._feeds_open = Gauge("jobledger_feeds_open", "Open live feeds.", registry=self.registry)
        self._feeds_closed = Counter(
            "jobledger_feeds_closed",
            "Closed live feeds, by reason: `gone`, `drained`, `slow` (the reader was cut off), `revoked`,"
            " `broken`.",
            ("reason",),
            registry=self.registry,
        )
        self._feed_sent = Counter(
            "jobledger_feed_events_sent", "Events sent to live feeds.", registry=self.registry
        )
        build = Gauge(
            "jobledger_build_info",
            "Always 1; the labels name the release.",
            ("version", "python"),
            registry=self.registry,
        )
        build.labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        self.source: WorkerSource | None = None
        self._seen: dict[str, set[str]] = {}
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.state = StateCollector()
        self.seals = SealCollector()
        self.asof = AsOfCollector()
        self.workers = WorkerCollector()
        self.subscriptions = SubscriptionMetrics()
        for collector in (self.state, self.seals, self.asof, self.workers):
            self.registry.register(collector)
        self.webhooks = WebhookMetrics(self.registry, self._bounded, _BUCKETS_SECONDS)
        self.registry.register(self.subscriptions)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            method: the HTTP method.
            route: the template, not the path: `/api/v1/orchestrator/jobs/{id}`; empty if none matches.
            status: the response status.
            seconds: from the headers to the end of the response.
        """
        known = method if method in _METHODS else OTHER
        bounded = self._bounded("route", route or OTHER)
        key = (known, bounded, status)
        series = self._series.get(key)
        if series is None:  # `labels` takes a lock and formats the labels on each call
            series = self._requests.labels(known, bounded, str(status)), self._seconds.labels(known, bounded)
            self._series[key] = series
        series[0].inc()
        series[1].observe(seconds)

    def write(self, command: str, outcome: str) -> None:
        """Count a command and its outcome: `written`, `unchanged` or the class of the error."""
        self._writes.labels(self._bounded("command", command), self._bounded("outcome", outcome)).inc()

    def feed_opened(self) -> None:
        """Count an opened live feed."""
        self._feeds_open.inc()

    def feed_closed(self, reason: str) -> None:
        """Count a closed live feed; the reason is from a fixed set."""
        self._feeds_open.dec()
        self._feeds_closed.labels(self._bounded("reason", reason)).inc()

    def feed_sent(self, count: int) -> None:
        """Count events sent to feeds."""
        self._feed_sent.inc(count)

    def text(self) -> bytes:
        """Returns the metrics of this process in the Prometheus text format."""
        return generate_latest(self.registry)

    async def collect_text(self) -> bytes:
        """Returns the metrics of all processes of the service in the Prometheus text format."""
        if self.source is None:
            return self.text()
        totals = await self.source.collect()
        return generate_latest(totals.added_to(self.registry))

    def _bounded(self, label: str, value: str) -> str:
        """Returns the value, or `other` once a label has too many: a bug must not fill the memory."""
        seen = self._seen.setdefault(label, set())
        if value not in seen:
            if len(seen) >= METRIC_LABEL_VALUES_MAX:
                return OTHER
            seen.add(value)
        return value


class _LazyCollector(Collector):
    """A collector that computes its samples on each scrape, so it registers without describing them."""

    def describe(self) -> Iterator[Metric]:
        return iter(())


class StateCollector(_LazyCollector):
    """The monitor's latest observation; no samples before `watch`."""

    def __init__(self) -> None:
        self._monitor: Monitor | None = None

    def watch(self, monitor: Monitor) -> None:
        """Report this monitor's observations."""
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yields the samples."""
        monitor = self._monitor
        if monitor is None:
            return
        observed = monitor.latest
        projector = GaugeMetricFamily(
            "jobledger_projector_state", "1 for the current state of the projector.", labels=("state",)
        )
        for state in ProjectorState:
            projector.add_metric((state.value,), float(observed.projector is state))
        yield projector
        for name, description, count in (
            (
                "nats_restarts",
                "Restarts of the embedded nats-server: it died, hung, or could not write.",
                monitor.server_restarts,
            ),
            (
                "feed_restarts",
                "Restarts of the projector's log reader: it delivered nothing.",
                monitor.feed_restarts,
            ),
            (
                "view_rebuilds",
                "Rebuilds of the view's file after it was damaged or lost.",
                observed.view_rebuilds,
            ),
            (
                "log_clock_steps",
                "Events whose stream time is earlier than that of the event before: a clock went back.",
                observed.clock_steps,
            ),
        ):
            yield CounterMetricFamily(f"jobledger_{name}", description, value=count)
        failed = GaugeMetricFamily(
            "jobledger_check_failed", "1 for each check of /readyz?verbose that fails.", labels=("check",)
        )
        for check in monitor.checks:
            failed.add_metric((check.name,), float(bool(check.problem)))
        yield failed
        for name, description, value in (
            ("ready", "1 if /readyz answers 200.", float(monitor.is_ready)),
            ("log_connected", "1 if the log answered the last request.", float(not observed.log_error)),
            ("log_sequence", "The log's last sequence when it last answered.", observed.log_sequence),
            ("view_sequence", "The last sequence visible in the view.", observed.view_sequence),
            ("view_gap_events", "Events in the log that are not yet in the view.", observed.gap),
            ("view_lag_seconds", "Age of the oldest event not yet in the view.", observed.lag_seconds),
            (
                "view_anomalies",
                "Events in the view that were invalid for the state of their job.",
                observed.anomalies,
            ),
            (
                "disk_free_bytes",
                "Least free space of the file systems that the service writes to.",
                min((disk.free_bytes for disk in observed.disks), default=0),
            ),
            (
                "quarantined_jobs",
                "Jobs frozen because an event can't be read.",
                observed.troubles.quarantined,
            ),
            ("log_damaged", "1 if events are missing from the log.", float(observed.damaged_events > 0)),
            ("log_damaged_events", "Events missing from the log.", observed.damaged_events),
            ("view_size_bytes", "Size of the view's files.", observed.view_bytes),
        ):
            yield GaugeMetricFamily(f"jobledger_{name}", description, value=value)


class WorkerCollector(_LazyCollector):
    """The workers of a service; a service of one process is its own worker."""

    def __init__(self) -> None:
        self._workers: WorkerSource | None = None

    def watch(self, workers: WorkerSource) -> None:
        """Report these workers."""
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yields the samples."""
        running, restarts = (
            (self._workers.running, self._workers.restarts) if self._workers is not None else (1, 0)
        )
        yield GaugeMetricFamily(
            "jobledger_workers_running", "Processes of the service that answer requests.", value=running
        )
        yield CounterMetricFamily(
            "jobledger_worker_restarts", "Workers that ended and were replaced.", value=restarts
        )


class SealCollector(_LazyCollector):
    """The state of a service's sealer; zeros before `watch`.

    Args:
        clock: Unix seconds, comparable with the times of the stream of seals.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sealer: Sealer | None = None

    def watch(self, sealer: Sealer) -> None:
        """Report this sealer."""
        self._sealer = sealer

    def collect(self) -> Iterator[Metric]:
        """Yields the samples."""
        state = self._sealer.state if self._sealer is not None else SealState()
        last = state.last
        yield CounterMetricFamily(
            "jobledger_seal_failures", "Failed attempts to make a seal.", value=state.failures
        )
        ignored = CounterMetricFamily(
            "jobledger_seal_notes_ignored",
            "Notes on the stream of seals that were ignored: signed by an unknown key, or damaged.",
            labels=("reason",),
        )
        for reason, count in (self._sealer.ignored if self._sealer is not None else {}).items():
            ignored.add_metric((reason,), count)
        yield ignored
        for name, description, value in (
            (
                "seal_alarm",
                "1 if the log contradicts a seal, or replaces a log that was sealed before.",
                float(bool(state.alarm)),
            ),
            ("seal_events", "Events covered by the last seal.", last.seal.size if last else 0),
            (
                "seal_age_seconds",
                "Time since the last seal was published; it also grows while the log is idle.",
                max(0.0, self._clock() - last.time / 1e9) if last else 0.0,
            ),
        ):
            yield GaugeMetricFamily(f"jobledger_{name}", description, value=value)


class AsOfCollector(_LazyCollector):
    """The cached copies of the view as of earlier points; zeros before `watch`."""

    def __init__(self) -> None:
        self._copies: SnapshotCache | None = None

    def watch(self, copies: SnapshotCache) -> None:
        """Report this cache."""
        self._copies = copies

    def collect(self) -> Iterator[Metric]:
        """Yields the samples."""
        copies = self._copies
        count, size_bytes, built = (
            (len(copies.sequences), copies.size_bytes, copies.built) if copies is not None else (0, 0, 0)
        )
        yield GaugeMetricFamily(
            "jobledger_asof_copies", "Cached copies of the view as of earlier points.", value=count
        )
        yield GaugeMetricFamily("jobledger_asof_bytes", "Size of these copies.", value=size_bytes)
        yield CounterMetricFamily("jobledger_asof_built", "Copies built since the start.", value=built)
