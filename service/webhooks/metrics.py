"""What is counted of webhooks, for Prometheus. Names of webhooks are labels: admins make them, and few."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class WebhookFigures:
    """The figures of one service's webhooks.

    Args:
        registry: where they are told.
        bounded: makes labels of names; of too many it makes one.
        buckets: of times, in seconds.
    """

    def __init__(
        self, registry: CollectorRegistry, bounded: Callable[[str, str], str], buckets: Sequence[float]
    ) -> None:
        self._bounded = bounded
        self._tries = Counter(
            "jobledger_webhook_tries",
            "Deliveries tried, by webhook and what became of them: `taken`, `refused` (the target answered"
            " something else than 2xx), `failed` (it did not answer), `gone` (410).",
            ("webhook", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "jobledger_webhook_seconds",
            "Time of one try to deliver to a webhook.",
            ("webhook",),
            buckets=buckets,
            registry=registry,
        )
        self._down = Gauge(
            "jobledger_webhook_down",
            "1 if a webhook's target takes nothing any more, as the replica that delivers to it knows.",
            ("webhook",),
            registry=registry,
        )

    def tried(self, name: str, outcome: str, seconds: float) -> None:
        """Count a try: what became of it is a word of a fixed set."""
        bounded = self._bounded("webhook", name)
        self._tries.labels(bounded, outcome).inc()
        self._seconds.labels(bounded).observe(seconds)

    def down(self, name: str, *, down: bool) -> None:
        """Tell whether a webhook's target takes nothing any more."""
        self._down.labels(self._bounded("webhook", name)).set(down)

    def ended(self, name: str) -> None:
        """Tell nothing more of a webhook's target: it is not delivered to here."""
        with suppress(KeyError):  # it was never told
            self._down.remove(self._bounded("webhook", name))
