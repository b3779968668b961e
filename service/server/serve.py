"""Runs the service: starts its parts in order, announces when it is ready, and shuts down in reverse order.

    starting ──► serving ──► draining ──► ended
        └── a signal or an error: the parts already started are stopped, in reverse order

The first SIGTERM, SIGINT or SIGHUP drains: no new connections, requests in flight are answered, feeds are
closed with their cursor. This takes at most `drain_timeout_seconds`, plus END_TIMEOUT_SECONDS for the log and
the view. A second signal ends the process immediately. If the projector stops by itself, the service keeps
running: writes continue, /readyz fails with the reason, and an operator decides (usually the view must be
rebuilt, which a restart alone does not do).
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

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
from jobledger.service.server.monitor import Monitor
from jobledger.service.settings import SETTINGS, LoadedSettings, Settings
from jobledger.service.wiring import ASOF_FOLDER, Service, open_service
from jobledger.store.disk_space import cause_of
from jobledger.store.embedded import NATS_FOLDER, find_program
from jobledger.store.model.errors import EmbeddedServerError, JobledgerError, LogUnavailable
from jobledger.store.private_files import FOLDER_MODE, exposure, open_private, tighten_all

LOCK_FILE: Final = "lock"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL_SECONDS: Final = 0.05
_INCOMPLETE_CODE: Final = 1  # a request in flight was not answered

_log = logging.getLogger("jobledger.service")


class HttpFront(Protocol):
    """What answers HTTP: an `HttpServer` in this process, or a `WorkerPool`."""

    END_SECONDS: float
    """How much longer than the requests in flight it may take to end."""
    address: str
    port: int

    @property
    def in_flight(self) -> int:
        """Requests and feeds in flight."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """Its other processes."""
        ...

    def stop_accepting(self) -> None:
        """Accept no new connection; requests in flight continue."""
        ...

    async def wait_ended(self) -> None:
        """Wait until every request in flight was answered after `stop_accepting`, or it failed."""
        ...

    async def stop(self) -> None:
        """Stop without waiting for requests in flight."""
        ...


Announce = Callable[[Service, HttpFront], None]


async def serve(settings: Settings, announce: Announce) -> int:
    """Serves until a signal; needs a process of its own, which it kills if the shutdown hangs.

    Args:
        settings: already validated.
        announce: called once, when requests are accepted.

    Returns:
        The exit code of the process: 0 if every request in flight was answered.

    Raises:
        JobledgerError: the service could not start; nothing is left running.
    """
    ending = ShutdownSignals()
    ending.listen()
    try:
        return await _serve(settings, announce, ending)
    except (asyncio.CancelledError, JobledgerError):
        # The NATS client may swallow the cancellation of a connection attempt, which then fails by itself.
        if not ending.requested.is_set() or ending.starting is None:
            raise
        _log.info("ended before it was ready")
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
            http = await _start_http(service, settings, address)
            ending.worker_pids = lambda: http.pids
            ending.starting = None
            background = asyncio.create_task(run_background(service))
            try:
                freeze_gc()
                shorten_thread_switches()
                if not ending.requested.is_set():
                    announce(service, http)
                    _log.info("ready for requests on %s port %d", http.address, http.port)
                failure_code = await _until_requested(http, ending)
                code = await drain(service, http, settings.drain_timeout_seconds)
            finally:
                background.cancel()
                await asyncio.gather(background, return_exceptions=True)
                await http.stop()
    _log.info("ended: exit code %d", failure_code or code)
    return failure_code or code


async def _start_http(service: Service, settings: Settings, address: str) -> HttpFront:
    if settings.workers == 1:
        return await HttpServer.start(create_app(service), settings, address)
    from jobledger.service.workers.pool import WorkerPool  # only needed with several processes

    return await WorkerPool.start(service, settings, address)


def check_start(settings: Settings) -> str:
    """Checks the preconditions before anything is started; returns the address to listen on.

    Raises:
        InvalidSettings: the host, certificate or tokens can't be used.
        NotReady: the port is in use.
        EmbeddedServerError: there is no nats-server to embed.
    """
    address = resolve(settings.host)
    check_bind(settings.host, TokenFile(settings.tokens_file))
    check_tls(settings)
    if settings.tls_key is not None and (warning := exposed(settings.tls_key, "tls_key")):
        _log.warning("%s", warning)
    free_port(address, settings.port)
    if settings.feeds_per_client < settings.workers:
        raise InvalidSettings(
            f"feeds_per_client must be at least workers, {settings.workers}, because each worker has an equal"
            f" share; got {settings.feeds_per_client}"
        )
    if not settings.nats_url:
        find_program()
    return address


def freeze_gc() -> None:
    """Excludes all existing objects from garbage collection, and collects new ones less often.

    Imported modules and started parts live until the end; traversing them repeatedly cost a sixth of the read
    rate (`python -m benchmarks http`). Requests leave few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def shorten_thread_switches() -> None:
    """Lets the event loop take the interpreter lock from computing threads sooner.

    The loop needs the lock again after each wait for a socket, about ten times per write; by default a thread
    that compares specs keeps it for 5 ms each time.
    """
    sys.setswitchinterval(THREAD_SWITCH_SECONDS)


