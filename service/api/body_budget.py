"""The body of a write: JSON, read within limits of bytes and time before a handler sees it."""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from jobledger.service.api.asgi import Message, Receive
from jobledger.service.api.capacity import ByteBudget
from jobledger.service.errors import PayloadTooLarge, UnsupportedMediaType
from jobledger.service.limits import (
    BODY_MAX_BYTES,
    BODY_TIMEOUT_SECONDS,
    DISCARD_MAX_BYTES,
    DISCARD_TIMEOUT_SECONDS,
)
from jobledger.store.model.errors import InvalidInput

_FORM: Final = re.compile(
    rb"application/x-www-form-urlencoded\s*(?:;\s*charset\s*=\s*\"?utf-?8\"?\s*)?;?\s*", re.IGNORECASE
)
_JSON: Final = re.compile(
    rb"application/(?:json|[a-z0-9.-]{1,100}\+json)\s*(?:;\s*charset\s*=\s*\"?utf-?8\"?\s*)?;?\s*",
    re.IGNORECASE,
)


class Disconnected(Exception):  # an event, not an error
    """The client disconnected before its request was complete."""


def check_framing(
    headers: Mapping[bytes, bytes], *, is_form: bool = False, max_bytes: int = BODY_MAX_BYTES
) -> None:
    """Check the headers of a write before any of its body is read; `is_form` as in `check_media`.

    Raises:
        PayloadTooLarge: if the announced body is too large.
        UnsupportedMediaType: if the announced body is not plain JSON.
        InvalidInput: if its length or transfer encoding is invalid.
    """
    transfer = headers.get(b"transfer-encoding")
    if transfer is not None and transfer.strip().lower() != b"chunked":
        raise InvalidInput(f"the header Transfer-Encoding must be chunked or absent, got {_shown(transfer)}")
    length = headers.get(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise InvalidInput(f"the header Content-Length must be a number, got {_shown(length)}")
    if len(length) > 18 or int(length) > max_bytes:
        raise _too_large(max_bytes)
    if length.strip(b"0"):
        check_media(headers, is_form=is_form)


def check_media(headers: Mapping[bytes, bytes], *, is_form: bool = False) -> None:
    """Refuse a body that is not plain JSON, or not a form.

    A page of another site can make a browser send a form or plain text, but not JSON; so only pages of the UI
    accept forms, after a check of the sender.
    """
    media = headers.get(b"content-type", b"")
    name, form = (b"application/x-www-form-urlencoded", _FORM) if is_form else (b"application/json", _JSON)
    if media != name and form.fullmatch(media.strip()) is None:
        raise UnsupportedMediaType(
            f"the body's Content-Type must be {name.decode()} in UTF-8, got {_shown(media)}"
        )
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in {b"", b"identity"}:
        raise UnsupportedMediaType(
            f"the body's Content-Encoding must be identity or absent, got {_shown(encoding)}"
        )


def _announced(headers: Mapping[bytes, bytes]) -> int:
    """The length of a body that is not chunked, from headers that were checked; -1 if it is not known."""
    length = headers.get(b"content-length")
    return -1 if length is None or b"transfer-encoding" in headers else int(length)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body exceeds {max_bytes} bytes, the maximum")


def _shown(value: bytes) -> str:
    return repr(value.decode("ascii", "backslashreplace")[:80])


class RequestBody:
    """The body of one write.

    Attributes:
        client: whose part of the budget it uses.
        is_form: what it must be.
        max_bytes: of it.
    """

    __slots__ = ("_budget", "_held_bytes", "_message", "_more", "_receive", "client", "is_form", "max_bytes")

    def __init__(self, receive: Receive, budget: ByteBudget, *, max_bytes: int = BODY_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._receive = receive
        self._budget = budget
        self._held_bytes = 0
        self._message: Message | None = None
        self._more = True
        self.client = ""
        self.is_form = False

    async def read(self, headers: Mapping[bytes, bytes]) -> bytes:
        """Read all of it.

        Raises:
            PayloadTooLarge: if it exceeds the limit, even if it was announced as smaller.
            UnsupportedMediaType: if it is not empty and not JSON.
            TooManyRequests: if the bodies of all requests exceed their budget.
            InvalidInput: if it does not arrive in time.
            Disconnected: if the client disconnects.
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
        size, announced = 0, _announced(headers)
        while self._more:
            part = await self._part()
            if not part:
                continue
            if not parts:
                check_media(headers, is_form=self.is_form)
            size += len(part)
            if size > self.max_bytes:
                raise _too_large(self.max_bytes)
            self._budget.hold(len(part), self.client)
            self._held_bytes += len(part)
            parts.append(part)
            if size == announced:
                self._more = False  # the server would only report the end, after another turn of its thread

    async def receive(self) -> Message:
        """Return the body that was read, then the messages after it, such as a disconnect."""
        message, self._message = self._message, None
        return message if message is not None else await self._receive()

    async def discard(self) -> None:
        """Read the rest, up to a limit, and drop it; `receive` then returns an empty body.

        Clients send the whole body before they read the response; if the connection were closed before that,
        they would not see why they are refused.
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
        """Return its bytes to the budget."""
        self._budget.release(self._held_bytes, self.client)
        self._held_bytes = 0

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self._more = False
            raise Disconnected
        self._more = message.get("more_body", False)
        return bytes(message.get("body", b""))
