"""The private names of nats-py that are overridden or used still exist; no socket is left open."""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlparse

import pytest
import uvloop
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from jobledger.store.jetstream.connection import Connection, QuietTransport


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_process_headers", ["self", "headers"]),
        ("_process_msg", ["self", "sid", "subject", "reply", "data", "headers"]),
        ("_build_message", ["self", "sid", "subject", "reply", "data", "headers"]),
        ("_process_err", ["self", "err_msg"]),
        ("_process_op_err", ["self", "e"]),
        ("_connect_to_server", ["self", "s"]),
        ("_process_connect_init", ["self"]),
        ("_connect_command", ["self"]),
        ("_send_command", ["self", "cmd", "priority"]),
        ("_flush_pending", ["self", "force_flush"]),
    ],
)
def test_overridden_method_of_the_client_exists(name: str, parameters: list[str]) -> None:
    """With these parameters; a release of nats-py that changes one needs a change of `connection.py`."""
    assert list(inspect.signature(getattr(Client, name)).parameters) == parameters


def test_used_attributes_of_the_client_exist() -> None:
    """They are created by its constructor or when it connects."""
    source = inspect.getsource(Client)
    for name in ("_resp_map", "_flush_queue", "_error_cb", "_transport", "_server_info", "_pending"):
        assert f"self.{name}" in source


async def test_a_cancelled_attempt_to_connect_closes_its_socket() -> None:
    """The server accepts the connection and stays silent."""
    accepted, ended = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        assert await reader.read() == b""
        ended.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        opening = asyncio.create_task(Connection.open(f"nats://127.0.0.1:{port}"))
        async with asyncio.timeout(10):
            await accepted.wait()
            while (
                not opening.done()
            ):  # Python 3.11 drops a cancellation that arrives together with the connection
                opening.cancel()
                await asyncio.wait({opening}, timeout=0.05)
            assert opening.cancelled()
            await ended.wait()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_write_to_a_lost_connection_is_ignored_and_then_reported(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The library expects an error of the socket; any other ends its reconnection for good."""
    ended = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        ended.set()

    async def write() -> None:
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            connected: Any = TcpTransport()  # type: ignore[no-untyped-call]
            port = server.sockets[0].getsockname()[1]
            await connected.connect(urlparse(f"nats://127.0.0.1:{port}"), 1024, 5)
            transport: Any = QuietTransport(connected)
            transport._io_writer.transport.abort()
            await transport.wait_closed()
            transport.write(b"PING\r\n")
            transport.writelines([b"PING\r\n"])
            with pytest.raises(ConnectionResetError):
                await transport.drain()
            await ended.wait()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(write())
