"""The HTTP server of an ASGI app: Granian with limits, an exclusive port, and an orderly shutdown.

Granian binds with SO_REUSEPORT, so a second service could bind the same port and the kernel would split the
requests between the two. A plain socket therefore checks first that the port is free.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import resource
import socket
import ssl
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from jobledger.service.errors import InvalidSettings, NotReady
from jobledger.service.limits import (
    BIND_TIMEOUT_SECONDS,
    CONNECTIONS_BACKLOG,
    CONNECTIONS_KEPT_FILES,
    CONNECTIONS_MAX,
    CONNECTIONS_POLL_SECONDS,
    HEADERS_MAX_BYTES,
    HEADERS_TIMEOUT_SECONDS,
    OPEN_FILES_TARGET,
)
from jobledger.service.server.granian_worker import AnswerNow, is_supported, worker_target
from jobledger.service.settings import Settings

_log = logging.getLogger("jobledger.http")

_FILES: Final = "/dev/fd"
_POLL_SECONDS = 0.01  # between connection attempts to a starting server
_PORT_TRIES = 5  # another process may take a port that was just free


class HttpServer:
    """Serves an ASGI app; created by `start`."""

    END_SECONDS = 0.0
    pids: Sequence[int] = ()

    def __init__(self, app: Any, settings: Settings, address: str, port: int, processes: int = 1) -> None:
        self.address = address
        self.port = port
        self.in_flight = 0
        self._busy: dict[int, int] = {}  # requests in flight by their client's port
        most = connections_max() // processes
        self._guard = ConnectionGuard(port, most, lambda: frozenset(tuple(self._busy)))
        self._guarding: asyncio.Task[None] | None = None
        self._app = app
        self._server: Any = Server(  # it has no types
            self._counted,
            address=address,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,  # the limits below are for HTTP/1
            http1_settings=HTTP1Settings(
                header_read_timeout=int(HEADERS_TIMEOUT_SECONDS * 1000), max_buffer_size=HEADERS_MAX_BYTES
            ),
            websockets=True,  # for one route: `api/websocket`
            backlog=CONNECTIONS_BACKLOG,
            backpressure=most,
            ssl_cert=settings.tls_cert,
            ssl_key=settings.tls_key,
            log_enabled=False,
        )
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, app: Any, settings: Settings, address: str, *, shared_port: int | None = None
    ) -> "HttpServer":
        """Start a server, and wait until it accepts connections.

        Args:
            app: the ASGI app.
            settings: port, certificate and, with `shared_port`, the number of workers.
            address: to listen on.
            shared_port: a port that the owner of this worker holds; None: that of the settings, exclusively.

        Raises:
            NotReady: it does not start, or the port is in use.
        """
        if shared_port is not None:
            server = cls(app, settings, address, shared_port, settings.workers)
            await server._begin()
            return server
        for tries_left in reversed(range(_PORT_TRIES)):
            server = cls(app, settings, address, free_port(address, settings.port))
            try:
                await server._begin()
            except NotReady:
                if settings.port or not tries_left:
                    raise
            else:
                return server
        raise AssertionError  # the last try returns or raises

    async def wait_ended(self) -> None:
        """Wait until every request in flight was answered after `stop_accepting`, or the server failed.

        Raises:
            Exception: why it failed.
        """
        assert self._task is not None
        await asyncio.shield(self._task)

    def stop_accepting(self) -> None:
        """Accept no new connection; requests in flight continue."""
        self._server.stop()

    async def stop(self) -> None:
        """Stop without waiting for requests in flight."""
        self._server.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _begin(self) -> None:
        answer_now: AnswerNow | None = getattr(self._app, "answer_now", None)
        target = worker_target(answer_now) if answer_now is not None and is_supported() else None
        self._task = asyncio.create_task(self._server.serve(target))
        self._guarding = asyncio.create_task(self._guard_connections())
        self._task.add_done_callback(lambda _: self._guarding and self._guarding.cancel())
        try:
            async with asyncio.timeout(BIND_TIMEOUT_SECONDS):
                while not await _accepts(_reachable(self.address), self.port):
                    if self._task.done():
                        break
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    return
        except TimeoutError:
            pass
        except BaseException:
            await self.stop()
            raise
        await self.stop()
        reason = f"not within {BIND_TIMEOUT_SECONDS:g} s"
        if self._task.done() and not self._task.cancelled() and self._task.exception() is not None:
            reason = str(self._task.exception())
        raise NotReady(f"the HTTP server does not start on {self.address} port {self.port}: {reason}")

    async def _counted(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope.get("client")
        port = int(client[1]) if client else 0
        self.in_flight += 1
        self._busy[port] = self._busy.get(port, 0) + 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.in_flight -= 1
            if left := self._busy.pop(port) - 1:
                self._busy[port] = left

    async def _guard_connections(self) -> None:
        while True:
            await asyncio.sleep(CONNECTIONS_POLL_SECONDS)
            try:
                closed = await asyncio.to_thread(self._guard.close_idle)
            except Exception:  # noqa: BLE001 - requests are served regardless
                _log.exception("can't inspect the open connections")
            else:
                if closed:
                    _log.warning("%d idle connections were closed to free capacity", closed)


def connections_max() -> int:
    """Return the maximum number of connections: CONNECTIONS_MAX, or less if the open file limit is low."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, soft - CONNECTIONS_KEPT_FILES))


