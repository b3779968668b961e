"""A reader delivers every record once and in order whatever happens to the server, or raises the reason."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.embedded import server as embedded
from jobledger.store.jetstream import log_reader as log_reader_module
from jobledger.store.jetstream.log_reader import JetStreamLogReader
from jobledger.store.log import Appended, WrongSequence
from jobledger.store.model.errors import LogDamaged, LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.model.limits import (
    LOG_READER_GAP_TRIES,
    LOG_READER_IDLE_HEARTBEATS,
    LOG_READER_MAX_RESTARTS,
)
from tests.support.logs import append_all, ask, decided, draft, eventually, fill, take_until
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("both_paths", "quick_proof")


async def test_killed_server_leaves_no_gap_and_no_repeat(
    server: EmbeddedServer, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader gets every event once, in order, while the server is killed several times."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    feed = await jetstream_log.follow(after=0)
    reading = asyncio.create_task(take_until(feed, 300))
    for part in range(3):
        last: list[Appended | WrongSequence | BaseException] = []
        while not any(
            isinstance(answer, Appended) for answer in last
        ):  # the append succeeds when the server is back
            drafts = [draft(f"job-{part}-{number}") for number in range(100)]
            last = await append_all(jetstream_log, drafts)
        os.kill(server.pid, signal.SIGKILL)
    assert await reading == list(range(1, 301))
    assert feed.connected
    await feed.close()


async def test_deleted_consumer_is_created_again(jetstream_log: JetStreamLog) -> None:
    """Deleting a reader's consumer loses and repeats nothing."""
    feed = await jetstream_log.follow(after=0)
    assert isinstance(feed, JetStreamLogReader)
    await fill(jetstream_log, 10)
    assert await take_until(feed, 10) == list(range(1, 11))
    waiting = asyncio.create_task(take_until(feed, 20))
    old = feed._consumer
    assert (await ask(jetstream_log, f"CONSUMER.DELETE.JOBS.{old}"))["success"]
    await fill(jetstream_log, 10, "more")
    assert await waiting == list(range(11, 21))
    assert feed._consumer != old
    await feed.close()


async def test_closed_reader_leaves_no_consumer(jetstream_log: JetStreamLog) -> None:
    """Closing a reader deletes its consumer and its inbox."""
    feeds = [await jetstream_log.follow(after=0) for _ in range(3)]
    assert (await ask(jetstream_log, "CONSUMER.NAMES.JOBS"))["total"] == 3
    for feed in feeds:
        await feed.close()

    async def freed() -> bool:
        return bool((await ask(jetstream_log, "CONSUMER.NAMES.JOBS"))["total"] == 0)

    await eventually(freed)
    assert not jetstream_log._connection._subscriptions.keys() - {jetstream_log._publisher._inbox[:-1]}


