"""One turn of reading a held consumer: an inbox of its own, requests for events, and what they brought.

`fetch` of the client library is five times slower. A turn ends with trouble of any kind; the next one begins
with a reset, in another inbox, so that nothing of this one is taken for something of that one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from jobledger.store.consumer import Delivery
from jobledger.store.jetstream.api import status_of
from jobledger.store.jetstream.connection import Message
from jobledger.store.jetstream.consumer.api import GROUP, NANOSECONDS, ConsumerApi
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.limits import CONSUMER_PULL_BYTES, CONSUMER_PULL_EVENTS

_PULL_EXPIRES_SECONDS = 30
_RECORD_EXTRA_BYTES = 64 * 1_024  # what the server counts beside the content: subjects, headers
_PIN_TAKEN = "423"
_HEARTBEAT = "100"


class Deliveries:
    """What a consumer delivers to who holds it; made by `open`.

    Attributes:
        pending: events behind the last one that came, as the server said with it.
        trouble: why this turn is over; empty: it is not.
        broken: the trouble is the connection's.
        lost: the server says that another client has the pin.
    """

    def __init__(
        self,
        api: ConsumerApi,
        name: str,
        pin: str,
        *,
        limits: tuple[int, int],
        on_news: Callable[[bool], None],
    ) -> None:
        max_events, max_bytes = limits
        self._connection = api.connection
        self._subject = api.next_subject(name)
        self._events = max(1, min(CONSUMER_PULL_EVENTS, max_events // 2))
        self._bytes = min(CONSUMER_PULL_BYTES, max_bytes // 2)
        self._on_news = on_news
        self._buffer: deque[Delivery] = deque()
        self._buffered_bytes = 0
        self._under_way = 0  # events asked for and not yet arrived
        self._expected = 1  # the number of the next delivery
        self._renewal: asyncio.Future[str] | None = None
        self._inbox = ""
        self.pending = 0
        self.trouble = ""
        self.broken = False
        self.lost = False
        options = {"group": GROUP, "id": pin}
        self._pull_request = msgspec.json.encode(
            {
                **options,
                "batch": self._events,
                # A request that the next event does not fit into would bring nothing, for ever.
                "max_bytes": max(self._bytes, self._connection.max_payload + _RECORD_EXTRA_BYTES),
                "expires": _PULL_EXPIRES_SECONDS * NANOSECONDS,
            }
        )
        # One byte holds no event: it renews the pin, is answered at once, and brings nothing.
        self._renew_request = msgspec.json.encode({**options, "batch": 1, "max_bytes": 1, "no_wait": True})

    async def open(self) -> Self:
        """Open the inbox."""
        self._inbox = await self._connection.subscribe(self._receive)
        return self

    async def close(self) -> None:
        """Close the inbox: the server forgets the requests that wait, and what still comes goes nowhere."""
        if self._renewal is not None and not self._renewal.done():
            self._renewal.cancel()
        await self._connection.unsubscribe(self._inbox)

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def received(self) -> int:
        """How many deliveries came, one after the other without a gap."""
        return self._expected - 1

    @property
    def requests(self) -> int:
        """Requests for events that wait at the server: 0 or 1."""
        return min(1, self._under_way)

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """What has come, at least one if there is one."""
        buffer = self._buffer
        taken: list[Delivery] = []
        size = 0
        while buffer and len(taken) < max_events and size < max_bytes:
            delivery = buffer.popleft()
            size += len(delivery.payload)
            taken.append(delivery)
        self._buffered_bytes -= size
        return taken

    async def pull(self) -> None:
        """Keep a request under way, as long as there is room for what it brings.

        Never two at once, though there is room for two: who shares a group counts the requests that wait, and
        the server does not say whose they are, nor when one has brought all that it may.
        """
        if (
            not self._under_way
            and len(self._buffer) <= self._events
            and self._buffered_bytes <= self._bytes  # large events end a request early
            and not self.trouble
            and not self.lost
        ):
            self._under_way = self._events
            try:
                await self._connection.publish(self._subject, self._pull_request, f"{self._inbox}pull")
            except LogUnavailable as error:
                self.end(str(error), broken=True)

    async def renew(self, timeout_seconds: float) -> bool:
        """Renew the pin; False if another client has it.

        Raises:
            LogUnavailable: if there is no answer.
        """
        self._renewal = asyncio.get_running_loop().create_future()
        await self._connection.publish(self._subject, self._renew_request, f"{self._inbox}renew")
        try:
            async with asyncio.timeout(timeout_seconds):
                status = await self._renewal
        except TimeoutError:
            raise LogUnavailable(f"no answer within {timeout_seconds:g} s to {self._subject}") from None
        if status == "503":
            raise LogUnavailable(f"nobody answers {self._subject}")
        return status != _PIN_TAKEN

    def end(self, trouble: str, *, broken: bool = False) -> None:
        """This turn is over."""
        self.trouble, self.broken = self.trouble or trouble, self.broken or broken
        if broken and self._renewal is not None and not self._renewal.done():
            self._renewal.set_exception(LogUnavailable(trouble))
        self._on_news(True)

    def _receive(self, message: Message) -> None:
        if message.subject.startswith(self._inbox):
            self._control(message)
            return
        self._under_way -= 1
        fields = message.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<number>.<time>.<pending>;
        # with a domain, it and the account stand before the stream.
        offset = 0 if len(fields) == 9 else 2
        number = int(fields[6 + offset])
        if number != self._expected or self.trouble:
            if not self.trouble:
                self.end(f"delivery {self._expected} did not arrive, but {number}")
            return
        self._expected += 1
        self.pending = int(fields[8 + offset])
        payload = message.payload
        self._buffered_bytes += len(payload)
        buffer = self._buffer
        buffer.append(
            Delivery(
                int(fields[5 + offset]), int(fields[7 + offset]), message.subject, payload, message.reply
            )
        )
        if len(buffer) == 1 or not self._under_way:
            self._on_news(not self._under_way)  # that request has brought all: the next one is due

    def _control(self, message: Message) -> None:
        status = status_of(message)
        if status == _HEARTBEAT:
            return
        if message.subject.endswith("renew"):
            if self._renewal is not None and not self._renewal.done():
                self._renewal.set_result(status)
            return
        headers = message.headers or {}
        pending = headers.get("Nats-Pending-Messages")
        if status == _PIN_TAKEN:
            self.lost = True
            self._on_news(True)
        elif pending is None:
            self.end(f"status {status} {headers.get('Description', '')}")
        else:  # the request came to its end: it expired, or reached its bytes
            self._under_way -= int(pending)
            if int(pending):
                self._on_news(True)
