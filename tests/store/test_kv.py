"""The contract of `KeyValue`, which every adapter keeps, and what only buckets on JetStream have."""

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, InvalidInput, JetStreamLog, LogUnfit
from jobledger.store.jetstream import kv
from jobledger.store.kv import NO_ENTRY, Entry, KeyValue, MemoryKeyValue
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.limits import KEYS_MIN_AGE_SECONDS, RECORD_MAX_BYTES, RECORD_REMOVED_SECONDS
from tests.support.logs import ask, draft
from tests.support.proxy import Proxy

EVERY = ["memory", "KEYS", "SUBSCRIPTIONS"]
KEPT = ["memory", "SUBSCRIPTIONS"]  # whose entries do not expire


@pytest.fixture
async def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyValue]:
    """Each adapter."""
    if request.param == "memory":
        yield MemoryKeyValue()
        return
    async with EmbeddedServer(tmp_path / "nats") as running:
        log = await JetStreamLog.connect(running.url)
        yield await log.key_value(request.param)
        await log.close()


# --- every bucket -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", EVERY, indirect=True)
async def test_first_put_of_a_key_writes_it(bucket: KeyValue) -> None:
    """A key without an entry gets one, and no other key does."""
    entry = await bucket.put("k.a", b"one", expect=NO_ENTRY)
    assert entry is not None
    assert await bucket.get("k.a") == entry == Entry(b"one", entry.revision)
    assert await bucket.get("k.b") is None
    assert await bucket.put("k.b", b"other", expect=NO_ENTRY) != entry


@pytest.mark.parametrize("bucket", EVERY, indirect=True)
async def test_wrong_expectation_writes_nothing(bucket: KeyValue) -> None:
    """The second writer gets the first one's entry; a repeated call gets the same answer."""
    first = await bucket.put("k.a", b"one", expect=NO_ENTRY)
    assert first is not None
    for value in (b"two", b"three"):
        assert await bucket.put("k.a", value, expect=NO_ENTRY) == first
    await bucket.put("k.b", b"of another key", expect=NO_ENTRY)
    second = await bucket.put("k.a", b"two", expect=first.revision)
    assert second is not None
    assert second.value == b"two"
    for value in (b"two", b"three"):
        assert await bucket.put("k.a", value, expect=first.revision) == second
    assert await bucket.get("k.a") == second


@pytest.mark.parametrize("bucket", EVERY, indirect=True)
async def test_missing_entry_cannot_be_replaced(bucket: KeyValue) -> None:
    """An old revision of a key without an entry writes nothing."""
    assert await bucket.put("k.a", b"one", expect=7) is None
    assert await bucket.put("k.a", b"one", expect=NO_ENTRY) is not None


@pytest.mark.parametrize("bucket", EVERY, indirect=True)
async def test_one_of_many_concurrent_writers_wins(bucket: KeyValue) -> None:
    """Of 20 concurrent first writes one succeeds, and all callers get its entry."""
    entries = await asyncio.gather(*(bucket.put("k.a", b"%d" % n, expect=NO_ENTRY) for n in range(20)))
    assert len({entry.value for entry in entries if entry is not None}) == 1
    assert entries.count(entries[0]) == 20


@pytest.mark.parametrize("bucket", ["memory", "KEYS"], indirect=True)
async def test_key_of_an_answer_may_be_any_text(bucket: KeyValue) -> None:
    """A key of the bucket KEYS is hashed before it becomes part of a subject."""
    for key in ("a b", "*", ">", "a.b", "\r\nPUB x 0", "é", "x" * 10_000):
        entry = await bucket.put(key, key.encode(), expect=NO_ENTRY)
        assert entry is not None
        assert entry.value == key.encode()


# --- deletion and changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", KEPT, indirect=True)
async def test_deleted_entry_is_gone_for_readers_and_writers(bucket: KeyValue) -> None:
    """After a deletion the key is like one that never had an entry; the deletion may be repeated."""
    first = await bucket.put("parked.a.j", b"one", expect=NO_ENTRY)
    assert first is not None
    for _ in range(2):
        assert await bucket.delete("parked.a.j", expect=first.revision)
    assert await bucket.get("parked.a.j") is None
    assert await bucket.put("parked.a.j", b"two", expect=first.revision) is None
    again = await bucket.put("parked.a.j", b"two", expect=NO_ENTRY)
    assert again is not None
    assert await bucket.get("parked.a.j") == again
    assert await bucket.delete("parked.a.never", expect=NO_ENTRY)