class ConnectionGuard:
    """Closes idle connections when few are left, those of the address with the most connections first.

    The server accepts connections up to a limit and then none, even idle ones, so a client that opens that
    many would make `/livez` unreachable. The server has no limit per address, so this class inspects the
    sockets of the process. A connection with a request in flight is never closed; an idle one may be closed
    at any time in HTTP, and clients open another.

    Args:
        port: the listening port.
        most: the maximum number of connections.
        busy: returns the client ports of all requests in flight.
    """

    def __init__(self, port: int, most: int, busy: Callable[[], Collection[int]]) -> None:
        self._port = port
        self._most = most
        self._busy = busy

    def close_idle(self) -> int:
        """Close idle connections if three quarters are in use, until half are; returns their number.

        Call it in a thread.
        """
        if len(os.listdir(_FILES)) < self._most * 3 // 4:  # noqa: PTH208 - one call in the usual case
            return 0
        by_address: dict[str, list[socket.socket]] = {}
        found = self._connections()
        try:
            busy, idle_count = self._busy(), 0
            if len(found) < self._most * 3 // 4:
                return 0
            counts: dict[str, int] = {}
            for address, port, connection in found:
                counts[address] = counts.get(address, 0) + 1
                if port not in busy:
                    by_address.setdefault(address, []).append(connection)
            excess = len(found) - self._most // 2
            while idle_count < excess and by_address:
                address = max(by_address, key=lambda each: counts[each])
                _shut_down(by_address[address].pop(0))
                counts[address] -= 1
                idle_count += 1
                if not by_address[address]:
                    del by_address[address]
            return idle_count
        finally:
            for *_, connection in found:
                connection.close()  # the duplicate

    def _connections(self) -> list[tuple[str, int, socket.socket]]:
        """Return the client address, the client port and a duplicate of each socket."""
        found = []
        for name in os.listdir(_FILES):  # noqa: PTH208 - thousands of names
            try:
                number = int(name)
                if not stat.S_ISSOCK(os.fstat(number).st_mode):
                    continue
                # A duplicate stays valid if the number is reused for another connection meanwhile.
                connection = socket.socket(fileno=os.dup(number))
            except (OSError, ValueError):
                continue
            try:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    raise OSError  # noqa: TRY301 - another kind of socket
                if connection.getsockname()[1] != self._port:
                    raise OSError  # noqa: TRY301
                address, port = connection.getpeername()[:2]
            except OSError:
                connection.close()
                continue
            found.append((str(address), int(port), connection))
        return found


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def resolve(host: str) -> str:
    """Resolve a host name or address to one address.

    Raises:
        InvalidSettings: it has none.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InvalidSettings(
            f"host {host!r:.80} can't be resolved ({error}); use an address of this machine"
        ) from None
    # `localhost` may resolve to both families; IPv4 is the usual expectation.
    addresses = sorted((str(sockaddr[0]) for *_, sockaddr in found), key=lambda text: ":" in text)
    return addresses[0]


def free_port(address: str, port: int) -> int:
    """Return the port if it is free, or a free one for 0; nothing stays bound.

    Raises:
        NotReady: it is in use.
        InvalidSettings: the address is not one of this machine, or the port needs privileges.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)  # two sockets may bind a port; only one may listen
        except PermissionError:
            raise InvalidSettings(
                f"port {port} needs privileges that this process lacks; use a port from 1024"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise NotReady(
                    f"port {port} of {address} is in use by another process; stop it, or use another port"
                    " with --port (0 picks a free one)"
                ) from None
            raise InvalidSettings(f"can't listen on {address} port {port}: {error.strerror}") from None
        return int(probe.getsockname()[1])


def check_tls(settings: Settings) -> None:
    """Check that certificate and key can be used.

    Raises:
        InvalidSettings: they can't.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        # Without a password argument OpenSSL prompts on the terminal, and blocks forever.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=""
        )
    except OSError as error:
        raise InvalidSettings(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} are not a certificate and its key"
            f" without a password, in PEM ({error.strerror or type(error).__name__})"
        ) from error


def allow_many_files() -> None:
    """Raise the open file limit of this process: each connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = OPEN_FILES_TARGET if hard == resource.RLIM_INFINITY else min(OPEN_FILES_TARGET, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def base_url(settings: Settings, address: str, port: int) -> str:
    """Return the base URL on this machine."""
    host = _reachable(address)
    scheme = "https" if settings.tls_cert is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _reachable(address: str) -> str:
    """Return the address, or the loopback address for the unspecified one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if not found.is_unspecified:
        return address
    return "127.0.0.1" if found.version == 4 else "::1"


async def _accepts(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
