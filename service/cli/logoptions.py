"""What the commands share that read the log itself: the options that say which, and whether it is the way."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from jobledger.service.cli.shared import CONNECTION_OPTIONS, Session, SharedOption

if TYPE_CHECKING:
    from jobledger.service.settings import LoadedSettings

F = TypeVar("F", bound=Callable[..., Any])

_LOG_OPTIONS: Final = (
    click.option("--nats-url", metavar="URL", cls=SharedOption, help="NATS servers that keep the log."),
    click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        cls=SharedOption,
        help="Directory of the service, with its embedded log.",
    ),
)
_FLAGS: Final = ("url", "token_file", "tls_ca", "config", "nats_url", "data_dir")


def reading_log(function: F) -> F:
    """Give a command the options of the log and of the connection, and what they lead to as `session`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in _FLAGS}
        return function(*args, session=Session(flags), **kwargs)

    for option in reversed((*_LOG_OPTIONS, *CONNECTION_OPTIONS)):
        option(run)
    return run  # type: ignore[return-value]


def prefers_service(loaded: "LoadedSettings") -> bool | None:
    """Whether the service was named rather than the log, or by somebody who counts more; None: neither.

    Raises:
        UsageError: both are named on the command line.
    """
    from jobledger.service.settings import SETTINGS
    from jobledger.service.settings_sources import strength_of

    service = strength_of(loaded.origins["url"])
    log = max(strength_of(loaded.origins[name]) for name in ("nats_url", "data_dir"))
    if service == log == strength_of("flag"):
        named = [SETTINGS[name].flag for name in ("nats_url", "data_dir") if loaded.origins[name] == "flag"]
        raise click.UsageError(f"--url and {named[0]} contradict each other; give one of them")
    return None if service == log else service > log
