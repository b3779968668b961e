"""`Channel`: messages over a pair of sockets between the owner and one worker.

A frame is its length, the number of the call it belongs to (0: none), its kind, and a message. Calls have a
timeout and their number is bounded; what is only posted can be left out while the other side does not read
(`is_congested`).
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Self, cast

import msgspec

from jobledger.service.errors import NotReady, ServiceError, TooManyRequests
from jobledger.service.limits import CHANNEL_BUFFER_BYTES, CHANNEL_CALLS_MAX, CHANNEL_FRAME_MAX_BYTES
from jobledger.service.workers.messages import Failed, Message, decode, encode

_HEADER: Final = struct.Struct(">IIB")
_POST: Final = 0
_CALL: Final = 1
_REPLY: Final = 2

_log = logging.getLogger("jobledger.workers")

Handler = Callable[[Message], Awaitable[Message] | None]
"""Handles each message, in order; for a call it returns what computes the reply."""


class ChannelClosed(NotReady):
    """The other process has ended, or its answer cannot be read."""


class AnswerFailed(ServiceError):
    """The other process failed while it computed the answer, which is a defect."""


class Channel(asyncio.Protocol):
    """One end; opened by `open`.

    Attributes:
        closed: set when the other process has closed its end.
        on_writable: called when the other side has read enough again.
    """

    def __init__(self, handle: Handler) -> None:
        self.closed = asyncio.Event()
        self.is_congested = False
        self.on_writable: Callable[[], None] = lambda: None
        self._handle = handle
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._last_call = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, sock: socket.socket, handle: Handler) -> Self:
        """Use this end of a socket pair."""
        _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: cls(handle), sock=sock)
        return channel

    def post(self, message: Message) -> None:
        """Send a message that has no reply; nothing happens if the other process has ended."""
        self._send(0, _POST, encode(message))

    def post_encoded(self, data: bytes) -> None:
        """Send a message that is encoded already, for several workers."""
        self._send(0, _POST, data)

    async def call(self, message: Message, timeout_seconds: float, *, is_request: bool = False) -> Message:
        """Send a message, and return the reply.

        `is_request`: of a client. The service's own calls are few, and do not wait for those of clients.

        Raises:
            ChannelClosed: the other process ended, or does not answer in time.
            AnswerFailed: it failed.
            TooManyRequests: too many calls wait for their reply.
        """
        if self.closed.is_set():
            raise ChannelClosed("the other process of this service has ended")
        if is_request and len(self._calls) >= CHANNEL_CALLS_MAX:
            raise TooManyRequests(
                f"{len(self._calls)} requests wait for the owner process of this service; try again later"
            )
        data = encode(message)
        if len(data) > CHANNEL_FRAME_MAX_BYTES:
            raise ChannelClosed(f"the request has {len(data)} bytes, too many to pass on")
        self._last_call = self._last_call % 0xFFFF_FFFF + 1
        number = self._last_call
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._calls[number] = reply
        try:
            self._send(number, _CALL, data)
            async with asyncio.timeout(timeout_seconds):
                message = await reply
        except TimeoutError:
            raise ChannelClosed(
                f"the other process of this service did not answer within {timeout_seconds:g} s"
            ) from None
        finally:
            self._calls.pop(number, None)
        if isinstance(message, Failed):
            raise AnswerFailed(message.text)
        return message

    async def close(self) -> None:
        """Close this end, and cancel the messages in progress. Idempotent."""
        if self._transport is not None:
            self._transport.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- asyncio.Protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport.set_write_buffer_limits(high=CHANNEL_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, number, kind = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + length
            if length > CHANNEL_FRAME_MAX_BYTES:
                self._fail(f"a frame of {length} bytes")
                return
            if len(buffer) < end:
                break
            try:
                message = decode(bytes(memoryview(buffer)[start + _HEADER.size : end]))
            except msgspec.DecodeError as error:
                self._fail(str(error))
                return
            start = end
            self._receive(number, kind, message)
        if start:
            del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the other process has ended
        """See asyncio."""
        self.closed.set()
        for reply in self._calls.values():
            if not reply.done():
                reply.set_exception(ChannelClosed("the other process of this service has ended"))

    def pause_writing(self) -> None:
        """See asyncio."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self.is_congested = False
        self.on_writable()

    # --- messages -------------------------------------------------------------------------------------------

    def _send(self, number: int, kind: int, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.writelines((_HEADER.pack(len(data), number, kind), data))

    def _receive(self, number: int, kind: int, message: Message) -> None:
        if kind == _REPLY:
            reply = self._calls.get(number)
            if reply is not None and not reply.done():
                reply.set_result(message)
            return
        found = self._handle(message)
        if kind == _CALL and found is not None:
            task = asyncio.create_task(self._answer(number, found))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, answer: Awaitable[Message]) -> None:
        try:
            data = encode(await answer)
        except Exception as error:  # noqa: BLE001 - the caller gets it at once, not after its timeout
            _log.exception("can't answer another process of this service")
            data = encode(Failed(f"another process of this service failed: {str(error)!a}"))
        if len(data) > CHANNEL_FRAME_MAX_BYTES:
            text = f"the answer of another process has {len(data)} bytes, more than {CHANNEL_FRAME_MAX_BYTES}"
            _log.error("%s", text)
            data = encode(Failed(text))
        self._send(number, _REPLY, data)

    def _fail(self, what: str) -> None:
        _log.error("the other process of this service sent %s; closing the connection to it", what)
        with suppress(AttributeError):
            self._transport.abort()  # type: ignore[union-attr]
