"""Waiting for the pin of a consumer: one request that waits in line with those of other processes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from jobledger.store.jetstream.api import status_of
from jobledger.store.jetstream.connection import Message
from jobledger.store.jetstream.consumer.api import GROUP, NANOSECONDS, ConsumerApi, ConsumerState
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.limits import (
    HOLD_CHECK_TIMEOUT_SECONDS,
    PIN_SECONDS,
    PIN_WAIT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
)

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


class Awakened(NamedTuple):
    """What was true of a consumer whose last event is delivered once more, to bring the pin.

    Attributes:
        place: all up to here was acknowledged.
        left_at: where the reset left the acknowledged place.
        note: revision of the note of resets: another one means that an operator reset it since.
    """

    place: int
    left_at: int
    note: int


async def force_delivery(
    api: ConsumerApi, state: ConsumerState, note: str, *, wanted: bool
) -> Awakened | None:
    """Have a consumer given away that nobody has, though no event is to come.

    A process that died may have been given all there are, and have handled none: then there is none to give,
    for ever, unless somebody has them delivered again. If the pin is given away meanwhile, its new holder
    sees a gap in the numbers, and begins anew.

    Args:
        api: of the consumer's stream.
        state: the consumer, as it was just seen.
        note: key of the note of its resets.
        wanted: whether somebody is to have it even if all is handled.

    Returns:
        Where to go on, if its last event is delivered again only to bring the pin.

    Raises:
        LogError: if that can't be done.
    """
    if state.pin or state.num_pending:
        return None
    if state.num_ack_pending:
        await api.reset(state.name, after=None)
    elif wanted and state.delivered.stream_seq:
        # The last event, handled already, brings the pin: it is delivered once more. (Only the service and
        # operators may write down where a consumer really is, so the reset can't go further back.)
        last = await api.last_event(state)
        if 0 < last <= state.ack_floor.stream_seq:  # a later one brings the pin by itself
            revision = await api.note_revision(note)
            await api.reset(state.name, after=last - 1)
            return Awakened(state.ack_floor.stream_seq, last - 1, revision)
    return None


async def yield_pin(api: ConsumerApi, name: str, pin: str) -> None:
    """Let the next one in line have a consumer that was just given to us.

    The event that came with it is put back first, because it may be the only one. Nothing was delivered to us
    but that one, so the others in line stand as they stood, and each is asked before we are asked again.

    Raises:
        LogError: if that can't be done.
    """
    state = await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
    if state is not None and state.pin == pin:
        await api.reset(name, after=None)
        await api.unpin(name)


async def purge_stale_pulls(api: ConsumerApi, name: str) -> None:
    """Have the server forget requests whose inbox is closed.

    It may give the pin to one that nobody listens for, and then to nobody else for PIN_SECONDS. When it
    is asked about the consumer it throws such requests out.

    Raises:
        LogError: if it can't be asked.
    """
    if api.connection.is_up:
        await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
