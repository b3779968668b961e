"""The checks of `/readyz`, in one registry: each has a name, a reason, a metric, and a line in the log.

A check is a function of what the monitor last observed. It asks nothing itself, so it is cheap, and every
reader (`/readyz`, `/metrics`, the log) sees the same result. What must be asked is asked in `monitor`, with
bounds. To add a check: observe what it needs there, and add a line to CHECKS.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from jobledger.projections.projector import ProjectorState
from jobledger.service.limits import (
    DISK_MIN_FREE_FRACTION,
    DISK_STOP_FREE_FRACTION,
    LOG_MIN_FREE_BYTES,
    LOG_MIN_FREE_FRACTION,
    OBSERVE_TIMEOUT_SECONDS,
)

if TYPE_CHECKING:
    from jobledger.service.server.monitor import Seen
    from jobledger.service.settings import Settings
    from jobledger.service.wiring import Service

Examine = Callable[["Service", "Seen"], str]
"""Returns what is wrong; empty if nothing is."""


class Check(NamedTuple):
    """One check.

    Attributes:
        name: shown by `/readyz?verbose`; the label of `jobledger_check_failed`.
        examine: what is wrong.
        counts: whether the service is not ready if it fails; if not, it is shown as a warning.
        logged: whether the monitor logs when it begins to fail and when it recovers; False if the part that
            it is about logs that itself.
    """

    name: str
    examine: Examine
    counts: bool = True
    logged: bool = True


class Result(NamedTuple):
    """What a check found."""

    name: str
    problem: str
    """What is wrong; empty if nothing is."""
    counts: bool = True


def run_checks(service: "Service", seen: "Seen") -> list[Result]:
    """All checks, in the order of the registry."""
    return [Result(check.name, check.examine(service, seen), check.counts) for check in CHECKS]


def _projector(service: "Service", seen: "Seen") -> str:
    if seen.projector is ProjectorState.STOPPED or service.projector.error is not None:
        return f"stopped: {service.projector.error or 'it was asked to'}"
    trouble = service.projector.trouble
    if seen.projector is ProjectorState.RECONNECTING:
        return f"reconnecting: {trouble or 'no answer from the log'}"
    if seen.projector is ProjectorState.WAITING:
        return f"waiting: {trouble}"
    if seen.projector is ProjectorState.REBUILDING:
        return f"rebuilding, at {seen.view_sequence} of {seen.log_sequence}: {trouble}"
    return ""


def _view(service: "Service", seen: "Seen") -> str:
    most = service.settings.ready_max_gap
    if not seen.caught_up:
        return f"not caught up yet: at {seen.view_sequence} of {seen.log_sequence}"
    if seen.gap > most:
        return f"{seen.gap} events behind, more than {most} (ready_max_gap)"
    return ""


def _stream_problems(seen: "Seen") -> Iterator[str]:
    for each in seen.streams:
        yield from each.problems


def _compression(_: "Service", seen: "Seen") -> str:
    names = [each.name for each in seen.streams if each.once_compressed]
    if not names:
        return ""
    return (
        f"{', '.join(names)}: blocks may be compressed, and a kill of nats-server can destroy them;"
        " rewrite them with `jobledger streams rewrite`"
    )


def _append(service: "Service", seen: "Seen") -> str:
    return seen.append_error or service.log.publisher.problem


def _read(_: "Service", seen: "Seen") -> str:
    """The last event of the log; one that the view recorded as missing is the subject of `damage`.

    Without this exception a log that lost its last events would keep the service away from the clients whose
    next write is what gives the log a readable end.
    """
    condition = seen.condition
    is_recorded = condition is not None and seen.troubles.last_damaged == condition.last_sequence
    return "" if is_recorded else seen.read_error


def _disk(service: "Service", seen: "Seen") -> str:
    if problem := appends_stop(service.settings, seen.disks) or seen.disk_error:
        return problem
    setting = service.settings.disk_min_free_bytes
    for disk in seen.disks:
        if disk.free_bytes < disk.least(setting):
            return _low(disk, disk.least(setting), "disk_min_free_bytes")
    return ""


def appends_stop(settings: "Settings", disks: Iterable["DiskSpace"]) -> str:
    """Why appends to the embedded log must stop: its disk is all but full. Empty if they need not.

    What nats-server can't write makes it refuse all later writes, until it is restarted; a little room keeps
    it, and the view beside it, going.
    """
    setting = settings.disk_stop_free_bytes
    for disk in disks:
        if disk.holds_log and disk.free_bytes < disk.stop(setting):
            return _low(disk, disk.stop(setting), "disk_stop_free_bytes")
    return ""


def _low(disk: "DiskSpace", least: int, setting: str) -> str:
    return f"the disk of {disk.path} has {_size(disk.free_bytes)} free, less than {_size(least)} ({setting})"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def _capacity(_: "Service", seen: "Seen") -> str:
    """Limits that the server enforces: of the stream, and of its account."""
    condition = seen.condition
    if condition is None:
        return ""
    for what, used, limit in (
        ("the log's max_bytes", condition.size_bytes, condition.max_bytes),
        ("the NATS account's storage limit", condition.storage_bytes, condition.max_storage_bytes),
    ):
        if limit > 0 and limit - used < min(LOG_MIN_FREE_BYTES, limit * LOG_MIN_FREE_FRACTION):
            return f"{_size(used)} of {_size(limit)} are used, so appends are (soon) refused: raise {what}"
    return ""


def _quorum(_: "Service", seen: "Seen") -> str:
    condition = seen.condition
    if condition is None or not condition.replicas:
        return ""
    total = 1 + len(condition.replicas)
    majority = total // 2 + 1
    offline = [each.name for each in condition.replicas if each.is_gone]
    current = 1 + sum(each.current and not each.is_gone for each in condition.replicas)
    if seen.condition_error:
        last = f"{current} of {total} were" + (f" ({', '.join(offline)} offline)" if offline else "")
        return (
            f"no leader of the log answers, so fewer than {majority} of {total} replicas are current; when"
            f" one last answered, {last}: {seen.condition_error}"
        )
    if total - len(offline) < majority:
        return (
            f"{current} of {total} replicas of the log are current ({', '.join(offline)} offline): no"
            " majority, so nothing can be acknowledged"
        )
    return ""


def _replicas(_: "Service", seen: "Seen") -> str:
    condition = seen.condition
    if condition is None or not seen.late or seen.condition_error:
        return ""
    total = 1 + len(condition.replicas)
    return f"{', '.join(seen.late)} offline or late: {total - len(seen.late)} of {total} replicas are current"


def _damage(_: "Service", seen: "Seen") -> str:
    troubles = seen.troubles
    unmet = seen.damaged_events - troubles.damaged_events
    if unmet:
        return (
            f"{seen.damaged_events} events are missing from the log; {unmet} of them were read before, so the"
            " view has them: keep the view, name them with `jobledger audit verify`, and restore the log from"
            " a backup"
        )
    if not troubles.damaged_events:
        return ""
    return (
        f"{troubles.damaged_events} events are missing from the log, the first is {troubles.first_damaged}"
        " (`jobledger view damage`); what was before stays provable, everything else goes on"
    )


def _quarantine(_: "Service", seen: "Seen") -> str:
    count = seen.troubles.quarantined
    return f"{count} jobs are in quarantine (`jobledger view quarantine`)" if count else ""


CHECKS: Final = (
    Check("log", lambda _, seen: seen.log_error, logged=False),
    Check("nats", lambda service, _: service.server.problem if service.server else "", logged=False),
    Check("append", _append),
    Check("read", _read),
    Check("quorum", _quorum),
    Check("replicas", _replicas, counts=False),
    Check("capacity", _capacity),
    Check("disk", _disk),
    Check("projector", _projector, logged=False),
    Check("stall", lambda _, seen: seen.stall),
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
    Check("streams", lambda _, seen: "; ".join(_stream_problems(seen)), counts=False),
    # Alarms: to take the service away for them would take the other jobs away, too.
    Check("damage", _damage, counts=False),
    Check("quarantine", _quarantine, counts=False),
    Check("draining", lambda service, _: "the service is ending" * service.draining.is_set(), logged=False),
)
"""Every check, in the order in which they are shown."""


class DiskSpace(msgspec.Struct, frozen=True):
    """One file system.

    Attributes:
        path: a directory on it.
        free_bytes: that we may use.
        size_bytes: of all of it.
        holds_log: whether the embedded log is on it.
    """

    path: Path
    free_bytes: int
    size_bytes: int
    holds_log: bool = False

    def least(self, setting: int) -> int:
        """How much must be free for the service to be ready: the setting, or less on a small file system."""
        return min(setting, int(self.size_bytes * DISK_MIN_FREE_FRACTION))

    def stop(self, setting: int) -> int:
        """Below how much appends are refused: the setting, or less on a small file system."""
        return min(setting, int(self.size_bytes * DISK_STOP_FREE_FRACTION))


class Disks:
    """Looks at file systems, in a thread of its own.

    Args:
        paths: directories on them; a file system is looked at once.
        log: where the embedded log is; None without one.
    """

    def __init__(self, paths: Sequence[Path], log: Path | None = None) -> None:
        self._paths = ([log] if log is not None else []) + list(paths)
        self._log = log
        self._is_looking = False

    async def look(self) -> list[DiskSpace]:
        """The space of each.

        Raises:
            TimeoutError: if one does not answer within OBSERVE_TIMEOUT_SECONDS: a network mount hangs, say.
            OSError: if one can't be looked at.
        """
        if self._is_looking:
            raise TimeoutError  # the thread of an earlier look hangs; one is enough
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[DiskSpace]] = loop.create_future()

        def settle(spaces: list[DiskSpace] | OSError) -> None:
            self._is_looking = False
            if done.done():
                return
            if isinstance(spaces, OSError):
                done.set_exception(spaces)
            else:
                done.set_result(spaces)

        def look() -> None:
            try:
                answer: list[DiskSpace] | OSError = _spaces(self._paths, self._log)
            except OSError as error:
                answer = error
            try:
                loop.call_soon_threadsafe(settle, answer)
            except RuntimeError:  # the loop was closed meanwhile
                return

        # A daemon, not the loop's pool: at the end, that would be waited for.
        self._is_looking = True
        threading.Thread(target=look, name="jobledger-disks", daemon=True).start()
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
