"""Runs the service: starts it in order, tells when it can be asked, ends it in order.

    starting ──► serving ──► draining ──► ended
        └── a signal, or an error: what was started is ended, in the opposite order

The first SIGTERM, SIGINT or SIGHUP drains: no new connections, requests under way are answered, feeds are
closed with their cursor. That is over within `drain_timeout_seconds`, plus END_TIMEOUT_SECONDS for log and
view. A second signal ends the process at once. If the projector stops by itself, the service stays: writes go
on, /readyz says no and why, and a person decides (most often the view must be rebuilt, and a restart alone
would not mend it).
"""

import asyncio
import fcntl
import gc
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from jobledger import __version__
from jobledger.service.access.secret_files import exposed
from jobledger.service.access.tokens import TokenFile, check_bind
from jobledger.service.api.app import create_app
from jobledger.service.audit.sealer import SEALS_FILE
from jobledger.service.errors import InvalidSettings, NotReady
from jobledger.service.limits import (
    COLLECTOR_THRESHOLDS,
    END_TIMEOUT_SECONDS,
    OBSERVE_SECONDS,
    THREAD_SWITCH_SECONDS,
    UNSENT_GRACE_SECONDS,
)
from jobledger.service.log_access import VIEW_FILE
from jobledger.service.server.http_server import HttpServer, allow_many_files, check_tls, free_port, resolve
from jobledger.service.server.monitor import Monitor, monitor_of
from jobledger.service.settings import SETTINGS, LoadedSettings, Settings
from jobledger.service.wiring import ASOF_FOLDER, Service, open_service
from jobledger.store.disk_space import cause_of
from jobledger.store.embedded import NATS_FOLDER, find_program
from jobledger.store.model.errors import EmbeddedServerError, JobledgerError
from jobledger.store.private_files import FOLDER_MODE, exposure, open_private, tighten_all

LOCK_FILE: Final = "lock"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LOOK_SECONDS: Final = 0.05
_CUT_OFF: Final = 1  # the exit code if something under way was not answered

_log = logging.getLogger("jobledger.service")

Announce = Callable[[Service, HttpServer], None]


async def serve(settings: Settings, announce: Announce) -> int:
    """Serve until a signal says otherwise; for a process of its own, which it ends if something hangs.

    Args:
        settings: checked.
        announce: called once, when requests are taken.

    Returns:
        What the process shall end with: 0 if all that was under way was answered.

    Raises:
        JobledgerError: why it could not start; nothing is left running.
    """
    ending = ShutdownSignals()
    ending.listen()
    try:
        return await _serve(settings, announce, ending)
    except (asyncio.CancelledError, JobledgerError):
        # The NATS client may swallow the cancellation of an attempt to connect, which then fails by itself.
        if not ending.asked.is_set() or ending.starting is None:
            raise
        _log.info("ended: before it was ready")
        return 0
    finally:
        ending.unlisten()


async def _serve(settings: Settings, announce: Announce, ending: "ShutdownSignals") -> int:
    allow_many_files()
    address = check_start(settings)
    with locked(settings.data_dir):
        _log.info("starting: data in %s", settings.data_dir)
        _keep_private(settings)
        async with open_service(settings) as service:
            ending.server_pid = lambda: _server_pid(service)
            http = await HttpServer.start(create_app(service), settings, address)
            ending.starting = None
            monitor = monitor_of(service)
            watching = asyncio.create_task(_watch(monitor))
            try:
                freeze_gc()
                share_the_interpreter()
                if not ending.asked.is_set():
                    announce(service, http)
                    _log.info("ready for requests on %s port %d", http.address, http.port)
                broke = await _until_asked(http, ending)
                code = await _drain(service, http, settings.drain_timeout_seconds)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await monitor.close()
                await http.cut_off()
    _log.info("ended: exit code %d", broke or code)
    return broke or code


def check_start(settings: Settings) -> str:
    """Refuse what can't work, before anything is started; returns the address to listen on.

    Raises:
        InvalidSettings: if host, certificate or tokens don't allow it.
        NotReady: if the port is in use.
        EmbeddedServerError: if there is no nats-server to embed.
    """
    address = resolve(settings.host)
    check_bind(settings.host, TokenFile(settings.tokens_file))
    check_tls(settings)
    if settings.tls_key is not None and (warning := exposed(settings.tls_key, "tls_key")):
        _log.warning("%s", warning)
    free_port(address, settings.port)
    if not settings.nats_url:
        find_program()
    return address


