"""The connection to NATS: the only module that imports `nats`.

It is thin on purpose. The JetStream protocol is spoken by the modules beside it in plain messages, because
the client library lacks the parts that we need (atomic batches, batched direct get) and is slow or unsafe in
some that it has.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.nuid import NUID

from jobledger.store.model.errors import LogNotPermitted, LogUnavailable
from jobledger.store.model.limits import REQUEST_TIMEOUT_SECONDS


class Headers(Mapping[str, str]):
    """Headers that are parsed when somebody looks: of a million delivered events nobody ever does.

    Args:
        raw: the header block as it came: `NATS/1.0[ status[ description]]`, then `Key: value` lines.
    """

    __slots__ = ("_parsed", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
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
            first, *lines = bytes(self._raw).decode(errors="replace").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            self._parsed = {key: value.strip() for key, colon, value in pairs if colon}
            _, _, inline = first.partition(" ")
            status, _, description = inline.partition(" ")
            if status:  # set last: a header of this name must not pass for the server's own word
                self._parsed |= {"Status": status, "Description": description}
            else:
                self._parsed.pop("Status", None)
        return self._parsed


CONNECT_TIMEOUT_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.1
PING_INTERVAL_SECONDS = 5  # with MAX_LOST_PINGS: a connection that went silent is given up after some 15 s
MAX_LOST_PINGS = 2
VIOLATION_SECONDS = 15.0  # a violation of permissions explains a missing answer for so long
SEND_BUFFER_BYTES = 16 * 1_048_576
_PUBLISH_VIOLATION = re.compile(r'permissions violation for publish to "(?P<subject>[^"]+)"')


class Message(NamedTuple):
    """A message from NATS, without the library's class around it."""

    subject: str
    reply: str
    payload: bytes
    headers: Mapping[str, str] | None


class _QuickClient(Client):
    """The library's client: headers in and out done quicker, and less that ends it for good.

    The methods are private to the library, so its version is bounded (pyproject.toml), and
    `tests/store/jetstream/test_connection.py` fails when one of them is gone.
    """

    async def _process_headers(self, headers: bytes) -> Headers | None:  # type: ignore[override]
        return Headers(headers) if headers else None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        # The server takes a subject that is not UTF-8 from any writer. The library's strict decoding would
        # end its reading task without a word, and so hang every reader at that message, for ever.
        return self.msg_class(
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    def fail_requests(self) -> None:
        """Tell those who wait for an answer that the connection it would come by is lost."""
        for future in tuple(self._resp_map.values()):
            if not future.done():
                future.set_exception(NatsError("connection lost"))

    async def _process_err(self, err_msg: str) -> None:
        # The library closes itself for good on most errors of the server (credentials expired, a line too
        # long); a connection that mends itself tries again.
        error = NatsError(f"nats: {err_msg}")
        await self._error_cb(error)
        if "permissions violation" not in err_msg:
            await self._process_op_err(error)

    async def _process_connect_init(self) -> None:
        transport = self._transport
        try:
            await super()._process_connect_init()
        except (OSError, asyncio.CancelledError):
            # After a TLS handshake that failed, the library would wait for the end of a connection that never
            # tells of its end: for ever, at the first connect as at any later one. After a cancellation it
            # would leave the socket open.
            if transport is not None:
                transport.close()  # type: ignore[no-untyped-call]
            self._transport = None
            raise

    def _connect_command(self) -> bytes:
        # The library would send the credentials in the open to whoever answers that it needs no TLS.
        if self.options.get("tls") is not None and not self._server_info.get("tls_required"):
            raise NatsError("TLS is wanted, and the server does not offer it")
        return super()._connect_command()

    async def publish_quickly(
        self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str]
    ) -> None:
        """`publish` for headers that are known to be plain: the library checks each one, every time."""
        lines = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
        block = f"NATS/1.0\r\n{lines}\r\n".encode()
        size = len(block)
        command = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n".encode()
        await self._send_command(b"".join((command, block, payload, b"\r\n")))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


class NoResponders(LogUnavailable):
    """The server knows of nobody who listens on the subject: the message was dropped, nothing was written."""


Handler = Callable[[Message], None]
"""Called for each message, in order, on the event loop; must not block."""


