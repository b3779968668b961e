"""What state the service is in: looked at with a bounded rate, for /readyz, /metrics and the operator's log.

A probe costs no trip to the log of its own: however many ask, the log, the view and the disks are looked at
once in OBSERVE_SECONDS, and a test append is made once in HEARTBEAT_SECONDS. Every look has a bound.
"""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from jobledger.projections.projector import ProjectorState
from jobledger.projections.results import Troubles
from jobledger.service.limits import (
    OBSERVE_SECONDS,
    OBSERVE_TIMEOUT_SECONDS,
    REPLICA_LATE_SECONDS,
    STALL_SECONDS,
    STREAMS_LOOK_SECONDS,
)
from jobledger.service.server.checks import CHECKS, Disks, DiskSpace, Result, appends_stop, run_checks
from jobledger.store.jetstream.heartbeat import LogCondition
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.model.errors import JobledgerError, LogRefused
from jobledger.store.model.limits import APPENDS_SILENCE_SECONDS, HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from jobledger.service.wiring import Service

_NOT_FOLLOWING: Final = frozenset({ProjectorState.RECONNECTING, ProjectorState.STOPPED})

_log = logging.getLogger("jobledger.service")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the log, the projector, the view and the disks.

    Attributes:
        log_error: why the log did not answer; empty if it did.
        streams: all Jobledger streams, the log first, as they were no more than STREAMS_LOOK_SECONDS ago.
        log_sequence: its last sequence, when it last answered.
        append_error: why a test append failed; empty if it did not.
        read_error: why the log's last event could not be read; empty if it could.
        condition: what the log's leader said, when it last answered.
        condition_error: why it does not say so now; empty if it does.
        late: replicas of the log that are offline, or have not been current for REPLICA_LATE_SECONDS.
        projector: what it was doing.
        caught_up: whether the view has had, once since the start, everything that was in the log.
        view_sequence: the last sequence visible in the view.
        gap: events in the log and not yet in the view.
        lag_seconds: age of the oldest of those; 0 without any.
        stall: why the view does not move although the log is ahead; empty if it moves.
        anomalies: events in the view that made no sense where they stood.
        troubles: jobs in quarantine, and events that are missing from the log.
        view_bytes: size of the view's files.
        disks: space of the file systems that are written to.
        disk_error: why that could not be found out; empty if it could.
        view_rebuilds: how often the file was found damaged or lost and was begun again.
        clock_steps: at how many of the events that the projector read the stream's time went back.
    """

    log_error: str = ""
    streams: tuple[StreamReport, ...] = ()
    log_sequence: int = 0
    append_error: str = ""
    read_error: str = ""
    condition: LogCondition | None = None
    condition_error: str = ""
    late: tuple[str, ...] = ()
    projector: ProjectorState = ProjectorState.CATCHING_UP
    caught_up: bool = False
    view_sequence: int = 0
    gap: int = 0
    lag_seconds: float = 0.0
    stall: str = ""
    anomalies: int = 0
    troubles: Troubles = Troubles()
    view_bytes: int = 0
    disks: tuple[DiskSpace, ...] = ()
    disk_error: str = ""
    view_rebuilds: int = 0
    clock_steps: int = 0

    @property
    def damaged_events(self) -> int:
        """Events that are missing from the log: those that the view met, or that the leader does not count.

        What is lost below the view's checkpoint is not read again, so only the leader's count shows it.
        """
        missing = self.condition.missing_events if self.condition is not None else 0
        return max(self.troubles.damaged_events, missing)


_NOTHING: Final = Seen(log_error="not asked yet")


class Monitor:
    """Looks at a service, when asked and not too often; acts where that is safe.

    It suspends appends that can't succeed, restarts a feed that delivers nothing, and reports an embedded
    server that answers and does not store.
    """

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._probed_at = float("-inf")
        self._failing: set[str] = set()
        self._failing_since: float | None = None  # test appends
        self._failed_in_silence = False
        self._is_suspended = False
        self._late_since: dict[str, float] = {}
        self._moved_to = -1  # the view, and when
        self._moved_at = 0.0
        self._restarted_at = float("-inf")  # the feed
        server = service.server
        self._disks = Disks(
            (service.settings.data_dir, service.view.path.parent),
            server.directory if server is not None else None,
        )
        self.seen = msgspec.structs.replace(_NOTHING, streams=service.streams)
        self._streams_at = self._now()
        self.feed_restarts = 0

    async def look(self) -> Seen:
        """What was seen no longer than OBSERVE_SECONDS ago."""
        if self._looking is None or self._looking.done():
            if self._now() - self._looked_at < OBSERVE_SECONDS:
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
        found: dict[str, Any] = {}
        for part in await asyncio.gather(
            self._look_at_log(before),
            self._look_at_view(),
            self._look_at_storage(before),
            self._look_at_streams(before),
        ):
            found |= part
        projector = service.projector
        found["log_sequence"] = max(found["log_sequence"], projector.sequence)
        self.seen = Seen(
            **found,
            projector=projector.state,
            caught_up=before.caught_up or projector.state is ProjectorState.LIVE,
            view_sequence=projector.sequence,
            gap=found["log_sequence"] - projector.sequence,
            view_bytes=_bytes_of(service.view.path),
            view_rebuilds=projector.rebuilds,
            clock_steps=projector.clock_steps,
        )
        if not self.seen.log_error:
            await service.record.note(service.streams[0].name, found["log_sequence"])
        self._guard_appends()
        self._looked_at = self._now()
        _tell(before, self.seen, service)
        self._log_changes()

    # --- what is seen -------------------------------------------------------------------------------------

    async def _look_at_log(self, before: Seen) -> dict[str, Any]:
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
        """Why the view does not move on to an event that is in the log; empty if it moves.

        A feed whose next event is readable is restarted: its consumer, or the replica that has it, is broken.
        """
        now, projector = self._now(), self._service.projector
        if following != self._moved_to or projector.state in _NOT_FOLLOWING:
            self._moved_to, self._moved_at = following, now
        if now - self._moved_at < STALL_SECONDS:
            return ""
        if unreadable:
            return f"damage at event {following}: it is {unreadable}, and the log goes on after it"
        stall = f"no event arrived for {now - self._moved_at:.0f} s, and event {following} is readable"
        if now - self._restarted_at >= STALL_SECONDS:
            self._restarted_at = now
            self.feed_restarts += 1
            _log.warning("%s: the feed is restarted", stall)
            projector.restart_feed(stall)
        return stall

    async def _look_at_streams(self, before: Seen) -> dict[str, Any]:
        """An operator may have repaired them, or changed one, since this service started."""
        if self._now() - self._streams_at < STREAMS_LOOK_SECONDS:
            return {"streams": before.streams}
        self._streams_at = self._now()
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                found = {each.name: each for each in await self._service.log.report_streams()}
        except (JobledgerError, TimeoutError):  # `log` and `quorum` report that
            return {"streams": before.streams}
        return {"streams": tuple(found.get(each.name) or _missing(each) for each in before.streams)}

    async def _look_at_view(self) -> dict[str, Any]:
        found: dict[str, Any] = {"anomalies": self.seen.anomalies, "troubles": self.seen.troubles}
        with suppress(JobledgerError, TimeoutError):
            async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                found["anomalies"] = (await self._service.view.checkpoint()).anomalies
                found["troubles"] = await self._service.view.troubles()
        return found

    async def _look_at_storage(self, before: Seen) -> dict[str, Any]:
        found: dict[str, Any] = {"disks": before.disks}
        try:
            found["disks"] = tuple(await self._disks.look())
        except TimeoutError:
            found["disk_error"] = f"the disk does not answer within {OBSERVE_TIMEOUT_SECONDS:g} s"
        except OSError as error:
            found["disk_error"] = str(error)
        fields = ("append_error", "read_error", "condition", "condition_error", "late")
        if self._now() - self._probed_at < HEARTBEAT_SECONDS:
            found |= {name: getattr(before, name) for name in fields}
            return found
        self._probed_at = self._now()
        full = appends_stop(self._service.settings, found["disks"])
        found["append_error"], condition = await asyncio.gather(
            self._try_append(full), self._ask_leader(before)
        )
        found |= condition
        return found

    async def _try_append(self, full: str) -> str:
        if full:  # a test append would leave the embedded server unable to write until its restart
            return full
        try:
            await self._service.probe.beat()
        except JobledgerError as error:
            return str(error)
        return ""

    async def _ask_leader(self, before: Seen) -> dict[str, Any]:
        """The condition of the log, and whether its last event can be read."""
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

    # --- what is done about it ----------------------------------------------------------------------------

    def _guard_appends(self) -> None:
        """Suspend appends that can't succeed, and end that as soon as they can."""
        publisher, seen, now = self._service.log.publisher, self.seen, self._now()
        self._failing_since = (self._failing_since or now) if seen.append_error else None
        if publisher.silence:
            self._failed_in_silence |= bool(seen.append_error)
            if self._failed_in_silence and not seen.append_error:
                publisher.retry()  # it was down as a whole, and is up
            elif not seen.append_error and self._service.server is not None:
                self._service.server.suspect(publisher.silence)  # it answers everything but appends
        else:
            self._failed_in_silence = False
        reason = appends_stop(self._service.settings, seen.disks)
        if self._service.server is not None:
            reason = reason or self._service.server.wedged
        # An append that was acknowledged meanwhile proves that the log works: only its heartbeats do not.
        failing_seconds = now - self._failing_since if self._failing_since is not None else 0.0
        if min(failing_seconds, publisher.silent_seconds) >= APPENDS_SILENCE_SECONDS:
            reason = reason or seen.append_error
        if reason:
            publisher.suspend(reason)
        elif self._is_suspended:
            publisher.resume()
        self._is_suspended = bool(reason)

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

    @property
    def server_restarts(self) -> int:
        """How often the embedded nats-server was restarted; it logs each with its reason."""
        return self._service.server.restarts if self._service.server is not None else 0

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


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
        elif now.projector is ProjectorState.WAITING:
            _log.warning("waiting: %s; the view stays at %d", service.projector.trouble, now.view_sequence)
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


def _missing(report: StreamReport) -> StreamReport:
    problem = f"{report.name} is missing, and was there when this service started (docs/OPERATIONS.md)"
    return msgspec.structs.replace(report, problems=(problem,))


def _bytes_of(path: Path) -> int:
    total = 0
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):
            total += path.with_name(name).stat().st_size
    return total
