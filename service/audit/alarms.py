"""Raising an alarm: on standard error, as a metric, to a webhook. None of them fails the watch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.watch_state import WatchState
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import WATCH_WEBHOOK_MAX_TRIES, WATCH_WEBHOOK_TIMEOUT_SECONDS
from jobledger.store.spec.values import rfc3339

ALARM_TYPE: Final = "jobledger.audit.alarm.v1"


class Gauges:
    """What a watcher tells Prometheus; docs/AUDIT.md has the meanings."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge
        except ImportError as error:
            raise InvalidSettings(
                "metrics need the package `prometheus-client`: `pip install 'jobledger[server]'`"
            ) from error
        self.registry = CollectorRegistry()

        def gauge(name: str, meaning: str) -> "Gauge":
            return Gauge(f"jobledger_watch_{name}", meaning, registry=self.registry)

        self._alarms = Counter(
            "jobledger_watch_alarms", "Alarms that were raised, by kind.", ("kind",), registry=self.registry
        )
        for kind in Kind:
            self._alarms.labels(kind.value)
        self._connected = gauge("connected", "1 while the log can be read.")
        self._size = gauge("sequence", "The last event that was read and hashed.")
        self._sealed = gauge("sealed_sequence", "The last event that a fitting seal covers.")
        self._sealed_time = gauge(
            "sealed_time_seconds", "When that seal was published, Unix seconds; 0: none."
        )
        self._read_again = gauge("read_again_time_seconds", "When the whole log was last read, Unix seconds.")

    def show(self, state: WatchState | None, *, connected: bool) -> None:
        """Take over what is known."""
        self._connected.set(connected)
        if state is not None:
            self._size.set(state.size)
            self._sealed.set(state.sealed_size)
            self._sealed_time.set(state.sealed_time / 1e9)
            self._read_again.set(state.read_again / 1e9)

    def alarm(self, finding: Finding) -> None:
        """Count it."""
        self._alarms.labels(finding.kind.value).inc()

    def serve(self, port: int) -> Callable[[], None]:
        """Answer on this port of the loopback address; returns what ends it.

        Raises:
            InvalidSettings: if the port is taken.
        """
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise InvalidSettings(f"metrics can't be served on port {port}: {error.strerror}") from error

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end

    def write(self, path: Path) -> None:
        """Replace a file, for a collector of text files.

        Raises:
            InvalidSettings: if it can't be written.
        """
        from prometheus_client import write_to_textfile

        try:
            write_to_textfile(str(path), self.registry)
        except OSError as error:
            raise InvalidSettings(f"the metrics file {path} can't be written: {error.strerror}") from error


def alarm_event(finding: Finding, origin: str, now: int) -> dict[str, Any]:
    """An alarm as a CloudEvent."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": f"/jobledger/watch/{origin}",
        "type": ALARM_TYPE,
        "time": rfc3339(now),
        "datacontenttype": "application/json",
        "data": {
            "Kind": finding.kind.value,
            "Message": finding.message,
            "Sequence": finding.sequence,
            "JobID": finding.job_id,
            "Origin": origin,
        },
    }


def send_alarm(url: str, event: dict[str, Any], *, sleep: Callable[[float], None] = time.sleep) -> str:
    """POST an alarm; returns why it could not be delivered, or an empty text."""
    from jobledger.service.client.lean import httpx

    problem = ""
    for attempt in range(WATCH_WEBHOOK_MAX_TRIES):
        if attempt:
            sleep(2.0**attempt)
        try:
            response = httpx.post(
                url,
                content=msgspec.json.encode(event),
                headers={"Content-Type": "application/cloudevents+json"},
                timeout=WATCH_WEBHOOK_TIMEOUT_SECONDS,
            )
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
            continue
        except httpx.InvalidURL as error:
            return f"{url!r:.200} is no URL: {error}"
        if response.is_success:
            return ""
        problem = f"it answered {response.status_code}"
    return problem
