"""Real HTTP servers on free ports: a webhook receiver, and one for scripted responses."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import msgspec

WAIT_SECONDS = 60.0  # two cores, shared with other tests


class Message(NamedTuple):
    """A received POST, with header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


Answering = Callable[[Message], bytes | None]
"""The complete response to a POST; None: no response, and the connection stays open."""


def answer(status: int, *headers: str, body: str = "") -> bytes:
    """Return the bytes of a response."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Receiver:
    """Records the received POSTs and sends the configured response.

    Attributes:
        got: every POST so far, in order.
        connections: opened so far.
        answering: the response; 204 by default.
    """

    def __init__(self) -> None:
        self.port = 0
        self.got: list[Message] = []
        self.connections = 0
        self.answering: Answering = lambda _: answer(204)
        self._changed = asyncio.Condition()

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """The URL of the receiver."""
        return f"http://{host}:{self.port}{path}"

    def say(self, response: bytes | None) -> None:
        """Set the response to every POST."""
        self.answering = lambda _: response

    async def wait_for(self, count: int) -> list[Message]:
        """Wait for a number of POSTs and return them."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.got) >= count)
        return self.got[:count]

    async def wait_until(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        """Wait until the POSTs satisfy a condition and return them."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: enough(self.got))
        return self.got

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                got = await _read(reader)
                async with self._changed:
                    self.got.append(got)
                    self._changed.notify_all()
                response = self.answering(got)
                if response is not None:
                    writer.write(response)
                    await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Message(head[0].split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver until the block ends."""
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(receiver.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class QuietHandler(BaseHTTPRequestHandler):
    """A handler without log output."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def served(handler: type[QuietHandler]) -> Iterator[str]:
    """Run a server with this handler; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
