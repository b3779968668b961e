"""Metrics of webhooks, for Prometheus. Webhook names are labels: admins create them, and few of them."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class WebhookMetrics:
    """The metrics of one service's webhooks.

    Args:
        registry: where they are registered.
        bounded: maps a label's value to itself, or to one common value once there are too many.
        buckets: of durations, in seconds.
    """

    def __init__(
        self, registry: CollectorRegistry, bounded: Callable[[str, str], str], buckets: Sequence[float]
    ) -> None:
        self._bounded = bounded
        self._tries = Counter(
            "jobledger_webhook_tries",
            "Delivery attempts by webhook and outcome: `taken`, `refused` (the target answered something else"
            " than 2xx), `failed` (it did not answer), `gone` (410).",
            ("webhook", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "jobledger_webhook_seconds",
            "Duration of one delivery attempt.",
            ("webhook",),
            buckets=buckets,
            registry=registry,
        )
        self._down = Gauge(
            "jobledger_webhook_down",
            "1 if the webhook's target accepts no events, as known to the replica that delivers to it.",
            ("webhook",),
            registry=registry,
        )

    def count_attempt(self, name: str, outcome: str, seconds: float) -> None:
        """Count an attempt; `outcome` is one of a fixed set of words."""
        bounded = self._bounded("webhook", name)
        self._tries.labels(bounded, outcome).inc()
        self._seconds.labels(bounded).observe(seconds)

    def set_down(self, name: str, *, down: bool) -> None:
        """Set whether a webhook's target accepts no events."""
        self._down.labels(self._bounded("webhook", name)).set(down)

    def forget(self, name: str) -> None:
        """Remove a webhook's target: this replica no longer delivers to it."""
        with suppress(KeyError):  # nothing was set
            self._down.remove(self._bounded("webhook", name))
