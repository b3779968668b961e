"""Waiting for the pin of a consumer: one request that waits in line with those of other processes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from jobledger.store.jetstream.api import status_of
from jobledger.store.jetstream.connection import Message
from jobledger.store.jetstream.consumer.api import GROUP, NANOSECONDS, ConsumerApi
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.limits import PIN_SECONDS, PIN_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS

_LOOK_SECONDS = PIN_SECONDS / 2  # between two looks at a consumer that one waits for
_EXPIRED = "408"
_REQUEST = msgspec.json.encode({"batch": 1, "expires": int(PIN_WAIT_SECONDS * NANOSECONDS), "group": GROUP})


class Line:
    """One place in the line.

    Args:
        api: of the consumer's stream.
        name: of the consumer.

    Attributes:
        pin: the id of the pin, once it has come.
    """

    def __init__(self, api: ConsumerApi, name: str) -> None:
        self._api = api
        self._connection = api.connection
        self._name = name
        self._news = asyncio.Event()
        self._inbox = ""
        self._status = ""
        self._is_down = False
        self.pin = ""

    async def wait(self, look: Callable[[], Awaitable[object]]) -> str:
        """Wait until this client is pinned; the id of the pin.

        The event that came with it is to be read again: somebody else may have been given events before it.

        Args:
            look: asked now and then; raises if there is nothing to wait for.

        Raises:
            LogUnavailable: if the connection is lost.
        """
        clock = asyncio.get_running_loop().time
        self._inbox = await self._connection.subscribe(self._receive)
        self._connection.watch(self._on_connection)
        ask_at = 0.0
        while True:
            if clock() >= ask_at:
                await self._connection.publish(
                    self._api.next_subject(self._name), _REQUEST, f"{self._inbox}pin"
                )
                ask_at = clock() + PIN_WAIT_SECONDS + RETRY_MAX_WAIT_SECONDS
            await look()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue
            self._news.clear()
            if self.pin:
                return self.pin
            if self._is_down:
                raise LogUnavailable("the connection was lost")
            if self._status != _EXPIRED:  # the consumer moves, or is gone: a look will tell
                await asyncio.sleep(RETRY_MAX_WAIT_SECONDS / 10)
            ask_at = 0.0

    async def last_word(self, *, seconds: float) -> str:
        """The pin, if it comes in time, though nobody wants it any more; empty if it does not."""
        if self._inbox and not self._is_down:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not self.pin:
                        self._news.clear()
                        await self._news.wait()
        return self.pin

    async def close(self) -> None:
        """Leave the line."""
        self._connection.unwatch(self._on_connection)
        inbox, self._inbox = self._inbox, ""
        if inbox:
            await self._connection.unsubscribe(inbox)

    def _receive(self, message: Message) -> None:
        if message.subject.startswith(self._inbox):
            self._status = status_of(message)
        else:
            self.pin = (message.headers or {}).get("Nats-Pin-Id", "")
        self._news.set()

    def _on_connection(self, _up: bool) -> None:
        self._is_down = True  # the request is lost with the connection
        self._news.set()
