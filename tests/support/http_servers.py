"""A receiver of webhooks, for tests: a real HTTP server on a free port, that answers what a test wants."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import msgspec

WAIT_SECONDS = 60.0  # two cores, and other tests beside this one


class Message(NamedTuple):
    """One POST.

    Attributes:
        path: with the query.
        headers: by their names in lower case.
        body: as it came.
    """

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


Answering = Callable[[Message], bytes | None]
"""The whole answer to a POST; None: none, and the connection stays open."""


def answer(status: int, *headers: str, body: str = "") -> bytes:
    """An answer's bytes."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Receiver:
    """What came, and what is answered.

    Attributes:
        port: where it listens, on 127.0.0.1.
        got: every POST so far, in order.
        connections: that were opened so far.
        answering: what is answered; 204 unless a test says otherwise.
    """

    def __init__(self) -> None:
        self.port = 0
        self.got: list[Message] = []
        self.connections = 0
        self.answering: Answering = lambda _: answer(204)
        self._changed = asyncio.Condition()

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Its address."""
        return f"http://{host}:{self.port}{path}"

    def say(self, told: bytes | None) -> None:
        """Answer this to whatever comes."""
        self.answering = lambda _: told

    async def wait_for(self, count: int) -> list[Message]:
        """The first POSTs, once there are so many."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.got) >= count)
        return self.got[:count]

    async def wait_until(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        """All POSTs, once they are enough."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: enough(self.got))
        return self.got

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                got = await _read(reader)
                async with self._changed:
                    self.got.append(got)
                    self._changed.notify_all()
                told = self.answering(got)
                if told is not None:
                    writer.write(told)
                    await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Message(head[0].split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver, until the block ends."""
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
    """Answers, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def served(handler: type[QuietHandler]) -> Iterator[str]:
    """Where it listens; it is gone afterwards."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
