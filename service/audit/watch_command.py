"""The run of `audit watch`: connects, continues from the saved state, and raises alarms.

An alarm goes to standard error, to a metric and to a webhook; a failure of one of these does not end the
watch. After an alarm the state is not saved any more: a restarted watcher raises the alarm again, until an
operator has investigated it and given the watcher a new state file.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from jobledger.service.audit.model.checkpoint import origin_of
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.watcher import WatchBroken, Watcher, WatchState, watch_state_file
from jobledger.service.cursor import stream_tag
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    WATCH_ONCE_MAX_TRIES,
    WATCH_RETRY_MAX_SECONDS,
    WATCH_RETRY_SECONDS,
    WATCH_SAVE_SECONDS,
    WATCH_STEP_SECONDS,
    WATCH_WEBHOOK_MAX_TRIES,
    WATCH_WEBHOOK_TIMEOUT_SECONDS,
)
from jobledger.service.log_access import log_is_served, open_log
from jobledger.service.settings import Settings
from jobledger.store.backoff import Backoff, exponential_seconds
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import EmbeddedServerError, LogUnavailable
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339

ALARM_TYPE: Final = "jobledger.audit.alarm.v1"


class WatchMetrics:
    """The Prometheus metrics of a watcher; docs/AUDIT.md describes them."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge
        except ImportError as error:
            raise InvalidSettings(
                "metrics need the package `prometheus-client`: `pip install 'jobledger[server]'`"
            ) from error
        self.registry = CollectorRegistry()

        def gauge(name: str, description: str) -> "Gauge":
            return Gauge(f"jobledger_watch_{name}", description, registry=self.registry)

        self._alarms = Counter(
            "jobledger_watch_alarms", "Alarms raised, by kind.", ("kind",), registry=self.registry
        )
        for kind in Kind:
            self._alarms.labels(kind.value)
        self._connected = gauge("connected", "1 while the log can be read.")
        self._size = gauge("sequence", "The last event read and hashed.")
        self._sealed = gauge("sealed_sequence", "The last event covered by a seal that fits.")
        self._sealed_time = gauge(
            "sealed_time_seconds", "When that seal was published, Unix seconds; 0 if there is none."
        )
        self._read_again = gauge("read_again_time_seconds", "When the whole log was last read, Unix seconds.")

    def update(self, state: WatchState | None, *, connected: bool) -> None:
        """Set the gauges."""
        self._connected.set(connected)
        if state is not None:
            self._size.set(state.size)
            self._sealed.set(state.sealed_size)
            self._sealed_time.set(state.sealed_time / NANOSECONDS_PER_SECOND)
            self._read_again.set(state.read_again / NANOSECONDS_PER_SECOND)

    def count_alarm(self, finding: Finding) -> None:
        """Count an alarm."""
        self._alarms.labels(finding.kind.value).inc()

    def serve(self, port: int) -> Callable[[], None]:
        """Serve the metrics on a port of 127.0.0.1; returns the function that stops it.

        Raises:
            InvalidSettings: the port is in use.
        """
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise InvalidSettings(f"metrics can't be served on port {port}: {error.strerror}") from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def write(self, path: Path) -> None:
        """Write the metrics to a file for a textfile collector.

        Raises:
            InvalidSettings: it can't be written.
        """
        from prometheus_client import write_to_textfile

        try:
            write_to_textfile(str(path), self.registry)
        except OSError as error:
            raise InvalidSettings(f"the metrics file {path} can't be written: {error.strerror}") from error


def alarm_event(finding: Finding, origin: str, now: int) -> dict[str, Any]:
    """Return an alarm as a CloudEvent."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": f"/jobledger/watch/{origin}",
        "type": ALARM_TYPE,
        "time": format_rfc3339(now),
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
    import httpx

    problem = ""
    for attempt in range(WATCH_WEBHOOK_MAX_TRIES):
        if attempt:
            sleep(exponential_seconds(attempt, 2.0, WATCH_WEBHOOK_TIMEOUT_SECONDS))
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
            return f"invalid URL {url!r:.200}: {error}"
        if response.is_success:
            return ""
        problem = f"the webhook answered {response.status_code}"
    return problem


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `audit watch`.

    Attributes:
        keys: trusted to sign seals.
        state_file: of the watcher.
        once: return when everything was examined.
        keep_going: continue after an alarm.
        again_seconds: read the whole log again at this interval; 0: at each start.
        seal_age_seconds: raise an alarm if events wait longer for a seal; None: never.
        webhook: URL to POST alarms to; empty for none.
        metrics_file: file to write metrics to.
    """

    keys: tuple[VerifierKey, ...]
    state_file: Path
    once: bool = False
    keep_going: bool = False
    again_seconds: float = 86_400.0
    seal_age_seconds: float | None = None
    webhook: str = ""
    metrics_file: Path | None = None


