"""The connection to NATS: the only module that imports `nats`.

It is thin on purpose. The other modules of this folder speak the JetStream protocol in plain messages,
because the client library lacks some parts of it (atomic batches, batched direct get), and is slow or unsafe
in others.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError, NoRespondersError
from nats.nuid import NUID

from jobledger.store.jetstream.direct import DirectParser, Handler, is_supported
from jobledger.store.model.errors import LogNotPermitted, LogUnavailable
from jobledger.store.model.limits import REQUEST_TIMEOUT_SECONDS


class Headers(Mapping[str, str]):
    """Headers that are parsed on first access: those of most delivered events are never read.

    Args:
        raw: the header block as received: `NATS/1.0[ status[ description]]`, then `Key: value` lines.
    """

    __slots__ = ("_parsed", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._parsed: dict[str, str] | None = None

    def __getitem__(self, key: str) -> str:
        return self._items()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def __bool__(self) -> bool:
        return True

    def _items(self) -> dict[str, str]:
        if self._parsed is None:
            first, *lines = bytes(self.raw).decode(errors="replace").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            self._parsed = {key: value.strip() for key, colon, value in pairs if colon}
            _, _, inline = first.partition(" ")
            status, _, description = inline.partition(" ")
            if status:  # set last: a header of this name must not be taken for the server's status
                self._parsed |= {"Status": status, "Description": description}
            else:
                self._parsed.pop("Status", None)
        return self._parsed


CONNECT_TIMEOUT_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.1
PING_INTERVAL_SECONDS = 5  # with MAX_LOST_PINGS: a silent connection is closed after about 15 s
MAX_LOST_PINGS = 2
VIOLATION_SECONDS = 15.0  # a permissions violation explains a missing answer for this long
SEND_BUFFER_BYTES = 16 * 1_048_576
JOINED_MAX_BYTES = 1_048_576  # of payloads that are copied at once, on the event loop
_PUBLISH_VIOLATION = re.compile(r'permissions violation for publish to "(?P<subject>[^"]+)"')


class Message(NamedTuple):
    """A message from NATS, independent of the library's class."""

    subject: str
    reply: str
    payload: bytes
    headers: Mapping[str, str] | None


class Outgoing(NamedTuple):
    """A message to send.

    Attributes:
        header: `Key: value` lines, each with its line end.
    """

    subject: str
    reply: str
    header: str
    payload: bytes


class QuietTransport(TcpTransport):
    """A transport on which a write after the loss of the connection is ignored, on every event loop.

    asyncio ignores it, and `drain` raises ConnectionResetError, which the library handles. uvloop raises
    RuntimeError, which would end the library's reconnection for good.
    """

    def __init__(self, transport: TcpTransport) -> None:
        vars(self).update(vars(transport))  # the connection, and its reader and writer

    @property
    def is_empty(self) -> bool:
        """Whether everything written so far was accepted by the socket, so that a write cannot pile up."""
        return self._io_writer is not None and not self._io_writer.transport.get_write_buffer_size()

    def write(self, payload: bytes) -> None:
        """Writes, unless the connection is lost."""
        self._unless_lost(super().write, payload)

    def writelines(self, payload: Sequence[bytes]) -> None:
        """Writes all parts, unless the connection is lost."""
        self._unless_lost(super().writelines, payload)

    def _unless_lost(self, write: Callable[[Any], None], payload: Any) -> None:
        try:
            write(payload)
        except RuntimeError:
            if self._io_writer is None or not self._io_writer.is_closing():
                raise


