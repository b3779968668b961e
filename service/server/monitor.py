"""Observes the state of the service for /readyz, /metrics and the log, at a bounded rate.

However many probes arrive, the log, the view and the disks are read once in OBSERVE_SECONDS, and a test
append is made once in HEARTBEAT_SECONDS. Every read has a timeout.
"""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from jobledger.projections.projector import ProjectorState
from jobledger.service.limits import (
    OBSERVE_SECONDS,
    OBSERVE_TIMEOUT_SECONDS,
    REPLICA_LATE_SECONDS,
    STALL_SECONDS,
    STREAMS_POLL_SECONDS,
)
from jobledger.service.server.checks import (
    CHECKS,
    Disks,
    Monitored,
    Observation,
    Result,
    full_disk_reason,
    run_checks,
)
from jobledger.store.jetstream.heartbeat import LogCondition
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.model.errors import JobledgerError, LogRefused
from jobledger.store.model.limits import APPENDS_SILENCE_SECONDS, HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS

_NOT_FOLLOWING: Final = frozenset({ProjectorState.RECONNECTING, ProjectorState.STOPPED})

_log = logging.getLogger("jobledger.service")


_NOT_ASKED: Final = "not asked yet"


class Monitor:
    """Observes a service on demand, and acts where that is safe.

    It suspends appends that can't succeed, restarts a log reader that delivers nothing, and reports an
    embedded server that answers but does not store.

    Attributes:
        latest: the most recent observation.
        feed_restarts: how often the projector's log reader was restarted.
        suspension: why appends are suspended; empty if they are not.
    """

    def __init__(self, service: Monitored) -> None:
        self._service = service
        self._observing: asyncio.Task[None] | None = None
        self._observed_at = float("-inf")
        self._probed_at = float("-inf")
        self._failing: set[str] = set()
        self._failing_since: float | None = None  # test appends
        self._failed_in_silence = False
        self._is_suspended = False
        self._late_since: dict[str, float] = {}
        self._moved_to = -1  # the next event of the view, and since when
        self._moved_at = 0.0
        self._restarted_at = float("-inf")  # the log reader
        server = service.server
        self._disks = Disks(
            (service.settings.data_dir, service.view.path.parent),
            server.directory if server is not None else None,
        )
        self.latest = Observation(log_error=_NOT_ASKED, streams=service.streams)
        self._streams_at = self._now()
        self.feed_restarts = 0
        self.suspension = ""

    async def observe(self) -> Observation:
        """Returns an observation that is at most OBSERVE_SECONDS old."""
        if self._observing is None or self._observing.done():
            if self._now() - self._observed_at < OBSERVE_SECONDS:
                return self.latest
            self._observing = asyncio.create_task(self._observe())
        await asyncio.shield(self._observing)  # other callers wait for the same task
        return self.latest

    async def close(self) -> None:
        """Cancel an observation in progress."""
        if self._observing is not None:
            self._observing.cancel()
            await asyncio.gather(self._observing, return_exceptions=True)

    @property
    def checks(self) -> list[Result]:
        """The results of all checks for the latest observation."""
        return run_checks(self._service, self.latest)

    @property
    def is_ready(self) -> bool:
        """Whether every check that counts passes."""
        return not any(check.problem and check.counts for check in self.checks)

    async def _observe(self) -> None:
        before, service = self.latest, self._service
        found: dict[str, Any] = {}
        for part in await asyncio.gather(
            self._observe_log(before),
            self._observe_view(),
            self._observe_storage(before),
            self._observe_streams(before),
        ):
            found |= part
        projector = service.projector
        found["log_sequence"] = max(found["log_sequence"], projector.sequence)
        self.latest = Observation(
            **found,
            projector=projector.state,
            projector_trouble=projector.trouble,
            caught_up=before.caught_up or projector.state is ProjectorState.LIVE,
            view_sequence=projector.sequence,
            gap=found["log_sequence"] - projector.sequence,
            view_bytes=_view_bytes(service.view.path),
            view_rebuilds=projector.rebuilds,
            clock_steps=projector.clock_steps,
        )
        if not self.latest.log_error:
            await service.record.update(service.streams[0].name, found["log_sequence"])
        self._guard_appends()
        self._observed_at = self._now()
        _log_transitions(before, self.latest, service)
        self._log_changes()

    # --- observations -------------------------------------------------------------------------------------

    async def _observe_log(self, before: Observation) -> dict[str, Any]:
        log, projector = self._service.log, self._service.projector
        found: dict[str, Any] = {"log_sequence": before.log_sequence, "lag_seconds": before.lag_seconds}
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                found["log_sequence"] = (await log.info()).last_sequence
                found["lag_seconds"] = 0.0
                following = projector.sequence + 1
                if found["log_sequence"] >= following:
                    unreadable = "missing"
                    try:
                        if (oldest := await log.read_at(following)) is not None:
                            unreadable = ""
                            found["lag_seconds"] = max(0.0, time.time() - oldest.time / 1e9)
                    except LogRefused as error:
                        unreadable = f"unreadable ({error})"
                    found["stall"] = self._stall(following, unreadable)
                else:
                    self._moved_to = -1
        except TimeoutError:
            found["log_error"] = f"no answer within {OBSERVE_TIMEOUT_SECONDS:g} s"
        except JobledgerError as error:
            found["log_error"] = str(error)
        if found.get("log_error"):
            self._moved_to = -1
        return found

    def _stall(self, following: int, unreadable: str) -> str:
        """Returns why the view does not advance to an event that is in the log; empty if it advances.

        If the next event is readable, the consumer or its replica is broken, so the log reader is restarted.
        """
        now, projector = self._now(), self._service.projector
        if following != self._moved_to or projector.state in _NOT_FOLLOWING:
            self._moved_to, self._moved_at = following, now
        if now - self._moved_at < STALL_SECONDS:
            return ""
        if unreadable:
            return f"damage at event {following}: it is {unreadable}, and the log continues after it"
        stall = f"no event arrived for {now - self._moved_at:.0f} s, and event {following} is readable"
        if now - self._restarted_at >= STALL_SECONDS:
            self._restarted_at = now
            self.feed_restarts += 1
            _log.warning("%s: restarting the log reader", stall)
            projector.restart_reader(stall)
        return stall

    async def _observe_streams(self, before: Observation) -> dict[str, Any]:
        """Reads the streams again: an operator may have repaired or changed one since the start."""
        if self._now() - self._streams_at < STREAMS_POLL_SECONDS:
            return {"streams": before.streams}
        self._streams_at = self._now()
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                found = {each.name: each for each in await self._service.log.report_streams()}
        except (JobledgerError, TimeoutError):  # `log` and `quorum` report that
            return {"streams": before.streams}
        return {"streams": tuple(found.get(each.name) or _missing(each) for each in before.streams)}

    async def _observe_view(self) -> dict[str, Any]:
        found: dict[str, Any] = {"anomalies": self.latest.anomalies, "troubles": self.latest.troubles}
        with suppress(JobledgerError, TimeoutError):
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                found["anomalies"] = (await self._service.view.checkpoint()).anomalies
                found["troubles"] = await self._service.view.troubles()
        return found

    async def _observe_storage(self, before: Observation) -> dict[str, Any]:
        found: dict[str, Any] = {"disks": before.disks}
        try:
            found["disks"] = tuple(await self._disks.read())
        except TimeoutError:
            found["disk_error"] = f"the disk does not answer within {OBSERVE_TIMEOUT_SECONDS:g} s"
        except OSError as error:
            found["disk_error"] = str(error)
        fields = ("append_error", "read_error", "condition", "condition_error", "late")
        if self._now() - self._probed_at < HEARTBEAT_SECONDS:
            found |= {name: getattr(before, name) for name in fields}
            return found
        self._probed_at = self._now()
        full = full_disk_reason(self._service.settings, found["disks"])
        found["append_error"], condition = await asyncio.gather(
            self._try_append(full), self._ask_leader(before)
        )
        found |= condition
        return found

    async def _try_append(self, full: str) -> str:
        if full:  # a failed test append would leave the embedded server unable to write until its restart
            return full
        try:
            await self._service.probe.beat()
        except JobledgerError as error:
            return str(error)
        return ""

    async def _ask_leader(self, before: Observation) -> dict[str, Any]:
        """Reads the condition of the log, and its last event."""
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_SECONDS):
                condition = await self._service.probe.condition()
        except TimeoutError:
            error = f"no answer within {HEARTBEAT_TIMEOUT_SECONDS:g} s"
            return {"condition": before.condition, "condition_error": error}
        except JobledgerError as error:
            return {"condition": before.condition, "condition_error": str(error)}
        found: dict[str, Any] = {"condition": condition, "late": self._late(condition)}
        if condition.last_sequence:
            try:
                async with asyncio.timeout(HEARTBEAT_TIMEOUT_SECONDS):
                    await self._service.probe.read(condition.last_sequence)
            except TimeoutError:
                found["read_error"] = f"event {condition.last_sequence} could not be read in time"
            except JobledgerError as error:
                found["read_error"] = str(error)
        return found

    def _late(self, condition: LogCondition) -> tuple[str, ...]:
        now, late = self._now(), [each for each in condition.replicas if not each.current or each.is_gone]
        since = {each.name: self._late_since.get(each.name, now) for each in late}
        self._late_since = since
        return tuple(
            each.name for each in late if each.is_gone or now - since[each.name] >= REPLICA_LATE_SECONDS
        )

    # --- reactions ----------------------------------------------------------------------------------------

    def _guard_appends(self) -> None:
        """Suspend appends while they can't succeed."""
        publisher, observed, now = self._service.log.publisher, self.latest, self._now()
        self._failing_since = (self._failing_since or now) if observed.append_error else None
        if publisher.silence:
            self._failed_in_silence |= bool(observed.append_error)
            if self._failed_in_silence and not observed.append_error:
                publisher.retry()  # the whole server was down, and is up again
            elif not observed.append_error and self._service.server is not None:
                self._service.server.suspect(publisher.silence)  # it answers everything except appends
        else:
            self._failed_in_silence = False
        reason = full_disk_reason(self._service.settings, observed.disks)
        if self._service.server is not None:
            reason = reason or self._service.server.wedged
        # A recent acknowledged append proves that the log works although its heartbeats fail.
        failing_seconds = now - self._failing_since if self._failing_since is not None else 0.0
        if min(failing_seconds, publisher.silent_seconds) >= APPENDS_SILENCE_SECONDS:
            reason = reason or observed.append_error
        if reason:
            publisher.suspend(reason)
        elif self._is_suspended:
            publisher.resume()
        self._is_suspended, self.suspension = bool(reason), reason

    def report_silence(self, silence: str) -> None:
        """Appends of a worker get no answer, for this reason; the embedded server may be stuck."""
        if self._service.server is not None and not self.latest.append_error:
            self._service.server.suspect(silence)

    def _log_changes(self) -> None:
        """Log one line when a check starts to fail, and one when it recovers."""
        problems = {check.name: check.problem for check in self.checks if check.problem}
        for check in CHECKS:
            if not check.logged or (check.name in problems) == (check.name in self._failing):
                continue
            if check.name in problems:
                not_ready = "not ready: " if check.counts else ""
                _log.warning("%scheck %s failed: %s", not_ready, check.name, problems[check.name])
            else:
                _log.info("check %s recovered", check.name)
        self._failing = set(problems)

    @property
    def server_restarts(self) -> int:
        """How often the embedded nats-server was restarted; each restart is logged with its reason."""
        return self._service.server.restarts if self._service.server is not None else 0

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _log_transitions(before: Observation, now: Observation, service: Monitored) -> None:
    """Log changes of the projector's state and of the log's availability."""
    if now.projector is not before.projector:
        if now.projector is ProjectorState.RECONNECTING:
            _log.warning(
                "reconnecting: %s; the view stays at %d",
                now.projector_trouble or "no answer from the log",
                now.view_sequence,
            )
        elif now.projector is ProjectorState.WAITING:
            _log.warning("waiting: %s; the view stays at %d", now.projector_trouble, now.view_sequence)
        elif now.projector is ProjectorState.LIVE:
            _log.info("live: the view has all events up to %d", now.view_sequence)
        elif now.projector is ProjectorState.STOPPED and not service.draining.is_set():
            _log.error(
                "the projector stopped at %d: %s; writes continue, reads return that state, /readyz fails",
                now.view_sequence,
                service.projector.error,
            )
    if now.log_error and before.log_error in {"", _NOT_ASKED}:
        _log.warning("the log does not answer: %s", now.log_error)
    elif before.log_error not in {"", _NOT_ASKED} and not now.log_error:
        _log.info("the log answers again: its last event is %d", now.log_sequence)


def _missing(report: StreamReport) -> StreamReport:
    problem = f"{report.name} is missing, and existed when this service started (docs/OPERATIONS.md)"
    return msgspec.structs.replace(report, problems=(problem,))


def _view_bytes(path: Path) -> int:
    total = 0
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):
            total += path.with_name(name).stat().st_size
    return total
