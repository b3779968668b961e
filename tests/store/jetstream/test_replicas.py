"""Reading the log from the store of one server, past what that server cannot read."""

import asyncio
from typing import Any

import pytest

from jobledger.store.jetstream import JetStreamLog, replicas
from jobledger.store.model.errors import LogUnavailable
from tests.support.ledgers import put_junk


async def test_a_server_without_the_last_event_returns_the_others(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The range ends at an event that the server does not have."""
    monkeypatch.setattr(replicas, "REPLICA_READ_SECONDS", 0.2)
    for number in (1, 2):
        await put_junk(jetstream_log, f"j-{number}", number)
    async with asyncio.timeout(20):
        assert sorted(await jetstream_log.read_replica("", 1, 3)) == [1, 2]
        assert await jetstream_log.read_replica("", 3, 3) == {}


async def test_a_request_that_was_not_sent_is_not_a_missing_event(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`audit scrub` would report events as missing that the server has."""
    connection = jetstream_log._connection
    publish = connection.publish

    async def without_pulls(subject: str, payload: bytes, reply: str = "", **options: Any) -> None:
        if reply.endswith("pull"):
            raise LogUnavailable("not connected")
        await publish(subject, payload, reply, **options)

    await put_junk(jetstream_log, "j-1")
    monkeypatch.setattr(connection, "publish", without_pulls)
    with pytest.raises(LogUnavailable, match="not connected"):
        await jetstream_log.read_replica("", 1, 1)
