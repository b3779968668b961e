"""What state the service is in: looked at with a bounded rate, for /readyz, /metrics and the operator's log.

A probe costs no trip to the log of its own: however many ask, the log and the view are asked at most once in
OBSERVE_SECONDS, and each look is over within twice OBSERVE_TIMEOUT_SECONDS.
"""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from jobledger.projections.projector import ProjectorState
from jobledger.service.limits import OBSERVE_SECONDS, OBSERVE_TIMEOUT_SECONDS
from jobledger.service.running.checks import CHECKS, Result, run_checks
from jobledger.store.errors import EmbeddedServerError, JobledgerError

if TYPE_CHECKING:
    from jobledger.service.wiring import Service

_log = logging.getLogger("jobledger.service")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the log, the projector and the view.

    Attributes:
        log_error: why the log did not answer; empty if it did.
        log_sequence: its last sequence, when it last answered.
        projector: what it was doing.
        caught_up: whether the view has had, once since the start, everything that was in the log.
        view_sequence: the last sequence visible in the view.
        gap: events in the log and not yet in the view.
        lag_seconds: age of the oldest of those; 0 without any.
        anomalies: events in the view that made no sense where they stood.
        view_bytes: size of the view's files.
    """

    log_error: str = ""
    log_sequence: int = 0
    projector: ProjectorState = ProjectorState.CATCHING_UP
    caught_up: bool = False
    view_sequence: int = 0
    gap: int = 0
    lag_seconds: float = 0.0
    anomalies: int = 0
    view_bytes: int = 0


_NOTHING: Final = Seen(log_error="not asked yet")


class Monitor:
    """Looks at a service, when asked and not too often."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._server_pid = 0
        self.seen = _NOTHING
        self._failing: set[str] = set()
        self.server_restarts = 0

    async def look(self) -> Seen:
        """What was seen no longer than OBSERVE_SECONDS ago."""
        if self._looking is None or self._looking.done():
            if asyncio.get_running_loop().time() - self._looked_at < OBSERVE_SECONDS:
                return self.seen
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)  # others wait for the same look
        return self.seen

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    @property
    def checks(self) -> list[Result]:
        """The result of every check, from what was last seen."""
        return run_checks(self._service, self.seen)

    @property
    def is_ready(self) -> bool:
        """Whether no check fails that counts."""
        return not any(check.problem and check.counts for check in self.checks)

    async def _look(self) -> None:
        before, service = self.seen, self._service
        sequence, log_error, lag = before.log_sequence, "", 0.0
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                sequence = (await service.log.info()).last_sequence
                if sequence > service.projector.sequence:
                    oldest = await service.log.read_at(service.projector.sequence + 1)
                    lag = max(0.0, time.time() - oldest.time / 1e9) if oldest is not None else 0.0
        except TimeoutError:
            log_error = f"no answer within {OBSERVE_TIMEOUT_SECONDS:g} s"
        except JobledgerError as error:
            log_error = str(error)
        anomalies = before.anomalies
        with suppress(JobledgerError, TimeoutError):
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                anomalies = (await service.view.checkpoint()).anomalies
        projector = service.projector
        self.seen = Seen(
            log_error=log_error,
            log_sequence=max(sequence, projector.sequence),
            projector=projector.state,
            caught_up=before.caught_up or projector.state is ProjectorState.LIVE,
            view_sequence=projector.sequence,
            gap=max(0, sequence - projector.sequence),
            lag_seconds=lag,
            anomalies=anomalies,
            view_bytes=_bytes_of(service.view.path),
        )
        if not log_error:
            await service.record.note(service.streams[0].name, sequence)
        self._count_restarts()
        self._looked_at = asyncio.get_running_loop().time()
        _tell(before, self.seen, service)
        self._log_changes()

    def _log_changes(self) -> None:
        """One line when a check begins to fail, and one when it recovers."""
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

    def _count_restarts(self) -> None:
        if self._service.server is None:
            return
        with suppress(EmbeddedServerError):
            pid = self._service.server.pid
            if self._server_pid not in {0, pid}:
                self.server_restarts += 1
                _log.warning("the embedded nats-server died and was started again (process %d)", pid)
            self._server_pid = pid


def monitor_of(service: "Service") -> Monitor:
    """The service's monitor: the one that its metrics tell from; made when it is first asked for."""
    if service.metrics.monitor is None:
        service.metrics.watch(Monitor(service))
    monitor = service.metrics.monitor
    assert monitor is not None
    return monitor


def _tell(before: Seen, now: Seen, service: "Service") -> None:
    """A line in the log for what an operator would want to know."""
    if now.projector is not before.projector:
        if now.projector is ProjectorState.RECONNECTING:
            _log.warning(
                "reconnecting: %s; the view stays at %d",
                service.projector.trouble or "no answer from the log",
                now.view_sequence,
            )
        elif now.projector is ProjectorState.LIVE:
            _log.info("live: the view has everything, up to %d", now.view_sequence)
        elif now.projector is ProjectorState.STOPPED and not service.draining.is_set():
            _log.error(
                "the projector stopped at %d: %s; writes go on, reads show that moment, /readyz says no",
                now.view_sequence,
                service.projector.error,
            )
    if now.log_error and (not before.log_error or before is _NOTHING):
        _log.warning("the log does not answer: %s", now.log_error)
    elif before.log_error and not now.log_error and before is not _NOTHING:
        _log.info("the log answers again: its last event is %d", now.log_sequence)


def _bytes_of(path: Path) -> int:
    total = 0
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):
            total += path.with_name(name).stat().st_size
    return total
