"""The private names of nats-py that are overridden or used still exist; no socket is left open."""

import asyncio
import inspect

import pytest
from nats.aio.client import Client

from jobledger.store.jetstream.connection import Connection


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_process_headers", ["self", "headers"]),
        ("_process_msg", ["self", "sid", "subject", "reply", "data", "headers"]),
        ("_build_message", ["self", "sid", "subject", "reply", "data", "headers"]),
        ("_process_err", ["self", "err_msg"]),
        ("_process_op_err", ["self", "e"]),
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
    for name in ("_resp_map", "_flush_queue", "_error_cb", "_transport", "_server_info"):
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
