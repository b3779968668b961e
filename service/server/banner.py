"""What `jobledger serve` says when it is ready: where everything is, and what to try next."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from jobledger import __version__
from jobledger.service.log_access import VIEW_FILE
from jobledger.service.settings import SETTINGS, LoadedSettings
from jobledger.service.wiring import Service
from jobledger.store.embedded import NATS_FOLDER

_JOB: Final = (
    '{"Job":{"Name":"hello","Type":"batch","Tasks":[{"Name":"main",'
    '"Engine":{"Type":"docker","Params":{"Image":"busybox"}}}]}}'
)


def banner(loaded: LoadedSettings, service: Service, url: str) -> str:
    """The text, without secrets.

    Args:
        loaded: the settings and where they came from.
        service: that is served.
        url: where it is asked from this machine.
    """
    settings = loaded.settings
    facts = (
        ("API", url),
        ("docs", f"{url}/docs"),
        ("data", str(settings.data_dir)),
        ("log", _log_place(service)),
        *((("connect", _connect(loaded)),) if service.server is not None else ()),
        ("view", str(settings.data_dir / VIEW_FILE)),
        ("tokens", _tokens(service)),
        ("settings", str(loaded.config_file or "defaults, flags and environment (`jobledger config show`)")),
        ("health", f"{url}/readyz?verbose and {url}/metrics"),
    )
    lines = [f"Jobledger {__version__} takes requests at {url}", ""]
    lines += [f"  {name:<9} {text}" for name, text in facts]
    lines += ["", "Try next, in another terminal:", "", *(f"  {line}" for line in _next(service, url)), ""]
    return "\n".join(lines)


def _log_place(service: Service) -> str:
    settings = service.settings
    if service.server is None:
        return f"NATS at {SETTINGS['nats_url'].shown(settings.nats_url)}"
    return f"{settings.data_dir / NATS_FOLDER} (embedded nats-server, {service.server.address})"


def _connect(loaded: LoadedSettings) -> str:
    """How a program of the user's own gets to the log; the embedded server changes port."""
    is_flag = loaded.origins["data_dir"] == "flag"
    flags = f" --data-dir {shlex.quote(str(loaded.settings.data_dir))}" if is_flag else ""
    return f"`{program_name()} nats url{flags}` prints URL, user and password of the log, for your programs"


def _tokens(service: Service) -> str:
    path = service.settings.tokens_file
    if service.tokens.is_open:
        return f"none: whoever is on this machine may do everything (they would be in {path})"
    return str(path)


def _next(service: Service, url: str) -> list[str]:
    settings, program = service.settings, program_name()
    token = "" if service.tokens.is_open else ' -H "Authorization: Bearer $JOBLEDGER_TOKEN"'
    trust = "" if settings.tls_cert is None else f" --cacert {settings.tls_cert}"
    env = "" if url == SETTINGS["url"].default else f"JOBLEDGER_URL={url} "
    env += "" if settings.tls_cert is None else f"JOBLEDGER_TLS_CA={settings.tls_cert} "
    return [
        f"curl -sS{trust}{token} -X PUT {url}/api/v1/orchestrator/jobs \\",
        f"  -H 'Content-Type: application/json' -d '{_JOB}'",
        f"{env}{program} job describe hello",
        f"{env}{program} events tail --after 0",
    ]


def program_name() -> str:
    """How this command can be called again: by its name if that is on the PATH, else by its place."""
    if shutil.which("jobledger"):
        return "jobledger"
    program = Path(sys.executable).with_name("jobledger")
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)
