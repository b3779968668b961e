"""Outgoing responses: common headers are added, and large bodies are sent in parts.

A client may request a lot and read nothing. A body that is handed to the server as a whole stays in memory,
uncounted, until it is read; so a large body is counted until its last part is sent, and a connection whose
client does not read is closed.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Final

from jobledger.service.api.asgi import Message, Send
from jobledger.service.api.body_budget import Disconnected
from jobledger.service.api.capacity import ByteBudget
from jobledger.service.api.response import Response
from jobledger.service.limits import (
    RESPONSE_PART_BYTES,
    SEND_TIMEOUT_SECONDS,
)

_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def with_common(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers of a response, with the common ones that it does not have; without its request id."""
    found = [*headers]
    present = {name for name, _ in found}
    found += [each for each in _HEADERS if each[0] not in present]
    return found


class GuardedResponse:
    """One response; `client` is whose part of the budget it uses.

    Args:
        budget: of all large responses.
        head: whether to omit the body, because the request was HEAD.
    """

    __slots__ = ("_budget", "_head", "_held_bytes", "_request_id", "_send", "client", "started", "status")

    def __init__(self, send: Send, request_id: str, budget: ByteBudget, *, head: bool) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self._budget = budget
        self._head = head
        self._held_bytes = 0
        self.client = ""
        self.status = 0
        self.started = False

    async def send_whole(self, response: Response) -> None:
        """Send a complete response.

        Raises:
            TooManyRequests: if it exceeds the budget; nothing was sent yet.
            Disconnected: if the client does not read; the server closes the connection.
        """
        body = b"" if self._head else response.body
        await self._send(self._start(response.status, response.headers, len(body)))
        if self._held_bytes:
            await self._send_in_parts(body)
        else:
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of a stream, which holds no more than it has to send."""
        if message["type"] == "http.response.start":
            message = self._start(message["status"], message["headers"], 0)
        return self._send(message)

    def release(self) -> None:
        """Return its bytes to the budget."""
        self._budget.release(self._held_bytes, self.client)
        self._held_bytes = 0

    def _start(self, status: int, given: Iterable[tuple[bytes, bytes]], size: int) -> Message:
        """The first message; `size` is that of the body that will be sent as a whole."""
        if size > RESPONSE_PART_BYTES:
            self._budget.hold(size, self.client)
            self._held_bytes = size
        self.started, self.status = True, status
        headers = with_common(given)
        headers.append((b"x-request-id", self._request_id))
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _send_in_parts(self, body: bytes) -> None:
        for start in range(0, len(body), RESPONSE_PART_BYTES):
            part, more = body[start : start + RESPONSE_PART_BYTES], start + RESPONSE_PART_BYTES < len(body)
            try:
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await self._send({"type": "http.response.body", "body": part, "more_body": more})
            except TimeoutError:
                raise Disconnected from None
