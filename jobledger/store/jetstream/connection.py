"""The connection to NATS: the only module that imports `nats`.

It is thin on purpose. The JetStream protocol is spoken by the modules beside it in plain messages, because the client
library lacks the parts that we need (atomic batches, batched direct get) and is slow or unsafe in some that it has.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.nuid import NUID

from jobledger.store.errors import LogUnavailable
from jobledger.store.limits import REQUEST_TIMEOUT_SECONDS

CONNECT_TIMEOUT_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.1
PING_INTERVAL_SECONDS = 5  # with MAX_LOST_PINGS: a connection that went silent is given up after some 15 s
MAX_LOST_PINGS = 2
SEND_BUFFER_BYTES = 16 * 1_048_576


class Arrived(NamedTuple):
    """A message from NATS, without the library's class around it."""

    subject: str
    reply: str
    payload: bytes
    headers: Mapping[str, str] | None


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


class _LazyClient(Client):
    """The library's client, without parsing the headers of every message (half the cost of receiving one).

    The method is private to the library. A release that renames it only costs the speed; `tests/log_contract.py` would
    find one that changes what it means.
    """

    async def _process_headers(self, headers: bytes) -> Headers | None:  # type: ignore[override]
        return Headers(headers) if headers else None


class NobodyAnswers(LogUnavailable):
    """The server knows of nobody who listens on the subject: the message was dropped, nothing was written."""


Handler = Callable[[Arrived], None]
"""Called for each message, in order, on the event loop; must not block."""


class Connection:
    """A connection that mends itself; made by `open`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._subscriptions: dict[str, Subscription] = {}
        self._watchers: list[Callable[[bool], None]] = []
        self._up = asyncio.Event()
        self._up.set()

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
        client = _LazyClient()
        connection = cls(client)
        servers = [server.strip() for server in url.split(",")]
        try:
            await client.connect(
                servers,
                name=name,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                # Once up, it tries for ever: each operation has its own bound. The first connect must fail by itself.
                max_reconnect_attempts=1,
                reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # any number will do
                ping_interval=PING_INTERVAL_SECONDS,
                max_outstanding_pings=MAX_LOST_PINGS,
                pending_size=SEND_BUFFER_BYTES,
                skip_subject_validation=True,  # ours are percent-encoded; checking each again is 10 % of a publish
                error_cb=connection._on_error,
                disconnected_cb=connection._on_disconnected,
                reconnected_cb=connection._on_reconnected,
                **options,
            )
        except (NatsError, OSError, TimeoutError) as error:
            with suppress(Exception):
                await client.close()
            shown = ", ".join(_without_secrets(server) for server in servers)
            raise LogUnavailable(
                f"no nats-server answers at {shown} ({_say(error)}); is it running?"
            ) from error
        client.options["max_reconnect_attempts"] = -1
        return connection

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, headers included, in bytes."""
        return int(self._client.max_payload)

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent right now."""
        return bool(self._client.is_connected) and self._up.is_set()

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Tell `watcher` when the connection is lost (False) and when it is back (True)."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[bool], None]) -> None:
        """Stop telling `watcher`."""
        self._watchers.remove(watcher)

    async def wait_up(self, timeout_seconds: float) -> None:
        """Wait until messages can be sent.

        Raises:
            LogUnavailable: if that takes longer.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            raise LogUnavailable(
                "no connection to nats-server; nothing was written; it is being tried again"
            ) from None

    async def publish(self, subject: str, payload: bytes, reply: str = "", headers: Any = None) -> None:
        """Send one message; whether it arrived only an answer can tell.

        Raises:
            LogUnavailable: if the connection is closed, or its send buffer full.
        """
        try:
            await self._client.publish(subject, payload, reply, headers)
        except NatsError as error:
            raise LogUnavailable(f"can't send to nats-server: {_say(error)}") from error

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Arrived:
        """Send a message and wait for its one answer.

        Raises:
            NobodyAnswers: if there is nobody to give one.
            LogUnavailable: if there is no answer in time.
        """
        try:
            message = await self._client.request(subject, payload, timeout=timeout_seconds, headers=headers)
        except NoRespondersError:
            raise NobodyAnswers(
                f"nobody answers {subject}: JetStream is off, or the stream has no leader just now"
            ) from None
        except (NatsError, TimeoutError) as error:
            raise LogUnavailable(
                f"no answer to {subject} within {timeout_seconds:g} s ({_say(error)})"
            ) from error
        return _arrived(message)

    async def subscribe(self, handler: Handler) -> str:
        """Open a private inbox `<prefix>.*`, whose messages go to `handler`; returns the prefix with its dot."""
        inbox = self._client.new_inbox()

        async def deliver(message: Msg) -> None:
            handler(_arrived(message))

        # No limits here: what may be under way is bounded by whoever asks for it (requests, pulls).
        self._subscriptions[inbox] = await self._client.subscribe(
            f"{inbox}.*", cb=deliver, pending_msgs_limit=0, pending_bytes_limit=0
        )
        return f"{inbox}."

    async def unsubscribe(self, prefix: str) -> None:
        """Close an inbox."""
        subscription = self._subscriptions.pop(prefix.removesuffix("."), None)
        if subscription is not None:
            with suppress(NatsError):
                await subscription.unsubscribe()

    async def close(self) -> None:
        """Close the connection."""
        self._watchers.clear()
        with suppress(NatsError, OSError, TimeoutError):
            await self._client.close()

    async def _on_disconnected(self) -> None:
        self._up.clear()
        for watcher in tuple(self._watchers):
            watcher(False)

    async def _on_reconnected(self) -> None:
        self._up.set()
        for watcher in tuple(self._watchers):
            watcher(True)

    async def _on_error(self, _error: Exception) -> None:
        # Every operation has its own answer or its own timeout; the library's default would print to stderr.
        return


def _arrived(message: Msg) -> Arrived:
    return Arrived(message.subject, message.reply, message.data, message.headers)


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _without_secrets(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url


_tokens = NUID()


def new_token() -> str:
    """A name that no other process has: for batches and consumers."""
    return str(_tokens.next().decode())
