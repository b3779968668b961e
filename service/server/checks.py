"""The readiness checks of `/readyz`, in one registry, and the observation they examine.

A check is a function of what the monitor last observed. It performs no I/O, so it is cheap, and `/readyz`,
`/metrics` and the log all see the same result. The monitor performs the I/O, with bounds. To add a check:
observe what it needs in `monitor`, and add a line to CHECKS.
"""

# ruff: noqa: D102 - `Service` describes the members of the protocol

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from jobledger.projections.projector import Projector, ProjectorState
from jobledger.projections.results import Troubles
from jobledger.projections.self_check import SelfCheck
from jobledger.projections.view import View
from jobledger.service.access.tokens import TokenFile
from jobledger.service.audit.sealer import Sealer
from jobledger.service.limits import (
    DISK_MIN_FREE_FRACTION,
    DISK_STOP_FREE_FRACTION,
    LOG_MIN_FREE_BYTES,
    LOG_MIN_FREE_FRACTION,
    OBSERVE_TIMEOUT_SECONDS,
)
from jobledger.service.settings import Settings
from jobledger.service.stream_record import StreamRecord
from jobledger.store.embedded import EmbeddedServer
from jobledger.store.jetstream.heartbeat import LogCondition, LogProbe
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.jetstream.stream import StreamReport


class Monitored(Protocol):
    """The parts of a `Service` that the monitor and the checks read."""

    @property
    def settings(self) -> Settings: ...
    @property
    def log(self) -> JetStreamLog: ...
    @property
    def streams(self) -> tuple[StreamReport, ...]: ...
    @property
    def record(self) -> StreamRecord: ...
    @property
    def probe(self) -> LogProbe: ...
    @property
    def projector(self) -> Projector: ...
    @property
    def view(self) -> View: ...
    @property
    def selfcheck(self) -> SelfCheck: ...
    @property
    def tokens(self) -> TokenFile: ...
    @property
    def server(self) -> EmbeddedServer | None: ...
    @property
    def sealer(self) -> Sealer: ...
    @property
    def draining(self) -> asyncio.Event: ...


class DiskSpace(msgspec.Struct, frozen=True):
    """The space of one file system.

    Attributes:
        path: a directory on it.
        free_bytes: available to this process.
        size_bytes: total size.
        holds_log: whether the embedded log is on it.
    """

    path: Path
    free_bytes: int
    size_bytes: int
    holds_log: bool = False

    def required_bytes(self, setting: int) -> int:
        """Free space that readiness requires: the setting, or a fraction of a small file system."""
        return min(setting, int(self.size_bytes * DISK_MIN_FREE_FRACTION))

    def stop_bytes(self, setting: int) -> int:
        """Free space below which appends stop: the setting, or a fraction of a small file system."""
        return min(setting, int(self.size_bytes * DISK_STOP_FREE_FRACTION))


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the log, the projector, the view and the disks at one moment.

    Attributes:
        log_error: why the log did not answer; empty if it did.
        streams: all Jobledger streams, the log first, at most STREAMS_POLL_SECONDS old.
        log_sequence: the log's last sequence when it last answered.
        append_error: why a test append failed; empty if it succeeded.
        read_error: why the log's last event could not be read; empty if it could.
        condition: the last report of the log's leader.
        condition_error: why there is no current report; empty if there is.
        late: replicas that are offline, or have not been current for REPLICA_LATE_SECONDS.
        projector_trouble: why the projector was reconnecting, waiting or rebuilding at that moment.
        caught_up: whether the view has been level with the log at least once since the start.
        gap: events in the log that are not yet in the view.
        lag_seconds: age of the oldest of those; 0 if there are none.
        stall: why the view does not advance although the log is ahead; empty if it advances.
        anomalies: events in the view that were invalid for the state of their job.
        troubles: quarantined jobs, and events that are missing from the log.
        disks: space of the file systems that the service writes to.
        disk_error: why that could not be determined; empty if it could.
        view_rebuilds: how often the view's file was damaged or lost, and rebuilt.
        clock_steps: events whose stream time is earlier than that of the event before.
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
    projector_trouble: str = ""
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
        """Events missing from the log: those that the view met, or more if the leader counts more.

        Events below the view's checkpoint are not read again, so only the leader's count includes them.
        """
        missing = self.condition.missing_events if self.condition is not None else 0
        return max(self.troubles.damaged_events, missing)


Examine = Callable[[Monitored, Observation], str]
"""Returns the problem; empty if there is none."""


class Check(NamedTuple):
    """One readiness check.

    Attributes:
        name: shown by `/readyz?verbose`; the label of `jobledger_check_failed`.
        examine: returns the problem.
        counts: whether the service is not ready while the check fails; otherwise it is a warning.
        logged: whether the monitor logs failure and recovery; False if the examined component logs them.
    """

    name: str
    examine: Examine
    counts: bool = True
    logged: bool = True


