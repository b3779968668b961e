"""Answers on their way out: what all of them carry is added, and large ones leave piece by piece.

A client may ask for much and read nothing. What is handed to the server as a whole stays in memory until it
has been read, uncounted; so a large answer is counted until its last piece has left, and one whose reader is
stuck is cut off.
"""

import asyncio
from collections import Counter
from typing import Final

from jobledger.service.api.asgi import Message, Send
from jobledger.service.api.body_budget import Disconnected
from jobledger.service.errors import TooManyRequests
from jobledger.service.limits import (
    ANSWER_PART_BYTES,
    ANSWERS_MAX_BYTES,
    ANSWERS_MAX_BYTES_PER_CLIENT,
    SEND_TIMEOUT_SECONDS,
)

_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Room:
    """How much of large answers may wait for their readers, of all and of each client; one per process."""

    def __init__(
        self, max_bytes: int = ANSWERS_MAX_BYTES, max_bytes_per_client: int = ANSWERS_MAX_BYTES_PER_CLIENT
    ) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_client = max_bytes_per_client
        self._clients: Counter[str] = Counter()
        self.held_bytes = 0

    def hold(self, size: int, client: str = "") -> None:
        """Take room for an answer.

        Raises:
            TooManyRequests: if there is none, for this client or at all.
        """
        mine = self._clients[client]
        if client and mine and mine + size > self._max_bytes_per_client:
            raise TooManyRequests(
                f"{mine} bytes of answers to this client wait to be read, and at most"
                f" {self._max_bytes_per_client} may; read them, or ask for smaller pages"
            )
        if self.held_bytes + size > self._max_bytes:
            raise TooManyRequests(
                f"{self.held_bytes} bytes of answers wait for their readers, and at most {self._max_bytes}"
                " may; read them, or ask for smaller pages"
            )
        self.held_bytes += size
        self._clients[client] += size

    def release(self, size: int, client: str = "") -> None:
        """Give it back."""
        self.held_bytes -= size
        self._clients[client] -= size
        if not self._clients[client]:
            del self._clients[client]


class Outgoing:
    """One answer.

    Args:
        send: what the server gives.
        request_id: of the request.
        room: of all large answers.
        head: whether the body is left out, because the request was HEAD.

    Attributes:
        client: whose share of the room it takes.
    """

    __slots__ = ("_head", "_held_bytes", "_request_id", "_room", "_send", "client", "started", "status")

    def __init__(self, send: Send, request_id: str, room: Room, *, head: bool) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self._room = room
        self._head = head
        self._held_bytes = 0
        self.client = ""
        self.status = 0
        self.started = False

    async def send(self, message: Message) -> None:
        """Send a part.

        Raises:
            TooManyRequests: if there is no room for it; nothing was sent yet.
            Disconnected: if its reader is stuck; the connection is ended.
        """
        if message["type"] == "http.response.start":
            await self._send(self._start(message))
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._head:
            await self._send({**message, "body": b""})
        elif len(message["body"]) > ANSWER_PART_BYTES and self._held_bytes:
            await self._send_in_parts(message)
        else:
            await self._send(message)

    def release(self) -> None:
        """Give back the room that it took."""
        self._room.release(self._held_bytes, self.client)
        self._held_bytes = 0

    def _start(self, message: Message) -> Message:
        said = dict(message["headers"])
        size = int(said.get(b"content-length", b"0"))
        if size > ANSWER_PART_BYTES and not self._head:
            self._room.hold(size, self.client)
            self._held_bytes = size
        self.started, self.status = True, message["status"]
        headers = [*message["headers"], (b"x-request-id", self._request_id)]
        headers += [each for each in _HEADERS if each[0] not in said]
        return {"type": "http.response.start", "status": self.status, "headers": headers}

    async def _send_in_parts(self, message: Message) -> None:
        content = message["body"]
        for start in range(0, len(content), ANSWER_PART_BYTES):
            end = start + ANSWER_PART_BYTES
            more = end < len(content) or message["more_body"]
            try:
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await self._send(
                        {"type": "http.response.body", "body": content[start:end], "more_body": more}
                    )
            except TimeoutError:
                raise Disconnected from None
