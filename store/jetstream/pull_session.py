"""Pull requests for the messages of one consumer, and the buffer of what they brought.

    pull ─► requests wait at the server ─► messages arrive ─► buffer ─► take ─► pull …

Both readers of the log extend `PullSession`: `log_reader` reads every event through an ephemeral consumer,
`PinnedSession` reads a durable consumer that this process holds. The library's `fetch` is five times slower,
and does not notice a pull that was lost with its connection.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import msgspec

from jobledger.store.consumer import Delivery
from jobledger.store.jetstream.api import API, ConsumerReply, call, status_of
from jobledger.store.jetstream.connection import Connection, Message, new_token, read_message
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import CONSUMER_PULL_BYTES, CONSUMER_PULL_EVENTS, REQUEST_TIMEOUT_SECONDS
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_EXPIRES_SECONDS: Final = 30.0
_RECORD_EXTRA_BYTES: Final = 64 * 1_024  # what the server counts besides the content: subjects, headers
_HEARTBEAT: Final = "100"
_NO_RESPONDERS: Final = "503"
_PIN_TAKEN: Final = "423"
_ACK_FIELDS: Final = 9

# Fields of an acknowledgment subject:
# $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<number>.<time>.<pending>
SEQUENCE: Final = 5
NUMBER: Final = 6  # counts the consumer's deliveries
TIME: Final = 7
PENDING: Final = 8

R = TypeVar("R", bound=Record)


class PullSession(Generic[R]):
    """An inbox, the requests that wait for messages, and the buffer.

    A subclass puts messages into the buffer (`_deliver`), and reacts to the end of a request and to failures.

    Args:
        connection: to the server.
        events: of one request.
        max_bytes: of one request.
        max_requests: that wait at the server at the same time: 1 or 2.
        options: further fields of a request.
        expires_seconds: until the server ends a request.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        events: int,
        max_bytes: int,
        max_requests: int,
        options: Mapping[str, object],
        expires_seconds: float = _EXPIRES_SECONDS,
    ) -> None:
        assert events > 0, "a session of 0 events would send requests forever"
        self._connection = connection
        self._events = events
        self._max_bytes = max_bytes
        self._max_under_way = (max_requests - 1) * events
        self._buffer: deque[R] = deque()
        self._buffered_bytes = 0
        self._under_way = 0  # messages requested and not yet received
        self._inbox = ""
        self._next_subject = ""
        self._failure = ""  # why the session cannot continue; empty while it can
        # A request that the next message does not fit into would bring nothing, forever.
        request_bytes = max(max_bytes, connection.max_payload + _RECORD_EXTRA_BYTES)
        self._most_bytes = max_bytes + max_requests * request_bytes  # that the requests bring into the buffer
        self._request = msgspec.json.encode(
            {
                **options,
                "batch": events,
                "max_bytes": request_bytes,
                "expires": int(expires_seconds * NANOSECONDS_PER_SECOND),
            }
        )

    async def _open(self, stream: str, consumer: str) -> None:
        self._inbox = await self._connection.subscribe(self._receive)
        self._next_subject = next_subject(stream, consumer)
        self._under_way = 0

    async def _close(self) -> None:
        """Closes the inbox: the server discards waiting requests, and late messages go nowhere."""
        await self._connection.unsubscribe(self._inbox)

    async def pull(self) -> None:
        """Sends requests, as long as there is room for what they bring."""
        while (
            self._under_way <= self._max_under_way
            and self._under_way + len(self._buffer) <= self._events
            and self._buffered_bytes <= self._max_bytes  # large messages end a request early
            and not self._failure
        ):
            self._under_way += self._events
            try:
                await self._connection.publish(self._next_subject, self._request, f"{self._inbox}pull")
            except LogUnavailable as error:
                self._fail(str(error), disconnected=True)

    def _take(self, max_events: int, max_bytes: int = sys.maxsize) -> Sequence[R]:
        """Removes messages from the buffer, at least one if there are any."""
        buffer = self._buffer
        taken: list[R] = []
        if len(buffer) <= max_events and self._buffered_bytes <= max_bytes:
            taken.extend(buffer)
            buffer.clear()
            self._buffered_bytes = 0
            return taken
        size = 0
        while buffer and len(taken) < max_events and size < max_bytes:
            record = buffer.popleft()
            size += len(record.payload)
            taken.append(record)
        self._buffered_bytes -= size
        return taken

    def _receive(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        """Handles what arrives in the inbox."""
        if subject.startswith(self._inbox):
            self._on_status(read_message(subject, reply, payload, header))
            return
        if self._under_way <= 0 or self._buffered_bytes > self._most_bytes:
            if not self._failure:
                self._fail("nats-server sent more than was requested")
            return
        self._under_way -= 1
        fields = reply.split(".")
        if len(fields) != _ACK_FIELDS:  # a domain and an account come third
            del fields[2:4]
        self._deliver(subject, reply, payload, fields)

    def _deliver(self, subject: str, reply: str, payload: bytes, fields: list[str]) -> None:
        """Puts a message into the buffer if it is the expected one."""
        raise NotImplementedError

    def _on_status(self, message: Message) -> None:
        status = status_of(message)
        if status == _HEARTBEAT:
            self._on_heartbeat()
            return
        headers = message.headers or {}
        unused = headers.get("Nats-Pending-Messages")
        if unused is None:
            self._fail(f"status {status} {headers.get('Description', '')}")
        else:  # a request ended: it expired, or reached its bytes
            self._under_way -= int(unused)
            self._on_request_end(int(unused))

    def _on_heartbeat(self) -> None:
        """The consumer exists and has nothing to send."""

    def _on_request_end(self, unused: int) -> None:
        """A request ended with so many events missing."""

    def _fail(self, reason: str, *, disconnected: bool = False) -> None:
        """Ends the session."""
        del disconnected
        self._failure = reason


class PinnedSession(PullSession[Delivery]):
    """Reads a durable consumer while this process holds its pin (NATS ADR-42).

    A session ends with the first failure. The next one starts with a reset, in another inbox, so that no
    message of one is taken for a message of the other.

    Args:
        connection: to the server.
        pin: the id of the pin.
        group: the consumer's priority group.
        limits: the most events and bytes that may be buffered.
        on_change: called with True if the holder must act, else if events can be taken.

    Attributes:
        pending: events after the last one received, as the server reported with it.
        is_disconnected: it failed because of the connection.
        is_superseded: another client has the pin.
    """

    def __init__(
        self,
        connection: Connection,
        pin: str,
        *,
        group: str,
        limits: tuple[int, int],
        on_change: Callable[[bool], None],
    ) -> None:
        max_events, max_bytes = limits
        options = {"group": group, "id": pin}
        super().__init__(
            connection,
            events=max(1, min(CONSUMER_PULL_EVENTS, max_events // 2)),
            max_bytes=min(CONSUMER_PULL_BYTES, max_bytes // 2),
            # Members of a group count the requests that wait at the server, which reports neither whose they
            # are nor when one has brought all that it may.
            max_requests=1,
            options=options,
        )
        self._on_change = on_change
        self._expected = 1  # the number of the next delivery
        self._renewal: asyncio.Future[str] | None = None
        self.pending = 0
        self.is_disconnected = False
        self.is_superseded = False
        # No event fits into one byte: the request renews the pin, is answered at once, and brings nothing.
        self._renew_request = msgspec.json.encode({**options, "batch": 1, "max_bytes": 1, "no_wait": True})

    async def open(self, stream: str, consumer: str) -> None:
        """Opens the inbox."""
        await self._open(stream, consumer)

    async def close(self) -> None:
        """Closes the inbox."""
        if self._renewal is not None and not self._renewal.done():
            self._renewal.cancel()
        await self._close()

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def failure(self) -> str:
        """Why the session ended; empty while it works."""
        return self._failure

    @property
    def received(self) -> int:
        """How many deliveries arrived without a gap."""
        return self._expected - 1

    @property
    def requests(self) -> int:
        """Requests for events that wait at the server: 0 or 1."""
        return min(1, self._under_way)

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """Returns the deliveries that arrived, at least one if there are any."""
        return self._take(max_events, max_bytes)

    async def pull(self) -> None:
        """Sends a request if there is room for what it brings, and this client has the pin."""
        if not self.is_superseded:
            await super().pull()

    async def renew(self, timeout_seconds: float) -> bool:
        """Renews the pin; False if another client has it.

        Raises:
            LogUnavailable: there is no answer.
        """
        self._renewal = asyncio.get_running_loop().create_future()
        await self._connection.publish(self._next_subject, self._renew_request, f"{self._inbox}renew")
        try:
            async with asyncio.timeout(timeout_seconds):
                status = await self._renewal
        except TimeoutError:
            raise LogUnavailable(f"no answer from {self._next_subject} in {timeout_seconds:g} s") from None
        if status == _NO_RESPONDERS:
            raise LogUnavailable(f"{self._next_subject} has no responder")
        return status != _PIN_TAKEN

    def disconnect(self) -> None:
        """Ends the session, because the connection was lost."""
        self._fail("the connection was lost", disconnected=True)

    def _fail(self, reason: str, *, disconnected: bool = False) -> None:
        self._failure = self._failure or reason
        self.is_disconnected |= disconnected
        if disconnected and self._renewal is not None and not self._renewal.done():
            self._renewal.set_exception(LogUnavailable(reason))
        self._on_change(True)

    def _deliver(self, subject: str, reply: str, payload: bytes, fields: list[str]) -> None:
        number = int(fields[NUMBER])
        if number != self._expected or self._failure:
            if not self._failure:
                self._fail(f"received delivery {number} instead of {self._expected}")
            return
        self._expected += 1
        self.pending = int(fields[PENDING])
        self._buffered_bytes += len(payload)
        buffer = self._buffer
        buffer.append(Delivery(int(fields[SEQUENCE]), int(fields[TIME]), subject, payload, reply))
        if len(buffer) == 1 or not self._under_way:
            self._on_change(not self._under_way)  # the request has brought all of it: send the next one

    def _on_status(self, message: Message) -> None:
        status = status_of(message)
        if message.subject.endswith("renew") and status != _HEARTBEAT:
            if self._renewal is not None and not self._renewal.done():
                self._renewal.set_result(status)
        elif status == _PIN_TAKEN:
            self.is_superseded = True
            self._on_change(True)
        else:
            super()._on_status(message)

    def _on_request_end(self, unused: int) -> None:
        if unused:
            self._on_change(True)


def next_subject(stream: str, consumer: str) -> str:
    """The subject of pull requests."""
    return f"{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}"


async def create_reader(
    connection: Connection,
    stream: str,
    *,
    start: int,
    idle_seconds: int,
    purpose: str,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> ConsumerReply:
    """Creates an ephemeral consumer without acknowledgments that delivers from a sequence on.

    Args:
        connection: to the server.
        stream: its name.
        start: the first sequence.
        idle_seconds: the server deletes the consumer after this time without a request.
        purpose: for the error message.
        timeout_seconds: for the answer.

    Raises:
        LogError: it cannot be created.
    """
    name = new_token()
    config: dict[str, Any] = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": idle_seconds * NANOSECONDS_PER_SECOND,
    }
    reply = await call(
        connection,
        f"CONSUMER.CREATE.{stream}.{name}",
        {"stream_name": stream, "config": config},
        ConsumerReply,
        timeout_seconds=timeout_seconds,
    )
    if reply.error is not None:
        raise reply.error.as_exception(purpose)
    return reply


async def delete_reader(connection: Connection, stream: str, consumer: str) -> None:
    """Deletes an ephemeral consumer without waiting for the answer; the server also deletes an idle one."""
    if consumer and connection.is_up:
        with suppress(LogError):
            await connection.publish(f"{API}.CONSUMER.DELETE.{stream}.{consumer}", b"")