@pytest.mark.parametrize("bucket", KEPT, indirect=True)
async def test_wrong_expectation_deletes_nothing(bucket: KeyValue) -> None:
    """The entry of another revision stays."""
    first = await bucket.put("parked.a.j", b"one", expect=NO_ENTRY)
    assert first is not None
    second = await bucket.put("parked.a.j", b"two", expect=first.revision)
    assert not await bucket.delete("parked.a.j", expect=first.revision)
    assert await bucket.get("parked.a.j") == second


@pytest.mark.parametrize("bucket", KEPT, indirect=True)
async def test_changes_report_each_key_once(bucket: KeyValue) -> None:
    """After a revision: entries and deletions below one prefix, each key once; from 0: what exists."""
    assert await bucket.changes("parked.a") == ((), 0)
    entries = {
        key: await bucket.put(f"parked.{key}", key.encode(), expect=NO_ENTRY) for key in ("a.1", "a.2", "b.1")
    }
    changes, place = await bucket.changes("parked.a")
    assert {change.key: change.entry for change in changes} == {
        "parked.a.1": entries["a.1"],
        "parked.a.2": entries["a.2"],
    }
    assert await bucket.changes("parked.a", after=place) == ((), place)
    assert entries["a.1"] is not None
    assert await bucket.delete("parked.a.1", expect=entries["a.1"].revision)
    changes, later = await bucket.changes("parked.a", after=place)
    assert [(change.key, change.is_deleted) for change in changes] == [("parked.a.1", True)]
    assert later > place
    changes, _ = await bucket.changes("parked.a")
    assert [change.key for change in changes] == ["parked.a.2"]


@pytest.mark.parametrize("bucket", KEPT, indirect=True)
async def test_changes_are_not_limited_to_a_page(bucket: KeyValue) -> None:
    """620 entries, more than a page, are all reported."""
    for number in range(620):
        await bucket.put(f"parked.many.{number}", b"x", expect=NO_ENTRY)
    changes, _ = await bucket.changes("parked.many")
    assert len(changes) == 620


# --- JetStream alone ----------------------------------------------------------------------------------------


async def test_value_has_a_size_limit(jetstream_log: JetStreamLog) -> None:
    """A value of the most bytes is accepted; a larger one and an empty one are refused."""
    bucket = await jetstream_log.key_value("WEBHOOKS")
    assert await bucket.put("webhooks.big", b"x" * RECORD_MAX_BYTES, expect=NO_ENTRY) is not None
    for value in (b"x" * (RECORD_MAX_BYTES + 1), b""):
        with pytest.raises(InvalidInput, match=f"1 to {RECORD_MAX_BYTES} bytes, got {len(value)}"):
            await bucket.put("webhooks.bigger", value, expect=NO_ENTRY)


async def test_deletion_expires_after_a_day(jetstream_log: JetStreamLog) -> None:
    """The message that records a deletion expires, so the stream does not grow without bound."""
    bucket = await jetstream_log.key_value("SUBSCRIPTIONS")
    entry = await bucket.put("parked.a.j", b"one", expect=NO_ENTRY)
    assert entry is not None
    await bucket.delete("parked.a.j", expect=entry.revision)
    found = await ask(
        jetstream_log, "STREAM.MSG.GET.JOBS_SUBSCRIPTIONS", {"last_by_subj": "JOBS_SUBSCRIPTIONS.parked.a.j"}
    )

    assert f"Nats-TTL: {RECORD_REMOVED_SECONDS}s" in base64.b64decode(found["message"]["hdrs"]).decode()


