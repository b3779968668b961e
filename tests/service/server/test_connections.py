"""Connections: a client that opens many idle ones does not block others."""

import asyncio
import resource
import socket
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import pytest

from jobledger.service import limits
from jobledger.service.server import http_server as connections, http_server as httpserver
from tests.support.api import PREFIX, job_body
from tests.support.sse import feed, served_api

MOST = 64


async def test_idle_connections_are_closed_when_few_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit idle ones are closed; a feed and a request in flight stay."""
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", MOST)
    monkeypatch.setattr(httpserver, "HEADERS_TIMEOUT_SECONDS", 600.0)  # nothing else ends them
    async with served_api(tmp_path) as (_, client), AsyncExitStack() as stack:
        reader = await stack.enter_async_context(feed(client))
        held = stack.enter_context(ExitStack())
        silent = [
            held.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=10))
            for _ in range(MOST * 2)
        ]
        for _ in range(3):
            answer = await client.get("/livez", headers={"connection": "close"})
            assert answer.status_code == 200
        put = await client.put(f"{PREFIX}/jobs", json=job_body())
        assert put.status_code == 200, put.text
        [message] = await reader.take(1)
        assert message.sequence == 1
        assert any(is_ended(each) for each in silent)


@pytest.mark.parametrize(
    "chunks", [b"ZZ\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"1\r\n{\r\nfffffffffffffffff\r\n"]
)
async def test_malformed_chunks_get_a_problem_document(tmp_path: Path, chunks: bytes) -> None:
    """400 with the reason, not a bare 500."""
    async with served_api(tmp_path) as (_, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(
            f"PUT {PREFIX}/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
            + chunks
        )
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.setblocking(False)
    with suppress(BlockingIOError):
        return connection.recv(1) == b""
    return False


async def test_the_limit_of_open_files_bounds_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepting more connections than files would fail for all clients."""
    kept = limits.CONNECTIONS_KEPT_FILES
    for soft, wanted in ((1_024, 1_024 - kept), (10**9, limits.CONNECTIONS_MAX), (64, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections.connections_max() == wanted