class Result(NamedTuple):
    """The result of a check."""

    name: str
    problem: str
    """Empty if the check passed."""
    counts: bool = True


def run_checks(service: Monitored, observed: Observation) -> list[Result]:
    """Returns the results of all checks, in the order of the registry."""
    return [Result(check.name, check.examine(service, observed), check.counts) for check in CHECKS]


def _projector(service: Monitored, observed: Observation) -> str:
    if observed.projector is ProjectorState.STOPPED or service.projector.error is not None:
        return f"stopped: {service.projector.error or 'it was asked to stop'}"
    trouble = observed.projector_trouble
    if observed.projector is ProjectorState.RECONNECTING:
        return f"reconnecting: {trouble or 'no answer from the log'}"
    if observed.projector is ProjectorState.WAITING:
        return f"waiting: {trouble}"
    if observed.projector is ProjectorState.REBUILDING:
        return f"rebuilding, at {observed.view_sequence} of {observed.log_sequence}: {trouble}"
    return ""


def _view(service: Monitored, observed: Observation) -> str:
    most = service.settings.ready_max_gap
    if not observed.caught_up:
        return f"not caught up yet: at {observed.view_sequence} of {observed.log_sequence}"
    if observed.gap > most:
        return f"{observed.gap} events behind, more than {most} (ready_max_gap)"
    return ""


def _stream_problems(observed: Observation) -> Iterator[str]:
    for stream in observed.streams:
        yield from stream.problems


def _compression(_: Monitored, observed: Observation) -> str:
    names = [stream.name for stream in observed.streams if stream.once_compressed]
    if not names:
        return ""
    return (
        f"{', '.join(names)}: blocks may be compressed, and killing nats-server can destroy them;"
        " rewrite them with `jobledger streams rewrite`"
    )


def _append(service: Monitored, observed: Observation) -> str:
    return observed.append_error or service.log.publisher.problem


def _read(_: Monitored, observed: Observation) -> str:
    """Ignores an event that the view recorded as missing: `damage` reports that.

    Otherwise a log that lost its last events would keep clients away whose next write is what gives the log a
    readable end again.
    """
    condition = observed.condition
    is_recorded = condition is not None and observed.troubles.last_damaged == condition.last_sequence
    return "" if is_recorded else observed.read_error


def _disk(service: Monitored, observed: Observation) -> str:
    if problem := full_disk_reason(service.settings, observed.disks) or observed.disk_error:
        return problem
    setting = service.settings.disk_min_free_bytes
    for disk in observed.disks:
        if disk.free_bytes < disk.required_bytes(setting):
            return _low_space(disk, disk.required_bytes(setting), "disk_min_free_bytes")
    return ""


def full_disk_reason(settings: Settings, disks: Iterable[DiskSpace]) -> str:
    """Returns why appends to the embedded log must stop because its disk is nearly full; empty if not.

    After a failed write nats-server refuses all later ones until it is restarted. The reserve keeps it and
    the view on the same disk running.
    """
    setting = settings.disk_stop_free_bytes
    for disk in disks:
        if disk.holds_log and disk.free_bytes < disk.stop_bytes(setting):
            return _low_space(disk, disk.stop_bytes(setting), "disk_stop_free_bytes")
    return ""


def _low_space(disk: DiskSpace, required: int, setting: str) -> str:
    free = _format_size(disk.free_bytes)
    return f"the disk of {disk.path} has {free} free, less than {_format_size(required)} ({setting})"


def _format_size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def _capacity(_: Monitored, observed: Observation) -> str:
    """Checks the limits that the server enforces: of the stream, and of its account."""
    condition = observed.condition
    if condition is None:
        return ""
    for what, used, limit in (
        ("the log's max_bytes", condition.size_bytes, condition.max_bytes),
        ("the NATS account's storage limit", condition.storage_bytes, condition.max_storage_bytes),
    ):
        if limit > 0 and limit - used < min(LOG_MIN_FREE_BYTES, limit * LOG_MIN_FREE_FRACTION):
            share = f"{_format_size(used)} of {_format_size(limit)}"
            return f"{share} are used, so appends are or will soon be refused: raise {what}"
    return ""


def _quorum(_: Monitored, observed: Observation) -> str:
    condition = observed.condition
    if condition is None or not condition.replicas:
        return ""
    total = 1 + len(condition.replicas)
    majority = total // 2 + 1
    offline = [replica.name for replica in condition.replicas if replica.is_gone]
    current = 1 + sum(replica.current and not replica.is_gone for replica in condition.replicas)
    if observed.condition_error:
        last = f"{current} of {total} were" + (f" ({', '.join(offline)} offline)" if offline else "")
        return (
            f"no leader of the log answers, so fewer than {majority} of {total} replicas are current; when"
            f" one last answered, {last}: {observed.condition_error}"
        )
    if total - len(offline) < majority:
        return (
            f"{current} of {total} replicas of the log are current ({', '.join(offline)} offline): no"
            " majority, so no write can be acknowledged"
        )
    return ""


