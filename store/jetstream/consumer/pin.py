"""The pin of a consumer (NATS ADR-42): waiting for it, and passing it on where the server would not.

The server gives a pin away together with an event, to one of the requests that wait: mostly the newest one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from jobledger.store.jetstream.api import status_of
from jobledger.store.jetstream.connection import read_message
from jobledger.store.jetstream.consumer.api import GROUP, ConsumerApi, ConsumerState
from jobledger.store.jetstream.pull_session import next_subject
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.limits import (
    HOLD_CHECK_TIMEOUT_SECONDS,
    PIN_SECONDS,
    PIN_WAIT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
)
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_POLL_SECONDS: Final = PIN_SECONDS / 2  # between two checks of a consumer that is waited for
_EXPIRED: Final = "408"
_REQUEST: Final = msgspec.json.encode(
    {"batch": 1, "expires": int(PIN_WAIT_SECONDS * NANOSECONDS_PER_SECOND), "group": GROUP}
)


class PinRequest:
    """A pull request that waits for the pin, next to those of other processes."""

    def __init__(self, api: ConsumerApi, name: str) -> None:
        self._api = api
        self._connection = api.connection
        self._name = name
        self._changed = asyncio.Event()
        self._inbox = ""
        self._status = ""
        self._is_down = False
        self._pin = ""

    async def wait(self, check: Callable[[], Awaitable[object]]) -> str:
        """Waits until this client is pinned; returns the id of the pin.

        The event that arrives with it must be read again: another client may have received events before it.

        Args:
            check: called regularly; raises if there is nothing to wait for.

        Raises:
            LogUnavailable: the connection is lost.
        """
        clock = asyncio.get_running_loop().time
        self._inbox = await self._connection.subscribe(self._receive)
        self._connection.watch(self._on_connection)
        request_at = 0.0
        while True:
            if clock() >= request_at:
                subject = next_subject(self._api.stream, self._name)
                await self._connection.publish(subject, _REQUEST, f"{self._inbox}pin")
                request_at = clock() + PIN_WAIT_SECONDS + RETRY_MAX_WAIT_SECONDS
            await check()
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()
            if self._pin:
                return self._pin
            if self._is_down:
                raise LogUnavailable("the connection was lost")
            if self._status != _EXPIRED:  # the consumer moves, or is missing: the next check shows which
                await asyncio.sleep(RETRY_MAX_WAIT_SECONDS / 10)
            request_at = 0.0

    async def wait_for_late_pin(self, seconds: float) -> str:
        """Returns the pin if it arrives in time although it is no longer needed; empty if it does not."""
        if self._inbox and not self._is_down:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not self._pin:
                        self._changed.clear()
                        await self._changed.wait()
        return self._pin

    async def close(self) -> None:
        """Withdraws the request."""
        self._connection.unwatch(self._on_connection)
        inbox, self._inbox = self._inbox, ""
        if inbox:
            await self._connection.unsubscribe(inbox)

    def _receive(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        message = read_message(subject, reply, payload, header)
        if subject.startswith(self._inbox):
            self._status = status_of(message)
        else:
            self._pin = (message.headers or {}).get("Nats-Pin-Id", "")
        self._changed.set()

    def _on_connection(self, _up: bool) -> None:
        self._is_down = True  # the request is lost with the connection
        self._changed.set()


class ForcedDelivery(NamedTuple):
    """The state of a consumer before its last event was delivered again, only to assign the pin.

    Attributes:
        acknowledged: all events up to here were acknowledged.
        reset_to: the acknowledged position after the reset.
        note: revision of the note about resets: it changes when an operator resets the consumer.
    """

    acknowledged: int
    reset_to: int
    note: int


async def force_delivery(
    api: ConsumerApi, state: ConsumerState, note: str, *, claim_idle: bool
) -> ForcedDelivery | None:
    """Makes the server give away the pin of a consumer that no client has and that has no event to deliver.

    A process that died may have received all events and handled none: then the server has no event to
    assign the pin with, unless the events are delivered again. If another client gets the pin at the same
    time, it sees a gap in the numbers of its deliveries, and starts again.

    Args:
        api: of the consumer's stream.
        state: the consumer, as just seen.
        note: key of the note about its resets.
        claim_idle: give it away even if all events are handled.

    Returns:
        The state before, if the last event is delivered again only to assign the pin.

    Raises:
        LogError: a request failed.
    """
    if state.pin or state.num_pending:
        return None
    if state.num_ack_pending:
        await api.reset(state.name, after=None)
    elif claim_idle and state.delivered.stream_seq:
        # The last event, already handled, is delivered once more. (Only the service and operators may record
        # the consumer's true position, so the reset must not move it further back.)
        last = await api.last_event(state)
        if 0 < last <= state.ack_floor.stream_seq:  # the pin is assigned with a later event anyway
            revision = await api.note_revision(note)
            await api.reset(state.name, after=last - 1)
            return ForcedDelivery(state.ack_floor.stream_seq, last - 1, revision)
    return None


async def yield_pin(api: ConsumerApi, name: str, pin: str) -> None:
    """Gives a pin that was just received to the next request that waits.

    The event that arrived with it is put back first, because it may be the only one. The order of the other
    requests is unchanged, and each of them gets the pin before this client gets it again.

    Raises:
        LogError: a request failed.
    """
    state = await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
    if state is not None and state.pin == pin:
        await api.reset(name, after=None)
        await api.unpin(name)


async def purge_stale_pulls(api: ConsumerApi, name: str) -> None:
    """Makes the server discard requests whose inbox is closed, which it does when asked about the consumer.

    Otherwise it may give the pin to such a request, and then to no other client for PIN_SECONDS.

    Raises:
        LogError: the request failed.
    """
    if api.connection.is_up:
        await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