async def test_entries_survive_a_restart(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """An entry is unchanged after the server was stopped and started."""
    bucket = await jetstream_log.key_value("SUBSCRIPTIONS")
    entry = await bucket.put("definition.a", b"one", expect=NO_ENTRY)
    await server.stop()
    await server.start()
    await jetstream_log._connection.wait_up(30)
    assert await bucket.get("definition.a") == entry


async def test_entries_survive_a_killed_server(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """An entry is there for every process after `kill -9` of the server."""
    bucket = await jetstream_log.key_value("KEYS")
    first = await bucket.put("a", b"one", expect=NO_ENTRY)
    os.kill(server.pid, signal.SIGKILL)
    assert await bucket.put("a", b"two", expect=NO_ENTRY) == first  # waits for the restarted server
    other = await JetStreamLog.connect(server.url)
    assert await (await other.key_value("KEYS")).put("a", b"three", expect=NO_ENTRY) == first
    await other.close()


@pytest.mark.parametrize("expect", [NO_ENTRY, 1])
async def test_lost_answer_is_reconciled(server: EmbeddedServer, expect: int) -> None:
    """If the connection is cut before the answer, the stored entry is recognized as the caller's own."""
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        bucket = await log.key_value("KEYS")
        if expect:
            await bucket.put("a", b"zero", expect=NO_ENTRY)
        proxy.withhold()
        writing = asyncio.create_task(bucket.put("a", b"one", expect=expect))
        await proxy.withheld(b'"seq":')
        proxy.cut()
        assert await writing == Entry(b"one", expect + 1)
        await log.close()


async def test_unreachable_bucket_is_reported_in_time(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer the wait ends, and the error says what to do."""
    monkeypatch.setattr(kv, "ACK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(kv, "KEYS_TIMEOUT_SECONDS", 0.3)
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        bucket = await log.key_value("KEYS")
        proxy.swallow = True
        with pytest.raises(LogUnavailable, match="try again"):
            await bucket.put("a", b"one", expect=NO_ENTRY)
        await log.close()


async def test_entries_use_no_sequence_of_the_log(jetstream_log: JetStreamLog) -> None:
    """A bucket is a stream of its own."""
    bucket = await jetstream_log.key_value("KEYS")
    await bucket.put("a", b"one", expect=NO_ENTRY)
    await jetstream_log.append(draft(), expect=0)
    assert (await jetstream_log.info()).last_sequence == 1


async def test_answers_are_kept_for_more_than_a_day(jetstream_log: JetStreamLog) -> None:
    """The stream's age limit exceeds what is promised, and each key has only its newest entry."""
    await jetstream_log.key_value("KEYS")
    config = (await ask(jetstream_log, "STREAM.INFO.JOBS_KEYS"))["config"]
    assert config["max_age"] / 1e9 >= KEYS_MIN_AGE_SECONDS + 3_600
    assert (config["storage"], config["discard"], config["max_msgs_per_subject"]) == ("file", "new", 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("storage", "memory"), ("discard", "old"), ("max_msgs", 10), ("max_age", 3_600 * 10**9)],
)
async def test_stream_that_forgets_answers_is_refused(
    jetstream_log: JetStreamLog, field: str, value: object
) -> None:
    """A stream that cannot keep answers for a day is refused, and the field named."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS_KEYS")
    config = {"name": "JOBS_KEYS", "subjects": ["jobledger.keys.*"], "discard": "new", field: value}
    assert "error" not in await ask(jetstream_log, "STREAM.CREATE.JOBS_KEYS", config)
    with pytest.raises(LogUnfit, match=field):
        await jetstream_log.key_value("KEYS")


async def test_stream_that_forgets_subscriptions_is_refused(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """A stream that would lose entries is refused, and the field named."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS_SUBSCRIPTIONS")
    await ask(
        jetstream_log,
        "STREAM.CREATE.JOBS_SUBSCRIPTIONS",
        {"name": "JOBS_SUBSCRIPTIONS", "subjects": ["JOBS_SUBSCRIPTIONS.>"], "max_age": 3_600_000_000_000},
    )
    with pytest.raises(LogUnfit, match="max_age is 3600000000000"):
        await jetstream_log.key_value("SUBSCRIPTIONS")
    with pytest.raises(LogUnfit, match="max_age is 3600000000000"):  # connecting to an empty log checks all
        await JetStreamLog.connect(server.url)


async def test_concurrent_replicas_create_one_stream(server: EmbeddedServer) -> None:
    """Four replicas that start at the same time share one stream."""
    logs = await asyncio.gather(*(JetStreamLog.connect(server.url) for _ in range(4)))
    buckets = await asyncio.gather(*(log.key_value("KEYS") for log in logs))
    entries = [await bucket.put("a", b"%d" % n, expect=NO_ENTRY) for n, bucket in enumerate(buckets)]
    assert entries == entries[:1] * 4
    for log in logs:
        await log.close()