def _keep_private(settings: Settings) -> None:
    """Removes other users' access to files of older releases, and warns about an accessible folder."""
    folder = settings.data_dir
    files = (settings.tokens_file, settings.audit_keys_file, settings.webhook_keys_file)
    locks = folder.glob(".*.lock")
    tighten_all([folder / ASOF_FOLDER, folder / SEALS_FILE.parent, folder / VIEW_FILE, *files, *locks])
    if warning := exposure(folder):
        _log.warning("%s", warning)


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Locks a data directory for this process.

    Two projectors on one view would only duplicate work, but two embedded servers would corrupt the store.

    Raises:
        NotReady: another process holds the lock.
        InvalidSettings: the directory can't be used.
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
        with suppress(OSError):  # on a full disk the lock still holds; only its holder is not recorded
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


class ShutdownSignals:
    """The signals that request a shutdown."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.starting: asyncio.Task[object] | None = asyncio.current_task()
        self.server_pid: Callable[[], int] = lambda: 0
        self.worker_pids: Callable[[], Sequence[int]] = tuple

    def listen(self) -> None:
        """Handles the signals, except those that the parent process set to be ignored (`nohup`)."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)

    def unlisten(self) -> None:
        """Removes the handlers."""
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.requested.is_set():
            _log.info("shutting down (%s); a second signal ends the process immediately", number.name)
            self.requested.set()
            if self.starting is not None:
                self.starting.cancel()
            return
        _log.warning(
            "second signal (%s): ending immediately without answering requests in flight", number.name
        )
        kill_process(128 + number, self.server_pid(), self.worker_pids())


def kill_process(code: int, server_pid: int = 0, worker_pids: Sequence[int] = ()) -> None:
    """Ends the process and its workers immediately; acknowledged writes are already on disk."""
    for pid in worker_pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if server_pid:
        with suppress(ProcessLookupError):
            os.kill(server_pid, signal.SIGTERM)
    os._exit(code)