class Connection:
    """A connection that mends itself; made by `open`."""

    def __init__(self, client: _QuickClient) -> None:
        self._client = client
        self._subscriptions: dict[str, Subscription] = {}
        self._watchers: list[Callable[[bool], None]] = []
        self._refusable: dict[str, set[asyncio.Future[None]]] = {}  # by the subject in lower case
        self._up = asyncio.Event()
        self.losses = 0  # of the connection, so far
        self._up.set()
        self._closed = False
        self._errors: deque[Exception] = deque(maxlen=8)  # the library tells only that it gave up connecting
        self._violations: deque[tuple[float, str]] = deque(maxlen=8)  # of permissions, with their times

    @classmethod
    async def open(cls, url: str, *, name: str = "jobledger", **options: Any) -> "Connection":
        """Connect.

        Args:
            url: `nats://host:port`, or several with commas between them.
            name: shown in the server's monitoring.
            options: credentials and TLS, as `nats.connect` takes them.

        Raises:
            LogUnavailable: if no server answers.
        """
        client = _QuickClient()
        connection = cls(client)
        servers = [server.strip() for server in url.split(",")]
        try:
            await client.connect(
                servers,
                name=name,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                # Once up, it tries for ever: each operation has its own bound. The first connect must fail.
                max_reconnect_attempts=1,
                reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # any number will do
                ping_interval=PING_INTERVAL_SECONDS,
                max_outstanding_pings=MAX_LOST_PINGS,
                pending_size=SEND_BUFFER_BYTES,
                skip_subject_validation=True,  # ours are percent-encoded; a check is 10 % of a publish
                error_cb=connection._on_error,
                disconnected_cb=connection._on_disconnected,
                reconnected_cb=connection._on_reconnected,
                **options,
            )
        except (NatsError, OSError, TimeoutError) as error:
            with suppress(Exception):
                await client.close()
            shown = ", ".join(_without_secrets(server) for server in servers)
            raise LogUnavailable(_no_connection(shown, connection._errors or [error])) from error
        client.options["max_reconnect_attempts"] = -1
        return connection

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, headers included, in bytes."""
        return int(self._client.max_payload)

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent right now."""
        return bool(self._client.is_connected) and self._up.is_set() and not self._closed

    @property
    def trouble(self) -> str:
        """Why there may be no answer, as far as the connection knows."""
        if not self.is_up:
            return "no connection to nats-server"
        if self._violations and _clock() - self._violations[-1][0] < VIOLATION_SECONDS:
            return self._violations[-1][1]
        return "nats-server is connected and does not answer"

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Tell `watcher` when the connection is lost (False) and when it is back (True)."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[bool], None]) -> None:
        """Stop telling `watcher`; harmless if it is not told any more."""
        with suppress(ValueError):
            self._watchers.remove(watcher)

    async def wait_up(self, timeout_seconds: float) -> None:
        """Wait until messages can be sent.

        Raises:
            LogUnavailable: if that takes longer, or the connection is closed.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            raise LogUnavailable(
                "no connection to nats-server; nothing was written; it is being tried again"
            ) from None
        self._check_open()

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send one message; whether it arrived only an answer can tell.

        Args:
            subject: where to; of printable ASCII without spaces, as are the headers.
            payload: the content.
            reply: where an answer goes.
            headers: of the message.

        Raises:
            LogUnavailable: if the connection is closed, or its send buffer full.
        """
        try:
            if headers and self._client.is_connected:
                await self._client.publish_quickly(subject, payload, reply, headers)
            else:
                await self._client.publish(subject, payload, reply, headers)  # type: ignore[arg-type]
        except NatsError as error:
            raise LogUnavailable(f"can't send to nats-server: {_say(error)}") from error
        except OSError:  # handed over, and the connection broke: only an answer, or its absence, can tell
            return

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Message:
        """Send a message and wait for its one answer.

        Raises:
            NobodyAnswers: if there is nobody to give one.
            LogUnavailable: if there is no answer in time.
        """
        self._check_open()
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        started = _clock()
        try:
            message = await self._client.request(subject, payload, timeout=timeout_seconds, headers=headers)
            # Before Python 3.12, `asyncio.wait_for`, which the library uses, drops a cancellation that comes
            # together with the answer.
            if task is not None and task.cancelling() > cancelled_before:
                raise asyncio.CancelledError
        except NoRespondersError:
            raise NoResponders(
                f"nobody answers {subject}: JetStream is off, or the stream has no leader just now"
            ) from None
        except (NatsError, OSError, TimeoutError) as error:
            if self._was_forbidden(subject, started):
                raise LogUnavailable(
                    f"the server does not allow this user to publish to {subject}; change its permissions"
                ) from error
            raise LogUnavailable(f"no answer to {subject} ({_say(error)}); try again") from error
        return _arrived(message)

    async def request_if_permitted(
        self, subject: str, payload: bytes, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> Message:
        """`request`, for one that the NATS user may have no right to: that is found out at once.

        The server drops such a message and reports that on the side, so a plain request would wait for its
        timeout.

        Raises:
            LogNotPermitted: the user lacks the right to publish to `subject`.
            LogUnavailable: there is no answer in time.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = subject.lower()  # the library makes lower case of what the server reports
        self._refusable.setdefault(key, set()).add(refused)
        asking = asyncio.create_task(self.request(subject, payload, timeout_seconds=timeout_seconds))
        try:
            await asyncio.wait((asking, refused), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise LogNotPermitted(
                    f"the NATS user may not publish to {subject}; give it that right, or run `jobledger"
                    " streams create` as a user who has it"
                )
            return await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            waiting = self._refusable[key]
            waiting.discard(refused)
            if not waiting:
                del self._refusable[key]

    async def subscribe(self, handler: Handler) -> str:
        """Open a private inbox `<prefix>.*`, read by `handler`; returns the prefix with its dot."""
        self._check_open()
        inbox = self._client.new_inbox()

        async def deliver(message: Msg) -> None:
            handler(_arrived(message))

        # No limits here: what may be under way is bounded by whoever asks for it (requests, pulls).
        try:
            self._subscriptions[inbox] = await self._client.subscribe(
                f"{inbox}.*", cb=deliver, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except NatsError as error:
            raise LogUnavailable(f"can't listen to nats-server: {_say(error)}") from error
        return f"{inbox}."

    async def unsubscribe(self, prefix: str) -> None:
        """Close an inbox."""
        subscription = self._subscriptions.pop(prefix.removesuffix("."), None)
        if subscription is not None:
            with suppress(NatsError):
                await subscription.unsubscribe()

    async def close(self) -> None:
        """Close the connection. Whoever waits on it is told."""
        self._closed = True
        with suppress(NatsError, OSError, TimeoutError):
            await self._client.close()
        self._watchers.clear()
        self._up.set()  # so that `wait_up` does not wait for what will never come

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed; nothing was written")

    def _was_forbidden(self, subject: str, since: float) -> bool:
        """Whether the server said so; it is no answer to the request, so the request ends by its timeout."""
        words = f'publish to "{subject}"'.lower()
        return any(time >= since and words in text for time, text in self._violations)

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
        # Every operation has its own answer or its own timeout; the library's default would print to stderr.
        self._errors.append(error)
        text = str(error).lower()
        if "permissions violation" in text:
            self._violations.append((_clock(), text))
        found = _PUBLISH_VIOLATION.search(text)
        if found is not None:
            for refused in self._refusable.get(found["subject"], ()):
                if not refused.done():
                    refused.set_result(None)


def _arrived(message: Msg) -> Message:
    return Message(message.subject, message.reply, message.data, message.headers)


def _no_connection(shown: str, errors: Collection[Exception]) -> str:
    for error in errors:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of the nats-server at {shown} is not to be trusted"
                f" ({error.verify_message}); check the CA, and the name in the URL"
            )
        if isinstance(error, ssl.SSLError):
            return f"TLS with the nats-server at {shown} fails ({_say(error)}); check CA, certificate and key"
    reasons = [_say(error) for error in errors]
    for reason in reasons:
        if "authorization" in reason.lower():
            return f"the nats-server at {shown} refuses these credentials ({reason}); check them"
    if any(isinstance(error, ConnectionResetError) for error in errors):  # it may hang up before we read why
        return f"the nats-server at {shown} hangs up ({reasons[-1]}); check credentials and certificate"
    return f"no nats-server answers at {shown} ({reasons[-1]}); is it running?"


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _without_secrets(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url


_tokens = NUID()


def new_token() -> str:
    """A name that no other process has: for batches and consumers."""
    return str(_tokens.next().decode())
