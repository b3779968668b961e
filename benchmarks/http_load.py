"""An HTTP load generator: keep-alive connections that send the next request after each response.

It implements only the HTTP that it needs, and costs about 15 µs per request, so that it is not what is
measured.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final, cast

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "
_OK: Final = b" 200 "


def request(method: str, path: str, body: bytes = b"", *, port: int, token: str = "") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Accept: application/json"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def load(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Send each request once, over connections with one request in flight each.

    Returns:
        Requests per second from the first request to the last response, and the seconds of each.

    Raises:
        RuntimeError: a response is not a 200, or a connection is lost.
    """
    loop = asyncio.get_running_loop()
    waiting, seconds = iter(requests), list[float]()
    callers = []
    for _ in range(connections):
        _, caller = await loop.create_connection(lambda: _Caller(waiting, seconds), "127.0.0.1", port)
        callers.append(caller)
    started = time.perf_counter()
    try:
        for caller in callers:
            caller.send_next()
        await asyncio.gather(*(caller.done for caller in callers))
    finally:
        for caller in callers:
            caller.close()
    return len(requests) / (time.perf_counter() - started), seconds


async def fetch(port: int, path: str) -> bytes:
    """Return the body of one response."""
    loop = asyncio.get_running_loop()
    one = iter([request("GET", path, port=port)])
    _, caller = await loop.create_connection(lambda: _Caller(one, []), "127.0.0.1", port)
    try:
        caller.send_next()
        await caller.done
    finally:
        caller.close()
    return caller.body


class _Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, waiting: Iterator[bytes], seconds: list[float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.body = b""
        self._waiting = waiting
        self._seconds = seconds
        self._transport: asyncio.Transport
        self._received = b""
        self._whole = 0  # bytes of the response being received; 0: not known yet
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the class

    def send_next(self) -> None:
        """Send the next request, if there is one."""
        following = next(self._waiting, None)
        if following is None:
            self._end(None)
            return
        self._received, self._whole = b"", 0
        self._sent_at = time.perf_counter()
        self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole:
            head = self._received.find(_HEAD_END)
            if head < 0:
                return
            if self._received.find(_OK, 0, 16) < 0:
                self._end(RuntimeError(f"not a 200: {self._received[:600]!r}"))
                return
            at = self._received.find(_LENGTH, 0, head) + len(_LENGTH)
            self._whole = head + len(_HEAD_END) + int(self._received[at : self._received.find(b"\r", at)])
        if len(self._received) >= self._whole:
            self._seconds.append(time.perf_counter() - self._sent_at)
            self.body = self._received[self._received.find(_HEAD_END) + len(_HEAD_END) :]
            self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RuntimeError(f"the connection was lost: {exc}"))

    def close(self) -> None:
        """Abort the connection."""
        self._end(None)
        self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
