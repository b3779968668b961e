"""`jobledger serve`: the service, in the foreground."""

import asyncio
import logging
import os
import sys
from typing import Any, NoReturn

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.settingflags import setting_flags
from jobledger.service.errors import InvalidSettings
from jobledger.service.logs import configure_logs
from jobledger.service.settings import LoadedSettings, load_settings


@click.command(
    epilog=examples(
        "jobledger serve",
        "jobledger serve --port 8080 --data-dir /var/lib/jobledger",
        "jobledger serve --nats-url nats://10.0.0.1:4222",
    )
)
@setting_flags("server")
def serve(**flags: Any) -> None:
    """Serve writes, reads and live feeds over HTTP.

    Without settings it starts a nats-server of its own and listens on this machine only. It ends in order on
    SIGTERM or Ctrl-C: what is under way is answered. Settings also come from JOBLEDGER_* and a TOML file; see
    `jobledger config show`.
    """
    loaded = load_settings(flags, os.environ)
    configure_logs(loaded.settings.log_level, loaded.settings.log_format)
    _end(_run(loaded))


def _run(loaded: LoadedSettings) -> int:
    try:
        from jobledger.service.server.http_server import HttpServer, base_url
        from jobledger.service.server.serve import banner
        from jobledger.service.server.serve import serve as run_service
        from jobledger.service.wiring import Service
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("jobledger"):
            raise
        raise InvalidSettings(
            f"the service needs packages that are not installed (no {error.name.partition('.')[0]}):"
            " `pip install 'jobledger[server,embedded]'`"
        ) from error

    def announce(service: Service, http: HttpServer) -> None:
        click.echo(banner(loaded, service, base_url(loaded.settings, http.address, http.port)))

    return asyncio.run(run_service(loaded.settings, announce))


def _end(code: int) -> NoReturn:
    """End the process without the interpreter's own clean-up.

    Threads of the HTTP server may still be on their way out; an interpreter that is being taken down makes
    them panic, now and then, and the process abort, after everything was ended in good order.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
