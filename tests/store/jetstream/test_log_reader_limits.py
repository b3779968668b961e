"""A reader keeps few records in memory, even for a slow caller, and delivers records of any content."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from jobledger import JetStreamLog
from jobledger.store.jetstream import log_reader as log_reader_module
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.log_reader import JetStreamLogReader
from jobledger.store.jetstream.publisher import HEADERS_MAX_BYTES
from jobledger.store.log import NO_JOB, Appended
from jobledger.store.model.events import Record
from jobledger.store.model.limits import LOG_READER_PULL_BYTES
from jobledger.store.model.subjects import job_subject
from tests.support.logs import append_all, ask, draft, eventually, fill, plain_server, publish_raw, take_until


async def test_slow_caller_keeps_two_pulls_in_memory(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that takes nothing or little keeps the records of two requests in memory."""
    monkeypatch.setattr(log_reader_module, "LOG_READER_PULL_EVENTS", 50)
    await fill(jetstream_log, 400)
    feed = await jetstream_log.follow(after=0)
    assert isinstance(feed, JetStreamLogReader)
    await eventually(lambda: len(feed._buffer) == 100)
    consumer = f"CONSUMER.INFO.JOBS.{feed._consumer}"
    assert (await ask(jetstream_log, consumer))["delivered"]["stream_seq"] == 100
    sequences: list[int] = []
    while len(sequences) < 400:
        sequences += [record.sequence for record in await feed.take(7)]
        assert len(feed._buffer) + feed._under_way <= 100
    assert sequences == list(range(1, 401))
    await feed.close()


async def test_slow_caller_keeps_few_large_records(jetstream_log: JetStreamLog) -> None:
    """Large records are limited by bytes: those of two pulls, and of one that is being taken."""
    await append_all(jetstream_log, [draft(f"job-{number}", b"x" * 900_000) for number in range(50)])
    feed = await jetstream_log.follow(after=0)
    assert isinstance(feed, JetStreamLogReader)
    for sequence in range(1, 51):
        (record,) = await feed.take(1)
        assert record.sequence == sequence
        for _ in range(10):  # round trips: requested records have time to arrive
            await jetstream_log.info()
        held = sum(len(record.payload) for record in feed._buffer)
        assert held == feed._buffered_bytes <= 3 * LOG_READER_PULL_BYTES
    await feed.close()


@pytest.mark.parametrize("max_payload", [1_048_576, 8_388_608])
async def test_largest_record_is_delivered(tmp_path: Path, max_payload: int) -> None:
    """The largest event that the server accepts is delivered even if it exceeds the bytes of a pull."""
    config = {"max_payload": max_payload, "jetstream": {"store_dir": str(tmp_path / "store")}}
    async with plain_server(tmp_path / "plain", **config) as url:
        log = await JetStreamLog.connect(url)
        await fill(log, 1)
        event = draft("huge", os.urandom(max_payload - HEADERS_MAX_BYTES))
        assert await log.append(event, expect=NO_JOB) == Appended(2)
        await fill(log, 2, "more")
        feed = await log.follow(after=0)
        assert await take_until(feed, 4) == [1, 2, 3, 4]
        assert (await log.read(event.subject))[0].payload == event.payload
        await feed.close()
        await log.close()


async def test_header_named_status_is_content(jetstream_log: JetStreamLog) -> None:
    """A stored message with the headers of a control message is delivered as a record."""
    subject = job_subject("default", "job")
    await publish_raw(jetstream_log, subject, b"", Status="409", Nats_Pending_Messages="1000000")
    feed = await jetstream_log.follow(after=0)
    (record,) = await feed.take(10)
    assert (record.sequence, record.subject, record.payload) == (1, subject, b"")
    await fill(jetstream_log, 3)
    assert await take_until(feed, 4) == [2, 3, 4]
    await feed.close()


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.JOBS.consumer.1.7.1.1700000000123456789.0",
        "$JS.ACK.hub.ACCOUNTHASH.JOBS.consumer.1.7.1.1700000000123456789.0",
        "$JS.ACK._.ACCOUNTHASH.JOBS.consumer.1.7.1.1700000000123456789.0.token",
    ],
)
async def test_sequence_and_time_are_read_with_and_without_a_domain(reply: str) -> None:
    """Both forms of the acknowledgment subject are understood."""
    connection = cast("Connection", SimpleNamespace(max_payload=1_048_576))
    feed = JetStreamLogReader(connection, "JOBS", after=6, epoch=None)
    feed._inbox = "_INBOX.x."
    feed._under_way = 1
    feed._receive("jobs.default.00.job", reply, b"content", b"")
    assert list(feed._buffer) == [Record(7, 1_700_000_000_123_456_789, "jobs.default.00.job", b"content")]


def receiving_reader(max_payload: int = 1_048_576) -> JetStreamLogReader:
    """Return a reader without a server."""
    connection = cast("Connection", SimpleNamespace(max_payload=max_payload))
    feed = JetStreamLogReader(connection, "JOBS", after=0, epoch=None)
    feed._inbox = "_INBOX.x."
    return feed


def deliver(feed: JetStreamLogReader, sequence: int, payload: bytes) -> None:
    reply = f"$JS.ACK.JOBS.consumer.1.{sequence}.{sequence}.1700000000123456789.0"
    feed._receive("jobs.default.00.job", reply, payload, b"")


async def test_more_messages_than_were_requested_end_the_session() -> None:
    """What is buffered is bounded by the requests, even if the server does not count."""
    feed = receiving_reader()
    feed._under_way = 3
    for sequence in range(1, 4):
        deliver(feed, sequence, b"x")
    assert (len(feed._buffer), feed._failure) == (3, "")
    deliver(feed, 4, b"x")
    assert len(feed._buffer) == 3
    assert feed._failure == "nats-server sent more than was requested"
    assert feed._changed.is_set()


async def test_more_bytes_than_were_requested_end_the_session() -> None:
    """The first message beyond what two requests may bring on top of a full buffer."""
    feed = receiving_reader()
    feed._under_way = 1_000
    payload = bytes(LOG_READER_PULL_BYTES)
    for sequence in range(1, 5):
        deliver(feed, sequence, payload)
    assert (len(feed._buffer), feed._failure) == (4, "")
    deliver(feed, 5, b"x")
    assert (len(feed._buffer), feed._failure) == (4, "nats-server sent more than was requested")
