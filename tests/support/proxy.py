"""A TCP proxy that withholds, drops or cuts traffic on demand."""

import asyncio
from contextlib import suppress
from typing import Self

_CHUNK_BYTES = 65_536


class Proxy:
    """`async with Proxy(url) as proxy` forwards in both directions, until configured otherwise."""

    def __init__(self, url: str) -> None:
        self._scheme, _, address = url.rpartition("@")
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._listener: asyncio.Server | None = None
        self._own_port = 0  # chosen by the system, and kept
        self._writers: set[asyncio.StreamWriter] = set()
        self._all: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._withhold = False
        self._to_client: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._news = asyncio.Event()
        self.swallow = False  # client → server: read and dropped
        self.delay_seconds = 0.0  # server → client
        self.cut_after_bytes: int | None = (
            None  # client → server: this many more bytes, then all connections are cut
        )
        self.connections = 0

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in self._all), return_exceptions=True)

    @property
    def url(self) -> str:
        """The URL for the client."""
        return f"{self._scheme}@127.0.0.1:{self._own_port}"

    def refuse(self) -> None:
        """Refuse new connections."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def listen(self) -> None:
        """Accept new connections (again)."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._own_port)
            self._own_port = self._listener.sockets[0].getsockname()[1]

    def withhold(self) -> None:
        """Withhold data from the server; data from the client is still forwarded."""
        self._withhold = True

    def release(self) -> None:
        """Deliver the withheld data and continue."""
        self._withhold = False
        for writer, data in self._to_client:
            writer.write(data)
        self._to_client.clear()

    async def withheld(self, text: bytes, times: int = 1) -> None:
        """Wait until this many chunks from the server have been withheld."""
        async with asyncio.timeout(10):
            while b"".join(data for _, data in self._to_client).count(text) < times:
                self._news.clear()
                await self._news.wait()

    def cut(self) -> None:
        """Cut every connection and drop the withheld data. New connections are accepted."""
        self._withhold = False
        self._to_client.clear()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._all.append(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._all.append(up_writer)
        self._writers |= {writer, up_writer}
        for pump in (self._up(reader, up_writer), self._down(up_reader, writer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self.swallow:
                    continue
                if self.cut_after_bytes is not None:
                    data = data[: self.cut_after_bytes]
                    self.cut_after_bytes -= len(data)
                writer.write(data)
                await writer.drain()
                if self.cut_after_bytes == 0:
                    self.cut_after_bytes = None
                    writer.close()  # in order: the server receives the bytes before the end
                    await writer.wait_closed()
                    self.cut()
        self._end(writer)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self._withhold:
                    self._to_client.append((writer, data))
                    self._news.set()
                    continue
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(data)
                await writer.drain()
        self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()
