"""The body of a write: of a JSON type, and read with a bound in bytes and in time before anybody sees it."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from jobledger.service.api.asgi import Message, Receive
from jobledger.service.errors import PayloadTooLarge, TooManyRequests, UnsupportedMediaType
from jobledger.service.limits import (
    BODY_MAX_BYTES,
    BODY_TIMEOUT_SECONDS,
    DISCARD_MAX_BYTES,
    DISCARD_TIMEOUT_SECONDS,
)
from jobledger.store.model.errors import InvalidInput

_JSON: Final = re.compile(
    rb"application/(?:json|[a-z0-9.-]{1,100}\+json)\s*(?:;\s*charset\s*=\s*\"?utf-?8\"?\s*)?;?\s*",
    re.IGNORECASE,
)


class Disconnected(Exception):  # an event, not a mistake
    """The client went away before its request was whole."""


class BodyBudget:
    """The bodies that are in memory now.

    Args:
        max_bytes: of all together.
        max_bytes_per_client: of those of one client.
    """

    def __init__(self, max_bytes: int, max_bytes_per_client: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_client = max_bytes_per_client
        self._held_bytes = 0
        self._clients: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """How much of all requests under way is in memory."""
        return self._held_bytes

    def hold(self, size_bytes: int, client: str) -> None:
        """Count a part that arrived.

        Raises:
            TooManyRequests: if the client's, or all together, are too much; the part is not counted then.
        """
        if client and self._clients[client] + size_bytes > self._max_bytes_per_client:
            raise TooManyRequests("too many large requests of this client are under way; try again")
        if self._held_bytes + size_bytes > self._max_bytes:
            raise TooManyRequests("too many large requests are under way; try again")
        self._held_bytes += size_bytes
        self._clients[client] += size_bytes

    def release(self, size_bytes: int, client: str) -> None:
        """The end of what was held."""
        self._held_bytes -= size_bytes
        self._clients[client] -= size_bytes
        if not self._clients[client]:
            del self._clients[client]


def check_framing(headers: Mapping[bytes, bytes]) -> None:
    """Check what the headers of a write announce, before any of its body is read.

    Raises:
        PayloadTooLarge: if it is announced as too large.
        UnsupportedMediaType: if it is announced, and not plain JSON.
        InvalidInput: if its transfer is none that we know.
    """
    transfer = headers.get(b"transfer-encoding")
    if transfer is not None and transfer.strip().lower() != b"chunked":
        raise InvalidInput(
            "the header Transfer-Encoding says something else than chunked; send the body plainly"
        )
    length = headers.get(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise InvalidInput("the header Content-Length is no number")
    if len(length) > 18 or int(length) > BODY_MAX_BYTES:
        raise PayloadTooLarge(f"the body is larger than {BODY_MAX_BYTES} bytes, and no more are taken")
    if length.strip(b"0"):
        check_media(headers)


def check_media(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a body that is not plain JSON.

    A page of another site can make a browser send a form or plain text without asking; never JSON.

    Raises:
        UnsupportedMediaType: with what to send.
    """
    media = headers.get(b"content-type", b"")
    if _JSON.fullmatch(media.strip()) is None:
        shown = media.decode("ascii", "backslashreplace")[:80]
        raise UnsupportedMediaType(f"the body's Content-Type is {shown!r}, not application/json in UTF-8")
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in {b"", b"identity"}:
        shown = encoding.decode("ascii", "backslashreplace")[:80]
        raise UnsupportedMediaType(f"the body's Content-Encoding is {shown!r}; send it as it is")


class RequestBody:
    """The body of one write.

    Args:
        receive: what the server gives.
        bodies: of all requests.

    Attributes:
        client: whose share of the room it takes.
    """

    __slots__ = ("_bodies", "_held_bytes", "_message", "_more", "_receive", "client")

    def __init__(self, receive: Receive, bodies: BodyBudget) -> None:
        self._receive = receive
        self._bodies = bodies
        self._held_bytes = 0
        self._message: Message | None = None
        self._more = True
        self.client = ""

    async def read(self, headers: Mapping[bytes, bytes]) -> bytes:
        """Read all of it; it can also be had from `receive`.

        Raises:
            PayloadTooLarge: if it goes over the limit, whatever was announced.
            UnsupportedMediaType: if there is one, and it is not JSON.
            TooManyRequests: if too much is under way.
            InvalidInput: if it does not arrive in time.
            Disconnected: if the client goes away meanwhile.
        """
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                await self._collect(headers, parts)
        except TimeoutError:
            raise InvalidInput(
                f"the body did not arrive within {BODY_TIMEOUT_SECONDS:g} s; nothing was written"
            ) from None
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        self._message = {"type": "http.request", "body": content, "more_body": False}
        return content

    async def _collect(self, headers: Mapping[bytes, bytes], parts: list[bytes]) -> None:
        size = 0
        while self._more:
            part = await self._part()
            if not part:
                continue
            if not parts:
                check_media(headers)
            size += len(part)
            if size > BODY_MAX_BYTES:
                raise PayloadTooLarge(
                    f"the body is larger than {BODY_MAX_BYTES} bytes, and no more are taken"
                )
            self._bodies.hold(len(part), self.client)
            self._held_bytes += len(part)
            parts.append(part)

    async def receive(self) -> Message:
        """For the app: the body that was read; then whatever comes, such as the client's going."""
        message, self._message = self._message, None
        return message if message is not None else await self._receive()

    async def discard(self) -> None:
        """Take what is still to come, within a bound, and forget it; for the app it is empty then.

        Clients send all before they read the answer; with the connection closed under them, they would never
        read why they are refused.
        """
        self._message = {"type": "http.request", "body": b"", "more_body": False}
        left_bytes = DISCARD_MAX_BYTES
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_SECONDS):
                while self._more and left_bytes > 0:
                    left_bytes -= len(await self._part())
        except (TimeoutError, Disconnected):
            return

    def release(self) -> None:
        """Give back what is held."""
        self._bodies.release(self._held_bytes, self.client)
        self._held_bytes = 0

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self._more = False
            raise Disconnected
        self._more = message.get("more_body", False)
        return bytes(message.get("body", b""))
