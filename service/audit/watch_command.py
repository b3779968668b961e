"""`audit watch` as it runs: connects, goes on where it was, keeps its state, and raises alarms.

After an alarm the state is not kept any more: whoever starts the watcher again hears of it again, until
somebody has looked at it and given the watcher a new state.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from jobledger.service.audit.checkpoint import origin_of
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.note import VerifierKey
from jobledger.service.audit.watcher import WatchBroken, Watcher, WatchState, load_state, save_state
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
from jobledger.service.log_access import log_is_at_hand, open_log
from jobledger.service.settings import Settings
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import EmbeddedServerError, LogUnavailable
from jobledger.store.timestamps import format_rfc3339

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


_NANOSECONDS: Final = 1_000_000_000


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to watch.

    Attributes:
        keys: those that seals may be signed with.
        state_file: where the watcher keeps what it knows.
        once: come back when all there is was looked at.
        keep_going: stay after an alarm.
        again_seconds: read all of the log again when it was last read so long ago; 0: at each start.
        seal_age_seconds: raise an alarm if events wait for a seal for longer; None: never.
        webhook: POST alarms there; empty: nowhere.
        metrics_file: write metrics there.
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
        settings: say where the log is.
        options: how to watch.
        say: hears what a person should know.
        gauges: metrics; None: nobody asked for any.
        clock: Unix nanoseconds.

    Attributes:
        alarms: what was found, each once.
    """

    def __init__(
        self,
        settings: Settings,
        options: WatchOptions,
        say: Callable[[str], None],
        gauges: Gauges | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.alarms: list[Finding] = []
        self._settings = settings
        self._options = options
        self._say = say
        self._gauges = gauges
        self._clock = clock
        self._state = load_state(options.state_file)
        self._kept = self._state
        self._kept_at = 0.0
        self._said_bound = False

    async def run(self) -> Sequence[Finding]:
        """Watch until an alarm, the end of `once`, or for ever.

        Raises:
            LogUnavailable: with `once`, if the log can't be reached.
            InvalidSettings: if a file can't be written.
        """
        tries, wait_seconds = 0, WATCH_RETRY_SECONDS
        while True:
            try:
                self._check_at_hand()
                async with open_log(self._settings) as log:
                    tries, wait_seconds = 0, WATCH_RETRY_SECONDS
                    if await self._session(log):
                        return self.alarms
            except WatchBroken as broken:
                await self._raise([broken.finding])
                if not self._options.keep_going or self._options.once:
                    return self.alarms
                await asyncio.Event().wait()  # the metric stays, until somebody comes
            except (LogUnavailable, EmbeddedServerError) as error:
                tries += 1
                if self._options.once and tries >= WATCH_ONCE_MAX_TRIES:
                    raise
                self._show(connected=False)
                self._say(f"the log can't be read; it is tried again: {error}")
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, WATCH_RETRY_MAX_SECONDS)

    def _check_at_hand(self) -> None:
        """See that somebody serves the log: a server that we start would be in the way of a service's."""
        if not self._options.once and not log_is_at_hand(self._settings):
            raise LogUnavailable(f"no service runs on data_dir {self._settings.data_dir} just now")

    async def _session(self, log: JetStreamLog) -> bool:
        """Follow over one connection; True if that was all. False: all is to be read again."""
        epoch = (await log.info()).epoch
        mark = stream_tag(epoch)
        if self._state is None:
            self._say(f"nothing is remembered yet: the log {origin_of(mark)} as it is now is what is trusted")
            self._state = WatchState(origin=origin_of(mark), epoch=epoch, read_again=self._clock())
            again = False
        else:
            again = self._is_due()
        self._say_bound(again=again)
        watcher = Watcher(log, await log.seals(mark), self._options.keys, self._state, clock=self._clock)
        try:
            await watcher.begin(again=again)
            while True:
                findings = await watcher.step(WATCH_STEP_SECONDS)
                findings += await self._stale(watcher)
                self._state = watcher.state
                self._show(connected=True)
                await self._raise(findings)
                if self.alarms and not self._options.keep_going and not self._options.once:
                    return True
                self._keep(now=watcher.caught_up and self._options.once)
                if watcher.caught_up and self._options.once:
                    if again:
                        self._say(f"all {self._state.size} events were read again: none was changed")
                    return True
                if watcher.caught_up and not again and self._is_due():
                    return False
                if again and watcher.caught_up:
                    self._say(f"all {self._state.size} events were read again: none was changed")
                    again = False
        finally:
            await watcher.close()

    def _say_bound(self, *, again: bool) -> None:
        """Say how late a change of old events may be noticed; once, and when the reading begins."""
        assert self._state is not None
        every = self._options.again_seconds
        if again:
            self._say(f"all events are read again from the first one, as last at {self._read_at}")
        elif not self._said_bound:
            self._say(
                f"a change of events up to {self._state.sealed_size}, which a seal covers, is noticed when"
                f" all is read again: every {every:g} s (--reread), next at {self._next_reading}; a change of"
                " later events at each start"
            )
        self._said_bound = True

    @property
    def _read_at(self) -> str:
        assert self._state is not None
        return format_rfc3339(self._state.read_again)

    @property
    def _next_reading(self) -> str:
        assert self._state is not None
        return format_rfc3339(self._state.read_again + int(self._options.again_seconds * _NANOSECONDS))

    def _is_due(self) -> bool:
        """Whether all is to be read again."""
        assert self._state is not None
        age = self._clock() - self._state.read_again
        if self._options.once and not self._options.again_seconds:
            return True
        return age >= max(self._options.again_seconds, 1.0) * _NANOSECONDS

    async def _stale(self, watcher: Watcher) -> list[Finding]:
        """An alarm if events wait for a seal for too long."""
        limit = self._options.seal_age_seconds
        since = await watcher.unsealed_since() if limit is not None and watcher.caught_up else 0
        if limit is None or not since:
            return []
        waited = (self._clock() - since) / _NANOSECONDS
        if waited <= limit:
            return []
        text = f"{watcher.unsealed} events wait for a seal, the first of them for {waited:.0f} s"
        return [Finding(Kind.STALE, text, sequence=watcher.state.sealed_size + 1)]

    async def _raise(self, findings: Sequence[Finding]) -> None:
        """Raise those that were not raised before."""
        for finding in findings:
            if any(_is_same(finding, known) for known in self.alarms):
                continue
            self.alarms.append(finding)
            self._say(f"ALARM: {finding}")
            if self._gauges is not None:
                self._gauges.alarm(finding)
                self._show(connected=True)
            if self._options.webhook:
                origin = self._state.origin if self._state is not None else ""
                event = alarm_event(finding, origin, self._clock())
                problem = await asyncio.to_thread(send_alarm, self._options.webhook, event)
                if problem:
                    self._say(f"the alarm could not be delivered to the webhook: {problem}")

    def _keep(self, *, now: bool) -> None:
        """Write the state, now and then; never again after an alarm."""
        clock = time.monotonic()
        if self.alarms or self._state is None or self._state == self._kept:
            return
        if now or clock - self._kept_at >= WATCH_SAVE_SECONDS:
            save_state(self._options.state_file, self._state)
            self._kept, self._kept_at = self._state, clock

    def _show(self, *, connected: bool) -> None:
        if self._gauges is not None:
            self._gauges.show(self._state, connected=connected)
            if self._options.metrics_file is not None:
                self._gauges.write(self._options.metrics_file)


def _is_same(one: Finding, other: Finding) -> bool:
    if one.kind is Kind.STALE:
        return other.kind is Kind.STALE  # its words change every second
    return one == other
