"""Both adapters mean the same by `KeyStore`; and what JetStream's alone has: restarts, a stream to check."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream import entries
from jobledger.store.keys import NO_ENTRY, Entry, KeyStore, MemoryKeys
from jobledger.store.model.errors import LogUnavailable, LogUnfit
from jobledger.store.model.limits import KEYS_MIN_AGE_SECONDS
from tests.support.logs import ask, draft
from tests.support.proxy import Proxy


@pytest.fixture(params=["memory", "jetstream"])
async def keys(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyStore]:
    """Each adapter in turn."""
    if request.param == "memory":
        yield MemoryKeys()
        return
    async with EmbeddedServer(tmp_path / "nats") as running:
        log = await JetStreamLog.connect(running.url)
        yield await log.keys()
        await log.close()


async def test_first_record_of_a_key_is_written(keys: KeyStore) -> None:
    """Where nothing stands, the record is written, and stands there."""
    entry = await keys.put("a", b"one", expect=NO_ENTRY)
    assert entry is not None
    assert entry.value == b"one"
    assert await keys.put("b", b"other", expect=NO_ENTRY) != entry


async def test_what_stands_there_is_returned_and_kept(keys: KeyStore) -> None:
    """Who comes second learns what the first one wrote, as often as he asks."""
    first = await keys.put("a", b"one", expect=NO_ENTRY)
    assert await keys.put("a", b"two", expect=NO_ENTRY) == first
    assert await keys.put("a", b"three", expect=NO_ENTRY) == first


async def test_a_record_is_replaced_by_who_expects_it(keys: KeyStore) -> None:
    """The next record names the one that it replaces; a revision that is gone replaces nothing."""
    first = await keys.put("a", b"one", expect=NO_ENTRY)
    assert first is not None
    await keys.put("b", b"of another key", expect=NO_ENTRY)
    second = await keys.put("a", b"two", expect=first.revision)
    assert second is not None
    assert second.value == b"two"
    assert await keys.put("a", b"three", expect=first.revision) == second


async def test_a_record_that_is_gone_can_not_be_replaced(keys: KeyStore) -> None:
    """Where nothing stands any more, nothing is written under an old revision."""
    assert await keys.put("a", b"one", expect=7) is None
    assert await keys.put("a", b"one", expect=NO_ENTRY) is not None


async def test_one_of_many_at_once_wins(keys: KeyStore) -> None:
    """Of those who write a key's first record at once one does, and all are told which."""
    entries = await asyncio.gather(*(keys.put("a", b"%d" % n, expect=NO_ENTRY) for n in range(20)))
    assert len({entry.value for entry in entries if entry is not None}) == 1
    assert entries.count(entries[0]) == 20


async def test_any_text_is_a_key(keys: KeyStore) -> None:
    """A key is hashed before it becomes a subject: it can break nothing."""
    for key in ("a b", "*", ">", "a.b", "\r\nPUB x 0", "é", "x" * 10_000):
        entry = await keys.put(key, key.encode(), expect=NO_ENTRY)
        assert entry is not None
        assert entry.value == key.encode()


async def test_records_survive_a_killed_server(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """What was written stands there after `kill -9` of the server, for every process."""
    keys = await jetstream_log.keys()
    first = await keys.put("a", b"one", expect=NO_ENTRY)
    os.kill(server.pid, signal.SIGKILL)
    assert await keys.put("a", b"two", expect=NO_ENTRY) == first  # it waits for the server
    other = await JetStreamLog.connect(server.url)
    assert await (await other.keys()).put("a", b"three", expect=NO_ENTRY) == first
    await other.close()


@pytest.mark.parametrize("expect", [NO_ENTRY, 1])
async def test_a_lost_answer_is_settled(server: EmbeddedServer, expect: int) -> None:
    """A connection cut before the answer came: the record that was stored is found to be ours."""
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        keys = await log.keys()
        if expect:
            await keys.put("a", b"zero", expect=NO_ENTRY)
        proxy.withhold()
        writing = asyncio.create_task(keys.put("a", b"one", expect=expect))
        await proxy.withheld(b'"seq":')
        proxy.cut()
        assert await writing == Entry(b"one", expect + 1)
        await log.close()


async def test_keys_that_can_not_be_reached_say_so(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers, the wait has a bound, and the error says what to do."""
    monkeypatch.setattr(entries, "ACK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(entries, "KEYS_TIMEOUT_SECONDS", 0.3)
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        keys = await log.keys()
        proxy.swallow = True
        with pytest.raises(LogUnavailable, match="try again"):
            await keys.put("a", b"one", expect=NO_ENTRY)
        await log.close()


async def test_keys_are_no_events(jetstream_log: JetStreamLog) -> None:
    """They stand in a stream of their own: no sequence of the log is spent on them."""
    keys = await jetstream_log.keys()
    await keys.put("a", b"one", expect=NO_ENTRY)
    await jetstream_log.append(draft(), expect=0)
    assert (await jetstream_log.info()).last_sequence == 1


async def test_a_record_is_kept_for_more_than_a_day(jetstream_log: JetStreamLog) -> None:
    """The stream's own age limit is over what is promised, and each key holds its newest record only."""
    await jetstream_log.keys()
    config = (await ask(jetstream_log, "STREAM.INFO.JOBS_KEYS"))["config"]
    assert config["max_age"] / 1e9 >= KEYS_MIN_AGE_SECONDS + 3_600
    assert (config["storage"], config["discard"], config["max_msgs_per_subject"]) == ("file", "new", 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("storage", "memory"), ("discard", "old"), ("max_msgs", 10), ("max_age", 3_600 * 10**9)],
)
async def test_a_stream_that_forgets_is_refused(
    jetstream_log: JetStreamLog, field: str, value: object
) -> None:
    """A stream of keys that can't keep them for a day is named, with the field."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS_KEYS")
    config = {"name": "JOBS_KEYS", "subjects": ["jobledger.keys.*"], "discard": "new", field: value}
    assert "error" not in await ask(jetstream_log, "STREAM.CREATE.JOBS_KEYS", config)
    with pytest.raises(LogUnfit, match=field):
        await jetstream_log.keys()


async def test_the_stream_is_made_once(server: EmbeddedServer) -> None:
    """Many replicas that start at once share one stream."""
    logs = await asyncio.gather(*(JetStreamLog.connect(server.url) for _ in range(4)))
    stores = await asyncio.gather(*(log.keys() for log in logs))
    entries = [await keys.put("a", b"%d" % n, expect=NO_ENTRY) for n, keys in enumerate(stores)]
    assert entries == entries[:1] * 4
    for log in logs:
        await log.close()