class _QuickClient(Client):
    """The library's client with faster headers, which fewer errors close permanently.

    The overridden methods are private to the library, so its version is bounded (pyproject.toml), and
    `tests/store/jetstream/test_connection.py` fails when one of them is missing.
    """

    _direct: DirectParser | None = None

    async def _process_headers(self, headers: bytes) -> Headers | None:  # type: ignore[override]
        return Headers(headers) if headers else None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        # The server accepts a subject that is not UTF-8 from any writer. The library's strict decoding would
        # end its reading task without notice, and block every reader at that message forever.
        return self.msg_class(
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # A message for one of our inboxes whose first line has an unusual form keeps its place in the order.
        if self._direct is None or not self._direct.deliver(sid, subject, reply, data, headers or b""):
            await super()._process_msg(sid, subject, reply, data, headers)

    def parse_directly(self, on_error: Callable[[Exception], None]) -> DirectParser | None:
        """Replaces the parser; None: this version of the library has another one."""
        parser: Any = getattr(self, "_ps", None)
        kind: Any = type(parser)
        if not is_supported(kind):
            return None
        self._direct = DirectParser(parser, on_error)
        self._ps = self._direct  # type: ignore[assignment]
        return self._direct

    def fail_requests(self) -> None:
        """Fails all requests that wait for an answer, because the connection is lost."""
        for future in tuple(self._resp_map.values()):
            if not future.done():
                future.set_exception(NatsError("connection lost"))

    async def _process_err(self, err_msg: str) -> None:
        # The library closes itself for good on most errors of the server (expired credentials, a line that
        # is too long). This connection reconnects.
        error = NatsError(f"nats: {err_msg}")
        await self._error_cb(error)
        if "permissions violation" not in err_msg:
            await self._process_op_err(error)

    async def _connect_to_server(self, s: Srv) -> None:
        await super()._connect_to_server(s)
        if type(self._transport) is TcpTransport:
            self._transport = QuietTransport(self._transport)

    async def _process_connect_init(self) -> None:
        transport = self._transport
        try:
            await super()._process_connect_init()
        except (OSError, asyncio.CancelledError):
            # After a failed TLS handshake the library would wait forever for the end of a connection that
            # never reports it, in the first connect and in any later one. After a cancellation it would leave
            # the socket open.
            if transport is not None:
                transport.close()  # type: ignore[no-untyped-call]
            self._transport = None
            raise

    def _connect_command(self) -> bytes:
        # The library would send the credentials unencrypted to any server that does not require TLS.
        if self.options.get("tls") is not None and not self._server_info.get("tls_required"):
            raise NatsError("TLS is configured, but the server does not offer it")
        return super()._connect_command()

    async def publish_all(self, messages: "Sequence[Outgoing]") -> None:
        """Publishes messages with headers that need no check, written together.

        The library would check each header, and write in a later turn of the event loop.
        """
        parts: list[bytes] = []
        size = 0
        for subject, reply, header, payload in messages:
            block = f"NATS/1.0\r\n{header}\r\n".encode()
            command = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n"
            parts += (command.encode(), block, payload, b"\r\n")
            size += len(payload)
            if size > JOINED_MAX_BYTES:
                await self._send(b"".join(parts))
                parts, size = [], 0
        await self._send(b"".join(parts))

    async def _send(self, commands: bytes) -> None:
        transport = self._transport
        if not self._pending and isinstance(transport, QuietTransport) and transport.is_empty:
            transport.write(commands)
            return
        await self._send_command(commands)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


class NoResponders(LogUnavailable):
    """The subject has no subscriber: the server dropped the message, and nothing was written."""


def read_message(subject: str, reply: str, payload: bytes, header: bytes) -> Message:
    """The message that a `Handler` is called with."""
    return Message(subject, reply, payload, Headers(header) if header else None)


@contextmanager
def _cancellable() -> Iterator[None]:
    """Raises a cancellation of the task that the library drops.

    It does so while it flushes, and, before Python 3.12, if an answer arrives with it (`asyncio.wait_for`).
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


class Connection:
    """A connection that reconnects by itself; returned by `open`."""

    def __init__(self, client: _QuickClient) -> None:
        self._client = client
        self._subscriptions: dict[str, Subscription] = {}
        self._watchers: list[Callable[[bool], None]] = []
        self._refusable: dict[str, set[asyncio.Future[None]]] = {}  # by subject in lower case
        self._up = asyncio.Event()
        self.losses = 0  # of the connection, so far
        self._up.set()
        self._closed = False
        self._errors: deque[Exception] = deque(maxlen=8)  # the library does not report why connecting failed
        self._violations: deque[tuple[float, str]] = deque(maxlen=8)  # of permissions, with their times
        self._direct = client.parse_directly(self._errors.append)

    @classmethod
    async def open(cls, url: str, *, name: str = "jobledger", **options: Any) -> "Connection":
        """Connects.

        Args:
            url: `nats://host:port`, or several, separated by commas.
            name: shown in the server's monitoring.
            options: credentials and TLS, as for `nats.connect`.

        Raises:
            LogUnavailable: no server answers.
        """
        client = _QuickClient()
        connection = cls(client)
        servers = [server.strip() for server in url.split(",")]
        try:
            await client.connect(
                servers,
                name=name,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                # Only for the first connect. Later it reconnects forever: each operation has a bound of its
                # own.
                max_reconnect_attempts=1,
                reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # any number will do
                ping_interval=PING_INTERVAL_SECONDS,
                max_outstanding_pings=MAX_LOST_PINGS,
                pending_size=SEND_BUFFER_BYTES,
                skip_subject_validation=True,  # subjects are percent-encoded; a check is 10 % of a publish
                error_cb=connection._on_error,
                disconnected_cb=connection._on_disconnected,
                reconnected_cb=connection._on_reconnected,
                **options,
            )
        except (NatsError, OSError, TimeoutError) as error:
            with suppress(Exception):
                await client.close()
            shown = ", ".join(_without_secrets(server) for server in servers)
            raise LogUnavailable(_connect_failure(shown, connection._errors or [error])) from error
        client.options["max_reconnect_attempts"] = -1
        return connection

    @property
    def max_payload(self) -> int:
        """The largest message that the server accepts, headers included, in bytes."""
        return int(self._client.max_payload)

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent right now."""
        return bool(self._client.is_connected) and self._up.is_set() and not self._closed

    @property
    def problem(self) -> str:
        """The likely reason for a missing answer."""
        if not self.is_up:
            return "no connection to nats-server"
        if self._violations and _clock() - self._violations[-1][0] < VIOLATION_SECONDS:
            return self._violations[-1][1]
        return "nats-server is connected and does not answer"

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Calls `watcher` when the connection is lost (False) and when it is back (True)."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[bool], None]) -> None:
        """Removes a watcher, if it is there."""
        with suppress(ValueError):
            self._watchers.remove(watcher)

    async def wait_up(self, timeout_seconds: float) -> None:
        """Waits until messages can be sent.

        Raises:
            LogUnavailable: that takes longer, or the connection is closed.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            raise LogUnavailable(
                "no connection to nats-server; nothing was written; reconnecting continues"
            ) from None
        self._check_open()

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Sends one message without headers. Only an answer shows that it arrived.

        Args:
            subject: of printable ASCII without spaces.
            payload: the content.
            reply: the subject of an answer.

        Raises:
            LogUnavailable: the connection is closed, or its send buffer is full.
        """
        try:
            await self._client.publish(subject, payload, reply)
        except NatsError as error:
            raise LogUnavailable(f"cannot send to nats-server: {_describe(error)}; try again") from error
        except OSError:  # the connection broke while sending: the message may have arrived
            return

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """Sends messages in this order. Only an answer shows that they arrived.

        Raises:
            LogUnavailable: there is no connection.
        """
        if not self._client.is_connected:
            raise LogUnavailable("no connection to nats-server; try again")
        try:
            with _cancellable():
                await self._client.publish_all(messages)
        except NatsError as error:
            raise LogUnavailable(f"cannot send to nats-server: {_describe(error)}; try again") from error
        except OSError:  # the connection broke while sending: the messages may have arrived
            return

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Message:
        """Sends a message and waits for its only answer.

        Raises:
            NoResponders: the subject has no subscriber.
            LogUnavailable: there is no answer in time.
        """
        self._check_open()
        started = _clock()
        try:
            with _cancellable():
                message = await self._client.request(
                    subject, payload, timeout=timeout_seconds, headers=headers
                )
        except NoRespondersError:
            raise NoResponders(
                f"{subject} has no responder: JetStream is off, or the stream has no leader at the moment"
            ) from None
        except (NatsError, OSError, TimeoutError) as error:
            if self._was_forbidden(subject, started):
                raise LogUnavailable(
                    f"this NATS user may not publish to {subject}; change its permissions"
                ) from error
            raise LogUnavailable(f"no answer from {subject} ({_describe(error)}); try again") from error
        return _to_message(message)

    async def request_if_permitted(
        self, subject: str, payload: bytes, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> Message:
        """`request` that fails at once if the NATS user lacks the right to it.

        The server drops such a message and reports the violation apart from any request, so a plain request
        would wait for its timeout.

        Raises:
            LogNotPermitted: the user may not publish to `subject`.
            LogUnavailable: there is no answer in time.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = subject.lower()  # the library converts the server's report to lower case
        self._refusable.setdefault(key, set()).add(refused)
        request = asyncio.create_task(self.request(subject, payload, timeout_seconds=timeout_seconds))
        try:
            await asyncio.wait((request, refused), return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                raise LogNotPermitted(
                    f"the NATS user may not publish to {subject}; give it that right, or run `jobledger"
                    " streams create` as a user who has it"
                )
            return await request
        finally:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            waiting = self._refusable[key]
            waiting.discard(refused)
            if not waiting:
                del self._refusable[key]

    async def subscribe(self, handler: Handler) -> str:
        """Opens a private inbox `<prefix>.*` for `handler`; returns the prefix with its dot."""
        self._check_open()
        inbox = self._client.new_inbox()

        async def deliver(message: Msg) -> None:
            headers: Any = message.headers
            handler(message.subject, message.reply, message.data, headers.raw if headers else b"")

        # No limits here: the callers bound their requests and pulls.
        try:
            subscription = await self._client.subscribe(
                f"{inbox}.*", cb=deliver, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except NatsError as error:
            raise LogUnavailable(f"cannot subscribe at nats-server: {_describe(error)}; try again") from error
        self._subscriptions[inbox] = subscription
        sid = _sid_of(subscription)
        if self._direct is not None and sid is not None:
            # Before the caller knows the inbox, so no message has taken the other path.
            self._direct.add(sid, handler)
        return f"{inbox}."

    async def unsubscribe(self, prefix: str) -> None:
        """Closes an inbox."""
        subscription = self._subscriptions.pop(prefix.removesuffix("."), None)
        if subscription is not None:
            sid = _sid_of(subscription)
            if self._direct is not None and sid is not None:
                self._direct.remove(sid)
            with suppress(NatsError):
                await subscription.unsubscribe()

    async def close(self) -> None:
        """Closes the connection; everything that waits on it fails."""
        self._closed = True
        with suppress(NatsError, OSError, TimeoutError):
            await self._client.close()
        self._watchers.clear()
        self._up.set()  # ends `wait_up`

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed; nothing was written")

    def _was_forbidden(self, subject: str, since: float) -> bool:
        """Whether the server reported a violation, which does not end the request: it ends by its timeout."""
        reported = f'publish to "{subject}"'.lower()
        return any(time >= since and reported in text for time, text in self._violations)

    async def _on_disconnected(self) -> None:
        self.losses += 1
        self._up.clear()
        self._client.fail_requests()
        for watcher in tuple(self._watchers):
            watcher(False)

    async def _on_reconnected(self) -> None:
        self._up.set()
        for watcher in tuple(self._watchers):
            watcher(True)

    async def _on_error(self, error: Exception) -> None:
        # Every operation has an answer or a timeout of its own; the library's default would print to stderr.
        self._errors.append(error)
        text = str(error).lower()
        if "permissions violation" in text:
            self._violations.append((_clock(), text))
        found = _PUBLISH_VIOLATION.search(text)
        if found is not None:
            for refused in self._refusable.get(found["subject"], ()):
                if not refused.done():
                    refused.set_result(None)


def _sid_of(subscription: Subscription) -> int | None:
    return getattr(subscription, "_id", None)


def _to_message(message: Msg) -> Message:
    return Message(message.subject, message.reply, message.data, message.headers)


def _connect_failure(shown: str, errors: Collection[Exception]) -> str:
    for error in errors:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of the nats-server at {shown} is not trusted"
                f" ({error.verify_message}); check the CA, and the name in the URL"
            )
        if isinstance(error, ssl.SSLError):
            reason = _describe(error)
            return f"TLS with the nats-server at {shown} fails ({reason}); check CA, certificate and key"
    reasons = [_describe(error) for error in errors]
    for reason in reasons:
        if "authorization" in reason.lower():
            return f"the nats-server at {shown} refuses these credentials ({reason}); check them"
    if any(isinstance(error, ConnectionResetError) for error in errors):  # before the reason was read
        return f"the nats-server at {shown} hung up ({reasons[-1]}); check credentials and certificate"
    return f"no nats-server answers at {shown} ({reasons[-1]}); is it running?"


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _without_secrets(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url


_tokens = NUID()


def new_token() -> str:
    """A globally unique name, for batches and consumers."""
    return str(_tokens.next().decode())