async def _until_requested(http: HttpFront, ending: ShutdownSignals) -> int:
    """Waits for a shutdown request; returns a nonzero exit code if the HTTP server failed."""
    requested = asyncio.create_task(ending.requested.wait())
    ended = asyncio.create_task(http.wait_ended())
    try:
        await asyncio.wait({requested, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            return 0
        _log.error("the HTTP server failed: %s", ended.exception() or "it ended unexpectedly")
        return 1
    finally:
        requested.cancel()
        ended.cancel()
        await asyncio.gather(requested, ended, return_exceptions=True)


async def drain(service: Service, http: HttpFront, timeout_seconds: float) -> int:
    """Answers the requests in flight within the timeout; returns the exit code."""
    _kill_after(timeout_seconds + END_TIMEOUT_SECONDS, service, http)
    _log.info("draining: %d requests and feeds in flight, at most %g s", http.in_flight, timeout_seconds)
    service.draining.set()
    http.stop_accepting()
    try:
        async with asyncio.timeout(timeout_seconds + http.END_SECONDS):
            await service.hub.close()
            await (_wait_ended(http) if isinstance(http, HttpServer) else http.wait_ended())
    except TimeoutError:
        _log.warning("drain timed out: %d requests and feeds did not end in time", http.in_flight)
        return _INCOMPLETE_CODE
    except Exception:  # noqa: BLE001 - the other parts must be stopped as well
        _log.exception("the HTTP server failed during the drain")
        return _INCOMPLETE_CODE
    _log.info("drained: every request in flight was answered")
    return 0


async def _wait_ended(http: HttpServer) -> None:
    """Waits for the requests in flight, and only briefly for clients that do not read their response."""
    loop, ended = asyncio.get_running_loop(), asyncio.create_task(http.wait_ended())
    idle_since: float | None = None
    try:
        while not ended.done():
            await asyncio.wait((ended,), timeout=_POLL_SECONDS)
            idle_since = None if http.in_flight else idle_since or loop.time()
            if idle_since is not None and loop.time() - idle_since > UNSENT_GRACE_SECONDS:
                _log.info("closing connections whose clients do not read their response")
                return
        await ended
    finally:
        ended.cancel()


def _kill_after(seconds: float, service: Service, http: HttpFront) -> None:
    """Kills the process after a timeout, even if the event loop hangs."""

    def end() -> None:
        _log.error("shutdown took longer than %g s: ending immediately", seconds)
        kill_process(_INCOMPLETE_CODE, _server_pid(service), http.pids)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _server_pid(service: Service) -> int:
    if service.server is None:
        return 0
    with suppress(EmbeddedServerError):
        return service.server.pid
    return 0


async def run_background(service: Service) -> None:
    """What a process does besides its requests: prepare the histogram, and observe the state."""
    await asyncio.gather(_prepare_histogram(service), _observe_forever(service.monitor))


async def _prepare_histogram(service: Service) -> None:
    with suppress(LogUnavailable):  # requests look up what is missing
        await service.event_times.prepare()


async def _observe_forever(monitor: Monitor) -> None:
    """Observes periodically, so that changes are logged even without probes."""
    while True:
        try:
            await monitor.observe()
        except Exception:  # noqa: BLE001 - a bug must not end the monitoring
            _log.exception("can't observe the state of the service")
        await asyncio.sleep(OBSERVE_SECONDS)


_JOB: Final = (
    '{"Job":{"Name":"hello","Type":"batch","Tasks":[{"Name":"main",'
    '"Engine":{"Type":"docker","Params":{"Image":"busybox"}}}]}}'
)


def banner(loaded: LoadedSettings, service: Service, url: str) -> str:
    """Returns the text that `jobledger serve` prints when it is ready; it contains no secrets.

    Args:
        loaded: the settings and their origins.
        service: the running service.
        url: its base URL on this machine.
    """
    settings = loaded.settings
    facts = (
        ("API", url),
        ("web UI", f"{url}/ui/"),
        ("docs", f"{url}/docs"),
        ("data", str(settings.data_dir)),
        ("log", _log_place(service)),
        *((("connect", _connect(loaded)),) if service.server is not None else ()),
        ("view", str(settings.data_dir / VIEW_FILE)),
        ("tokens", _tokens(service)),
        ("settings", str(loaded.config_file or "defaults, flags and environment (`jobledger config show`)")),
        ("health", f"{url}/readyz?verbose and {url}/metrics"),
    )
    lines = [f"Jobledger {__version__} is ready at {url}", ""]
    lines += [f"  {name:<9} {text}" for name, text in facts]
    lines += ["", "Try next, in another terminal:", "", *(f"  {line}" for line in _next(service, url)), ""]
    return "\n".join(lines)


def _log_place(service: Service) -> str:
    settings = service.settings
    if service.server is None:
        return f"NATS at {SETTINGS['nats_url'].shown(settings.nats_url)}"
    return f"{settings.data_dir / NATS_FOLDER} (embedded nats-server, {service.server.address})"


def _connect(loaded: LoadedSettings) -> str:
    """How the user's programs connect to the log: the embedded server changes its port."""
    is_flag = loaded.origins["data_dir"] == "flag"
    flags = f" --data-dir {shlex.quote(str(loaded.settings.data_dir))}" if is_flag else ""
    return f"`{program_name()} nats url{flags}` prints URL, user and password of the log, for your programs"


def _tokens(service: Service) -> str:
    path = service.settings.tokens_file
    if service.tokens.is_open:
        return f"none: every user of this machine has full access (tokens would be in {path})"
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
    """How to run this command: by name if it is on the PATH, else by path."""
    if shutil.which("jobledger"):
        return "jobledger"
    program = Path(sys.executable).with_name("jobledger")
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)