def _replicas(_: Monitored, observed: Observation) -> str:
    condition = observed.condition
    if condition is None or not observed.late or observed.condition_error:
        return ""
    total = 1 + len(condition.replicas)
    current = total - len(observed.late)
    return f"{', '.join(observed.late)} offline or late: {current} of {total} replicas are current"


def _damage(_: Monitored, observed: Observation) -> str:
    troubles = observed.troubles
    already_read = observed.damaged_events - troubles.damaged_events
    if already_read:
        return (
            f"{observed.damaged_events} events are missing from the log; {already_read} of them were read"
            " before, so the view has them: keep the view, list them with `jobledger audit verify`, and"
            " restore the log from a backup"
        )
    if not troubles.damaged_events:
        return ""
    return (
        f"{troubles.damaged_events} events are missing from the log, the first is {troubles.first_damaged}"
        " (`jobledger view damage`); earlier events can still be proven, and the service continues"
    )


def _quarantine(_: Monitored, observed: Observation) -> str:
    count = observed.troubles.quarantined
    return f"{count} jobs are in quarantine (`jobledger view quarantine`)" if count else ""


CHECKS: Final = (
    Check("log", lambda _, observed: observed.log_error, logged=False),
    Check("nats", lambda service, _: service.server.problem if service.server else "", logged=False),
    Check(
        "supervision",
        lambda service, _: service.server.supervision_problem if service.server else "",
        counts=False,
        logged=False,
    ),
    Check(
        "staging",
        lambda service, _: service.server.staging_problem if service.server else "",
        counts=False,
        logged=False,
    ),
    Check("append", _append),
    Check("read", _read),
    Check("quorum", _quorum),
    Check("replicas", _replicas, counts=False),
    Check("capacity", _capacity),
    Check("disk", _disk),
    Check("projector", _projector, logged=False),
    Check("stall", lambda _, observed: observed.stall),
    Check("view", _view, logged=False),
    Check("tokens", lambda service, _: service.tokens.fault, logged=False),
    Check(
        "seals",
        lambda service, _: service.sealer.state.alarm or service.sealer.state.problem,
        counts=False,
        logged=False,
    ),
    Check("view_rows", lambda service, _: service.selfcheck.problem, counts=False, logged=False),
    Check("compression", _compression, counts=False),
    Check("streams", lambda _, observed: "; ".join(_stream_problems(observed)), counts=False),
    # Alarms only: a service that is not ready would take the undamaged jobs away as well.
    Check("damage", _damage, counts=False),
    Check("quarantine", _quarantine, counts=False),
    Check(
        "draining",
        lambda service, _: "the service is shutting down" * service.draining.is_set(),
        logged=False,
    ),
)
"""Every check, in the order of `/readyz?verbose`."""


class Disks:
    """Reads the free space of file systems in a thread, so that a hung network mount blocks nothing.

    Args:
        paths: directories; each file system is reported once.
        log: the directory of the embedded log; None without one.
    """

    def __init__(self, paths: Sequence[Path], log: Path | None = None) -> None:
        self._paths = ([log] if log is not None else []) + list(paths)
        self._log = log
        self._is_reading = False

    async def read(self) -> list[DiskSpace]:
        """Returns the space of each file system.

        Raises:
            TimeoutError: a file system did not answer within OBSERVE_TIMEOUT_SECONDS.
            OSError: a file system can't be read.
        """
        if self._is_reading:
            raise TimeoutError  # the thread of an earlier call hangs; one is enough
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[DiskSpace]] = loop.create_future()

        def resolve(spaces: list[DiskSpace] | OSError) -> None:
            self._is_reading = False
            if done.done():
                return
            if isinstance(spaces, OSError):
                done.set_exception(spaces)
            else:
                done.set_result(spaces)

        def read() -> None:
            try:
                result: list[DiskSpace] | OSError = _spaces(self._paths, self._log)
            except OSError as error:
                result = error
            try:
                loop.call_soon_threadsafe(resolve, result)
            except RuntimeError:  # the loop was closed meanwhile
                return

        # A daemon thread, because the loop's thread pool is joined at shutdown.
        self._is_reading = True
        threading.Thread(target=read, name="jobledger-disks", daemon=True).start()
        async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
            return await done


def _spaces(paths: Sequence[Path], log: Path | None) -> list[DiskSpace]:
    spaces: dict[int, DiskSpace] = {}
    for path in paths:
        device = path.stat().st_dev
        if device not in spaces:
            found = os.statvfs(path)
            size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
            spaces[device] = DiskSpace(path, free, size, holds_log=path == log)
    return list(spaces.values())
