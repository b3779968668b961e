"""Messages reach the socket without a turn of the event loop, and never overtake earlier ones."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlparse

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream.connection import Connection, Outgoing
from jobledger.store.log import Appended
from tests.support.logs import draft

TIMEOUT_SECONDS = 10.0


@contextmanager
def listening(url: str, subject: str) -> Iterator[socket.socket]:
    """Subscribe on a blocking socket, which receives while the event loop does not run."""
    server = urlparse(url)
    options = {"verbose": False, "headers": True, "user": server.username, "pass": server.password}
    with socket.create_connection((server.hostname, server.port or 0), TIMEOUT_SECONDS) as connection:
        connection.recv(65_536)  # INFO
        connection.sendall(f"CONNECT {json.dumps(options)}\r\nSUB {subject} 1\r\nPING\r\n".encode())
        receive_until(connection, b"PONG")
        yield connection


def receive_until(connection: socket.socket, expected: bytes) -> None:
    """Receive until these bytes arrive; raises TimeoutError if they do not."""
    received = b""
    while expected not in received:
        received += connection.recv(65_536)


async def test_lone_append_is_sent_before_its_caller_waits(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """From the second one on: the first shows that there is one caller."""
    assert await jetstream_log.append(draft("first"), expect=0) == Appended(1)
    with listening(server.url, "jobs.>") as connection:
        second = draft("second")
        appending = asyncio.create_task(jetstream_log.append(second, expect=0))
        await asyncio.sleep(0)  # one step of that task
        receive_until(connection, second.subject.encode())
    assert await appending == Appended(2)


async def test_appends_of_many_callers_after_a_lone_one_are_all_acknowledged(
    jetstream_log: JetStreamLog,
) -> None:
    """Each once."""
    assert await jetstream_log.append(draft("lone"), expect=0) == Appended(1)
    outcomes = await asyncio.gather(
        *(jetstream_log.append(draft(f"job-{number}"), expect=0) for number in range(100))
    )
    assert sorted(each.sequence for each in outcomes if isinstance(each, Appended)) == list(range(2, 102))


async def test_messages_arrive_in_the_order_of_sending(server: EmbeddedServer) -> None:
    """Also after one that the client library still holds, and after more than the socket accepts at once."""
    large = bytes(900_000)
    sent = [b"held", b"after", *[large] * 8, b"after large"]
    arrived: list[bytes] = []
    complete = asyncio.Event()

    def receive(subject: str, reply: str, payload: bytes, header: bytes) -> None:
        del subject, reply, header
        arrived.append(payload)
        if len(arrived) == len(sent):
            complete.set()

    connection = await Connection.open(server.url)
    try:
        subject = f"{await connection.subscribe(receive)}any"
        await connection.publish(subject, sent[0])
        for payload in sent[1:]:
            await connection.publish_all([Outgoing(subject, "", "Key: value\r\n", payload)])
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await complete.wait()
        assert arrived == sent
    finally:
        await connection.close()


async def test_a_cancelled_lone_append_ends(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the client library drops a cancellation while it flushes."""
    sending = asyncio.Event()

    async def flush(_: object) -> None:
        with suppress(asyncio.CancelledError):
            sending.set()
            await asyncio.Event().wait()

    assert await jetstream_log.append(draft("first"), expect=0) == Appended(1)
    with monkeypatch.context() as patch:
        patch.setattr(jetstream_log._connection._client, "publish_all", flush)
        appending = asyncio.create_task(jetstream_log.append(draft("second"), expect=0))
        await sending.wait()
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