async def test_stream_created_again_is_refused(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """A reader of a stream that is deleted and created again gets LogReplaced, never the new events."""
    await fill(jetstream_log, 5)
    feed = await jetstream_log.follow(after=0)
    assert await take_until(feed, 5) == [1, 2, 3, 4, 5]
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    other = await JetStreamLog.connect(server.url, accept_loss=lambda _: None)
    await fill(other, 9)
    for _ in range(2):  # and again
        with pytest.raises(LogReplaced, match="created again"):
            async with asyncio.timeout(20):
                await feed.take(10)
    await feed.close()
    await other.close()


async def test_deleted_stream_is_unavailable(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the stream a reader raises LogUnavailable, and may be called again."""
    monkeypatch.setattr(log_reader_module, "_SILENCE_SECONDS", 0.2)
    feed = await jetstream_log.follow(after=0)
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    with pytest.raises(LogUnavailable, match="is missing; restore it"):
        async with asyncio.timeout(20):
            await feed.take(1)
    await feed.close()


async def test_truncated_stream_is_refused(tmp_path: Path) -> None:
    """After a restore of an older copy, a reader beyond its end gets LogTruncated, now and later."""
    server = await EmbeddedServer(tmp_path / "nats").start()
    log = await JetStreamLog.connect(server.url)
    await fill(log, 5)
    await server.stop()
    shutil.copytree(tmp_path / "nats" / "jetstream", tmp_path / "older")
    await server.start()
    await fill(log, 5, "more")
    feed = await log.follow(after=0)
    assert await take_until(feed, 10) == list(range(1, 11))
    epoch = (await log.info()).epoch
    await server.stop()
    shutil.rmtree(tmp_path / "nats" / "jetstream")
    shutil.copytree(tmp_path / "older", tmp_path / "nats" / "jetstream")
    await server.start()
    with pytest.raises(LogTruncated, match="ends at 5, and 10 was read"):
        await decided(lambda: feed.take(1))
    with pytest.raises(LogTruncated):
        await decided(lambda: log.follow(after=10, epoch=epoch))
    await (await log.follow(after=5, epoch=epoch)).close()
    await feed.close()
    await log.close()
    await server.stop()


async def test_records_listed_as_deleted_are_skipped(loose: JetStreamLog) -> None:
    """A hole that the stream itself reports is skipped; everything around it is delivered."""
    await fill(loose, 20)
    for sequence in (5, 6, 12):
        assert (await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": sequence}))["success"]
    feed = await loose.follow(after=0)
    assert await take_until(feed, 20) == [n for n in range(1, 21) if n not in {5, 6, 12}]
    await feed.close()


async def test_records_that_only_the_consumer_lacks_are_read_from_the_leader(loose: JetStreamLog) -> None:
    """They are read one by one, and none counts as lost."""
    await fill(loose, 10)
    feed = await loose.follow(after=0)
    assert isinstance(feed, JetStreamLogReader)
    assert await take_until(feed, 10) == list(range(1, 11))
    feed._sequence, feed._gap_is_final = 5, True
    feed.restart("a test")
    assert await take_until(feed, 10) == [6, 7, 8, 9, 10]
    await feed.close()


async def test_lost_end_is_reported_once_and_reading_continues(loose: JetStreamLog) -> None:
    """LogDamaged names the first and last event; later events are read."""
    await fill(loose, 10)
    for sequence in (9, 10):
        await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": sequence})
    feed = await loose.follow(after=0)
    assert isinstance(feed, JetStreamLogReader)
    assert await take_until(feed, 8) == list(range(1, 9))
    feed._idle, feed._ahead_tries = LOG_READER_IDLE_HEARTBEATS, LOG_READER_GAP_TRIES
    feed._changed.set()
    with pytest.raises(LogDamaged, match=r"events 9 to 10 .* cannot be read") as raised:
        await feed.take(10)
    assert (raised.value.sequence, raised.value.last) == (9, 10)
    await fill(loose, 1, "later")
    assert await take_until(feed, 11) == [11]
    await feed.close()


async def test_long_hole_is_reported_in_parts(loose: JetStreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """One `take` reads at most LOG_READER_HOLE_MAX_EVENTS; the events after the hole are delivered."""
    monkeypatch.setattr(log_reader_module, "LOG_READER_HOLE_MAX_EVENTS", 4)
    monkeypatch.setattr(log_reader_module, "HOLE_PROBES", 3)
    await fill(loose, 20)
    for sequence in range(9, 18):
        await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": sequence})
    feed = await loose.follow(after=8)
    assert isinstance(feed, JetStreamLogReader)
    feed._buffer.clear()
    feed._sequence, feed._gap_is_final = 8, True
    feed.restart("a test")
    named: list[tuple[int, int]] = []
    for _ in range(2):
        with pytest.raises(LogDamaged, match="it is not known yet what follows") as found:
            await feed.take(10)
        named.append((found.value.sequence, found.value.last))
    assert named == [(9, 12), (13, 16)]
    assert await take_until(feed, 20) == [18, 19, 20]
    await feed.close()


async def test_removed_beginning_is_refused(loose: JetStreamLog) -> None:
    """A stream that begins after the next sequence to read is LogTruncated, for new and old readers."""
    await fill(loose, 10)
    feed = await loose.follow(after=0)
    assert isinstance(feed, JetStreamLogReader)
    await ask(loose, "STREAM.PURGE.JOBS", {"seq": 6})
    with pytest.raises(LogTruncated, match="starts at 6, and the next event to read is 4"):
        await decided(lambda: loose.follow(after=3))
    feed._buffer.clear()
    feed._sequence = 2
    feed._on_connection(True)
    with pytest.raises(LogTruncated, match="starts at 6"):
        await decided(lambda: feed.take(10))
    await feed.close()


class Dropping(JetStreamLogReader):
    """A reader to which some messages do not arrive, once each."""

    dropped = frozenset({3, 4, 9})

    def _receive(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        fields = reply.split(".")
        if len(fields) == 9 and int(fields[5]) in self.dropped:
            self.dropped = self.dropped - {int(fields[5])}
            return
        super()._receive(subject, reply, payload, header)


async def test_message_that_did_not_arrive_is_read_again(jetstream_log: JetStreamLog) -> None:
    """A new consumer delivers the records of a gap that the stream does not have."""
    await fill(jetstream_log, 12)
    feed = Dropping(jetstream_log._connection, "JOBS", after=0, epoch=None)
    await feed.start()
    assert await take_until(feed, 12) == list(range(1, 13))
    await feed.close()


async def test_lost_pull_is_detected_by_missing_heartbeats(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were lost on a working connection are sent again after missing heartbeats."""
    monkeypatch.setattr(log_reader_module, "_SILENCE_SECONDS", 0.2)
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        await fill(log, 3)
        feed = await log.follow(after=3)
        assert isinstance(feed, JetStreamLogReader)
        proxy.swallow = True
        feed._under_way = 0  # as if both requests had ended
        waiting = asyncio.create_task(take_until(feed, 6))
        await eventually(lambda: feed._under_way > 0)
        await log._connection._client._flush_pending(force_flush=True)
        proxy.swallow = False
        await fill(log, 3, "more")
        assert await waiting == [4, 5, 6]
        await feed.close()
        await log.close()


async def test_lost_connection_is_reported_until_it_is_back(server: EmbeddedServer) -> None:
    """`connected` is False while the connection is lost; then reading continues where it was."""
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        await fill(log, 3)
        feed = await log.follow(after=0)
        assert await take_until(feed, 3) == [1, 2, 3]
        waiting = asyncio.create_task(take_until(feed, 6))
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not feed.connected)
        await proxy.listen()
        await eventually(lambda: feed.connected)
        await fill(log, 3, "more")
        assert await waiting == [4, 5, 6]
        await feed.close()
        await log.close()


async def test_permanent_failure_is_raised(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After LOG_READER_MAX_RESTARTS consumers without an event `take` raises; calling it again is safe."""
    opened: list[int] = []

    class Troubled(JetStreamLogReader):
        async def _open_consumer(self) -> None:
            opened.append(1)
            await super()._open_consumer()
            self._failure = "a test's trouble"

    feed = Troubled(jetstream_log._connection, "JOBS", after=0, epoch=None)
    await feed.start()
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="a test's trouble"):
            await feed.take(1)
    assert len(opened) == 1 + 2 * LOG_READER_MAX_RESTARTS
    monkeypatch.setattr(Troubled, "_open_consumer", JetStreamLogReader._open_consumer)
    await fill(jetstream_log, 2)
    assert await take_until(feed, 2) == [1, 2]
    await feed.close()
