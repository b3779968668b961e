"""The checks of `/readyz`, in one registry: each has a name, a reason, a metric, and a line in the log.

A check is a function of what the monitor last observed. It asks nothing itself, so it is cheap, and every
reader (`/readyz`, `/metrics`, the log) sees the same result. What must be asked is asked in `monitor`, with
bounds. To add a check: observe what it needs there, and add a line to CHECKS.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from jobledger.projections.projector import ProjectorState

if TYPE_CHECKING:
    from jobledger.service.running.monitor import Seen
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
    if seen.projector is ProjectorState.RECONNECTING:
        return f"reconnecting: {service.projector.trouble or 'no answer from the log'}"
    return ""


def _view(service: "Service", seen: "Seen") -> str:
    most = service.settings.ready_max_gap
    if not seen.caught_up:
        return f"not caught up yet: at {seen.view_sequence} of {seen.log_sequence}"
    if seen.gap > most:
        return f"{seen.gap} events behind, more than {most} (ready_max_gap)"
    return ""


def _stream_problems(service: "Service") -> Iterator[str]:
    for each in service.streams:
        yield from each.problems


def _compression(service: "Service", _: "Seen") -> str:
    names = [each.name for each in service.streams if each.once_compressed]
    if not names:
        return ""
    return (
        f"{', '.join(names)}: blocks may be compressed, and a kill of nats-server can destroy them;"
        " rewrite them with `jobledger streams rewrite`"
    )


CHECKS: Final = (
    Check("log", lambda _, seen: seen.log_error, logged=False),
    Check("projector", _projector, logged=False),
    Check("view", _view, logged=False),
    Check("tokens", lambda service, _: service.tokens.fault, logged=False),
    Check(
        "seals",
        lambda service, _: service.sealer.state.alarm or service.sealer.state.problem,
        counts=False,
        logged=False,
    ),
    Check("compression", _compression, counts=False),
    Check("streams", lambda service, _: "; ".join(_stream_problems(service)), counts=False),
    Check("draining", lambda service, _: "the service is ending" * service.draining.is_set(), logged=False),
)
"""Every check, in the order in which they are shown."""