class Watch:
    """One run of the command.

    Args:
        settings: for the connection to the log.
        options: of the command.
        say: prints a line for the operator.
        metrics: to update; None without any.
        clock: Unix nanoseconds.

    Attributes:
        alarms: the distinct findings so far.
    """

    def __init__(
        self,
        settings: Settings,
        options: WatchOptions,
        say: Callable[[str], None],
        metrics: WatchMetrics | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.alarms: list[Finding] = []
        self._settings = settings
        self._options = options
        self._say = say
        self._metrics = metrics
        self._clock = clock
        self._state_file = watch_state_file(options.state_file)
        self._state = self._state_file.load()
        self._saved = self._state
        self._saved_at = 0.0
        self._has_announced = False

    async def run(self) -> Sequence[Finding]:
        """Watch until an alarm, the end of `once`, or forever.

        Raises:
            LogUnavailable: with `once`, if the log can't be reached.
            InvalidSettings: a file can't be written.
        """
        backoff = Backoff(WATCH_RETRY_SECONDS, WATCH_RETRY_MAX_SECONDS)
        while True:
            try:
                self._check_served()
                async with open_log(self._settings) as log:
                    backoff.reset()
                    if await self._session(log):
                        return self.alarms
            except WatchBroken as broken:
                await self._raise([broken.finding])
                if not self._options.keep_going or self._options.once:
                    return self.alarms
                await asyncio.Event().wait()  # the metric stays until an operator ends the watcher
            except (LogUnavailable, EmbeddedServerError) as error:
                if self._options.once and backoff.attempts >= WATCH_ONCE_MAX_TRIES - 1:
                    raise
                self._update_metrics(connected=False)
                self._say(f"the log can't be read; trying again: {error}")
                await backoff.sleep()

    def _check_served(self) -> None:
        """Do not start an embedded server to watch: it would block the service's own."""
        if not self._options.once and not log_is_served(self._settings):
            raise LogUnavailable(f"no service is running on data_dir {self._settings.data_dir}")

    async def _session(self, log: JetStreamLog) -> bool:
        """Follow over one connection; True when finished, False if everything is to be read again."""
        epoch = (await log.info()).epoch
        tag = stream_tag(epoch)
        if self._state is None:
            self._say(f"no state yet: the log {origin_of(tag)} is trusted as it is now")
            self._state = WatchState(origin=origin_of(tag), epoch=epoch, read_again=self._clock())
            again = False
        else:
            again = self._is_reread_due()
        self._announce(again=again)
        watcher = Watcher(log, await log.seals(tag), self._options.keys, self._state, clock=self._clock)
        try:
            await watcher.begin(again=again)
            while True:
                findings = await watcher.step(WATCH_STEP_SECONDS)
                findings += await self._stale(watcher)
                self._state = watcher.state
                self._update_metrics(connected=True)
                await self._raise(findings)
                if self.alarms and not self._options.keep_going and not self._options.once:
                    return True
                self._save(now=watcher.caught_up and self._options.once)
                if again and watcher.caught_up:
                    self._say(f"all {self._state.size} events were read again: none was changed")
                    again = False
                if watcher.caught_up and self._options.once:
                    return True
                if watcher.caught_up and not again and self._is_reread_due():
                    return False
        finally:
            await watcher.close()

    def _announce(self, *, again: bool) -> None:
        """Print once how late a change of old events can be noticed, and each time when a reread starts."""
        assert self._state is not None
        if again:
            last = format_rfc3339(self._state.read_again)
            self._say(f"reading all events again from the first one; last done at {last}")
        elif not self._has_announced:
            every = self._options.again_seconds
            due = format_rfc3339(self._state.read_again + int(every * NANOSECONDS_PER_SECOND))
            self._say(
                f"a change of the sealed events up to {self._state.sealed_size} is noticed when all events"
                f" are read again: every {every:g} s (--reread), next at {due}; a change of later events at"
                " each start"
            )
        self._has_announced = True

    def _is_reread_due(self) -> bool:
        assert self._state is not None
        age = self._clock() - self._state.read_again
        if self._options.once and not self._options.again_seconds:
            return True
        return age >= max(self._options.again_seconds, 1.0) * NANOSECONDS_PER_SECOND

    async def _stale(self, watcher: Watcher) -> list[Finding]:
        """Return an alarm if events wait too long for a seal."""
        limit = self._options.seal_age_seconds
        since = await watcher.unsealed_since() if limit is not None and watcher.caught_up else 0
        if limit is None or not since:
            return []
        waited = (self._clock() - since) / NANOSECONDS_PER_SECOND
        if waited <= limit:
            return []
        text = f"{watcher.unsealed} events wait for a seal, the first of them for {waited:.0f} s"
        return [Finding(Kind.STALE, text, sequence=watcher.state.sealed_size + 1)]

    async def _raise(self, findings: Sequence[Finding]) -> None:
        """Raise an alarm for each finding that is new."""
        for finding in findings:
            if any(_is_same(finding, known) for known in self.alarms):
                continue
            self.alarms.append(finding)
            self._say(f"ALARM: {finding}")
            if self._metrics is not None:
                self._metrics.count_alarm(finding)
                self._update_metrics(connected=True)
            if self._options.webhook:
                origin = self._state.origin if self._state is not None else ""
                event = alarm_event(finding, origin, self._clock())
                problem = await asyncio.to_thread(send_alarm, self._options.webhook, event)
                if problem:
                    self._say(f"the alarm could not be delivered to the webhook: {problem}")

    def _save(self, *, now: bool) -> None:
        """Save the state, at most every WATCH_SAVE_SECONDS and never after an alarm."""
        clock = time.monotonic()
        if self.alarms or self._state is None or self._state == self._saved:
            return
        if now or clock - self._saved_at >= WATCH_SAVE_SECONDS:
            self._state_file.save(self._state)
            self._saved, self._saved_at = self._state, clock

    def _update_metrics(self, *, connected: bool) -> None:
        if self._metrics is not None:
            self._metrics.update(self._state, connected=connected)
            if self._options.metrics_file is not None:
                self._metrics.write(self._options.metrics_file)


def _is_same(one: Finding, other: Finding) -> bool:
    if one.kind is Kind.STALE:
        return other.kind is Kind.STALE  # its message changes every second
    return one == other