def freeze_gc() -> None:
    """Let the garbage collector look at what requests make, seldom, and never at what is here to stay.

    All that was imported and started stays to the end; going through it again and again took a sixth of the
    rate of reads (`python -m benchmarks http`). Requests leave few cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def share_the_interpreter() -> None:
    """Let the event loop interrupt threads that compute, soon.

    Each time the loop has waited for a socket it needs the interpreter again, some ten times for one write;
    by default a thread that compares specs keeps it for 5 ms each time.
    """
    sys.setswitchinterval(THREAD_SWITCH_SECONDS)


def _keep_private(settings: Settings) -> None:
    """Remove other users' rights from files of an older release, and warn about an open folder."""
    folder = settings.data_dir
    files = (settings.tokens_file, settings.audit_keys_file, settings.webhook_keys_file)
    locks = folder.glob(".*.lock")
    tighten_all([folder / ASOF_FOLDER, folder / SEALS_FILE.parent, folder / VIEW_FILE, *files, *locks])
    if warning := exposure(folder):
        _log.warning("%s", warning)


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold a data directory for this process alone.

    Two projectors on one view would do no harm, and no good; two embedded servers on one store would.

    Raises:
        NotReady: if another process has it.
        InvalidSettings: if it can't be used.
    """
    path = data_dir / LOCK_FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        file = open_private(path, "a+")
    except OSError as error:
        raise InvalidSettings(f"data_dir {data_dir} can't be used: {cause_of(error, data_dir)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(32).strip() or "unknown"
            raise NotReady(
                f"data_dir {data_dir} is in use by another Jobledger (process {holder}); stop that one, or"
                " choose another directory with --data-dir"
            ) from None
        with suppress(OSError):  # on a full disk the lock holds as well; only its holder has no name then
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


class ShutdownSignals:
    """The signals that ask the process to end."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.starting: asyncio.Task[object] | None = asyncio.current_task()
        self.server_pid: Callable[[], int] = lambda: 0

    def listen(self) -> None:
        """Take the signals, but not those that our parent told us to ignore (`nohup`)."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)

    def unlisten(self) -> None:
        """Leave the signals alone again."""
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.asked.is_set():
            _log.info("asked to end (%s); once more ends it at once", number.name)
            self.asked.set()
            if self.starting is not None:
                self.starting.cancel()
            return
        _log.warning("asked twice (%s): ending at once, nothing more is answered", number.name)
        end_at_once(128 + number, self.server_pid())


def end_at_once(code: int, server_pid: int = 0) -> None:
    """End the process without another word; what is acknowledged is on disk already."""
    if server_pid:
        with suppress(ProcessLookupError):
            os.kill(server_pid, signal.SIGTERM)
    os._exit(code)


async def _until_asked(http: HttpServer, ending: ShutdownSignals) -> int:
    """Serve; returns an exit code of its own if the HTTP server broke."""
    asked = asyncio.create_task(ending.asked.wait())
    ended = asyncio.create_task(http.wait_ended())
    try:
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            return 0
        _log.error("the HTTP server broke: %s", ended.exception() or "it ended without being asked")
        return 1
    finally:
        asked.cancel()
        ended.cancel()
        await asyncio.gather(asked, ended, return_exceptions=True)


async def _drain(service: Service, http: HttpServer, timeout_seconds: float) -> int:
    """Answer what is under way, within the bound; returns the exit code."""
    _end_anyway_after(timeout_seconds + END_TIMEOUT_SECONDS, service)
    _log.info("draining: %d requests and feeds under way, at most %g s", http.under_way, timeout_seconds)
    service.draining.set()
    http.stop_accepting()
    try:
        async with asyncio.timeout(timeout_seconds):
            await service.hub.close()
            await _wait_ended(http)
    except TimeoutError:
        _log.warning("cut off: %d requests and feeds did not end in time", http.under_way)
        return _CUT_OFF
    except Exception:  # noqa: BLE001 - whatever it is, the rest must be ended as well
        _log.exception("the HTTP server did not end well")
        return _CUT_OFF
    _log.info("drained: all that was under way is answered")
    return 0


async def _wait_ended(http: HttpServer) -> None:
    """Wait for all that is under way; who does not read an answer that is ready is not waited for long."""
    loop, ended = asyncio.get_running_loop(), asyncio.create_task(http.wait_ended())
    idle_since: float | None = None
    try:
        while not ended.done():
            await asyncio.wait((ended,), timeout=_LOOK_SECONDS)
            idle_since = None if http.under_way else idle_since or loop.time()
            if idle_since is not None and loop.time() - idle_since > UNSENT_GRACE_SECONDS:
                _log.info("connections whose answers nobody reads are left behind")
                return
        await ended
    finally:
        ended.cancel()


def _end_anyway_after(seconds: float, service: Service) -> None:
    """Whatever hangs, even the loop: the process ends."""

    def end() -> None:
        _log.error("not ended within %g s: ending at once", seconds)
        end_at_once(_CUT_OFF, _server_pid(service))

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _server_pid(service: Service) -> int:
    if service.server is None:
        return 0
    with suppress(EmbeddedServerError):
        return service.server.pid
    return 0


async def _watch(monitor: Monitor) -> None:
    """Keep an eye on it, so that the log has a line when something changes, also if nobody asks."""
    while True:
        try:
            await monitor.look()
        except Exception:  # noqa: BLE001 - a mistake of ours must not blind the operator for good
            _log.exception("can't look at the state of the service")
        await asyncio.sleep(OBSERVE_SECONDS)


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
