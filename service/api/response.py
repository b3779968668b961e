"""Responses: a body with its headers, or a stream."""

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from jobledger.service.api.asgi import Receive, Scope, Send

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

encode = msgspec.json.Encoder().encode
"""Encodes a Struct of `service.wire`, or plain values, as JSON."""


class Response:
    """A complete response.

    Args:
        body: empty for a response without a body.
        headers: names in lower case, without the type and length of the body.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        status: int = 200,
        media_type: str = JSON,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = [*headers]
        if body:
            self.headers += [
                (b"content-type", media_type.encode()),
                (b"content-length", b"%d" % len(body)),
            ]


class Stream(Protocol):
    """A response that is written piece by piece."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it. Errors raised before the first message are answered as problems."""


def etag(revision: int) -> str:
    """The strong entity tag of a job at a revision."""
    return f'"{revision}"'
