"""Every Jobledger stream has the log's replicas and no compression, and is created only once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream import stream as stream_module
from jobledger.store.jetstream.declarations import (
    COMPANIONS,
    COMPRESSED_KEY,
    LOG,
    STREAMS,
    StreamDeclaration,
    StreamSettings,
)
from jobledger.store.model.errors import LogMissing, LogUnavailable
from tests.support.logs import ask, fill, unchecked

NAMES = [each.name("JOBS") for each in STREAMS]
KEEPERS = [each for each in COMPANIONS if each.keeps_records]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the search for a stream: nothing is created or elected during these tests."""
    monkeypatch.setattr(stream_module, "STREAM_MISSING_SECONDS", 0.05)


async def config_of(log: JetStreamLog, name: str) -> dict[str, Any]:
    """A stream's configuration, as the server has it."""
    return dict((await ask(log, f"STREAM.INFO.{name}"))["config"])


def unsafe(declaration: StreamDeclaration) -> dict[str, Any]:
    """The configuration that an earlier release created the stream with."""
    return declaration.config(StreamSettings(), replicas=1) | {"compression": "s2", "metadata": {}}


async def test_first_connection_creates_every_stream(jetstream_log: JetStreamLog) -> None:
    """So a stream that is missing later was lost."""
    names = (await ask(jetstream_log, "STREAM.NAMES"))["streams"]
    assert sorted(names) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
async def test_no_stream_is_compressed(jetstream_log: JetStreamLog, name: str) -> None:
    """nats-server destroys a compressed stream after `kill -9`."""
    assert (await config_of(jetstream_log, name))["compression"] == "none"


async def test_heartbeats_keep_one_message_per_service(jetstream_log: JetStreamLog) -> None:
    """The heartbeat stream has the log's durability and does not grow."""
    config = await config_of(jetstream_log, "JOBS_HEARTBEAT")
    assert config["subjects"] == ["jobledger.heartbeat.*"]
    assert (config["storage"], config["max_msgs_per_subject"]) == ("file", 1)


@pytest.mark.parametrize("declaration", STREAMS, ids=NAMES)
async def test_existing_compression_is_turned_off_and_noted(
    server: EmbeddedServer, declaration: StreamDeclaration
) -> None:
    """A stream of an earlier release: the update also notes how far its blocks may still be compressed."""
    name = declaration.name("JOBS")
    admin = await unchecked(server.url)
    for each in STREAMS:
        assert "error" not in await ask(admin, f"STREAM.CREATE.{each.name('JOBS')}", unsafe(each))
    log = await JetStreamLog.connect(server.url)
    if declaration is LOG:
        await fill(log, 3)
    reports = {each.name: each for each in await log.prepare_streams()}
    assert reports[name].compression == "none"
    assert not reports[name].problems
    config = await config_of(log, name)
    assert config["compression"] == "none"
    assert config["metadata"][COMPRESSED_KEY] == ("3" if declaration is LOG else "0")
    await log.close()
    await admin.close()


async def test_missing_log_with_other_streams_is_not_created(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """The log is created first, so other streams prove that it existed, for a library user too."""
    await fill(jetstream_log, 2)
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    with pytest.raises(
        LogMissing, match=r"JOBS existed and is missing: .*JOBS_KEYS.*--accept-loss"
    ) as caught:
        await JetStreamLog.connect(server.url)
    assert caught.value.stream == "JOBS"
    assert "JOBS" not in (await ask(jetstream_log, "STREAM.NAMES"))["streams"]


async def test_evidence_of_the_caller_counts(server: EmbeddedServer) -> None:
    """An empty server whose log was recorded elsewhere is refused, with that record."""

    async def evidence(name: str) -> list[str]:
        return ["log.json last saw it at sequence 776"] if name == "JOBS" else []

    with pytest.raises(LogMissing, match="last saw it at sequence 776"):
        await JetStreamLog.connect(server.url, evidence=evidence)
    admin = await unchecked(server.url)
    assert not (await ask(admin, "STREAM.NAMES"))["streams"]
    await admin.close()


async def test_evidence_of_another_stream_does_not_count(server: EmbeddedServer) -> None:
    """The first start of one log is not the loss of another."""

    async def evidence(name: str) -> list[str]:
        return ["it was there"] if name == "OTHER" else []

    log = await JetStreamLog.connect(server.url, evidence=evidence)
    await log.close()


async def test_accepted_loss_creates_the_log_again(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """With the explicit option the log is empty, and the other streams are unchanged."""
    await fill(jetstream_log, 2)
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    log = await JetStreamLog.connect(server.url, accept_loss=lambda _: None)
    assert (await log.info()).last_sequence == 0
    await log.close()


@pytest.mark.parametrize("declaration", KEEPERS, ids=[each.suffix for each in KEEPERS])
async def test_missing_companion_of_a_log_with_events_is_not_created(
    server: EmbeddedServer, jetstream_log: JetStreamLog, declaration: StreamDeclaration
) -> None:
    """Every companion is created before the first event, which the log's metadata records."""
    name = declaration.name("JOBS")
    await fill(jetstream_log, 1)
    await ask(jetstream_log, f"STREAM.DELETE.{name}")
    log = await JetStreamLog.connect(server.url)  # the log itself is complete
    with pytest.raises(LogMissing, match=f"{name} existed and is missing: the log has 1 events"):
        await log.prepare_streams()
    assert name not in (await ask(log, "STREAM.NAMES"))["streams"]
    await log.close()


@pytest.mark.parametrize("missing", range(1, len(NAMES)))
async def test_crash_during_the_first_start_is_not_a_loss(server: EmbeddedServer, missing: int) -> None:
    """The log and some of the other streams exist, and no event: the rest are created."""
    admin = await unchecked(server.url)
    for each in STREAMS[:missing]:
        config = each.config(StreamSettings(), replicas=1)
        assert "error" not in await ask(admin, f"STREAM.CREATE.{each.name('JOBS')}", config)
    log = await JetStreamLog.connect(server.url)
    assert sorted((await ask(log, "STREAM.NAMES"))["streams"]) == sorted(NAMES)
    await log.close()
    await admin.close()


async def test_log_of_an_earlier_release_gets_the_new_streams(server: EmbeddedServer) -> None:
    """Its metadata names no stream, so a missing one never existed."""
    admin = await unchecked(server.url)
    assert "error" not in await ask(admin, "STREAM.CREATE.JOBS", unsafe(LOG))
    await fill(admin, 2)
    log = await JetStreamLog.connect(server.url)
    assert [each.name for each in await log.prepare_streams()] == NAMES
    await ask(log, "STREAM.DELETE.JOBS_SEALS")
    other = await JetStreamLog.connect(server.url)  # records that it existed
    with pytest.raises(LogMissing):
        await other.seals("mark")
    for each in (log, other, admin):
        await each.close()


@pytest.mark.parametrize("name", ["JOBS_KEYS", "JOBS_SUBSCRIPTIONS", "JOBS_SEALS"])
async def test_stream_deleted_while_it_is_used_is_not_created(jetstream_log: JetStreamLog, name: str) -> None:
    """Also without an event in the log: this process has used it."""
    await ask(jetstream_log, f"STREAM.DELETE.{name}")
    opened: dict[str, Callable[[], Awaitable[object]]] = {
        "JOBS_KEYS": lambda: jetstream_log.key_value("KEYS"),
        "JOBS_SUBSCRIPTIONS": lambda: jetstream_log.key_value("SUBSCRIPTIONS"),
        "JOBS_SEALS": lambda: jetstream_log.seals("mark"),
    }
    with pytest.raises(LogMissing, match="this process has used it"):
        await opened[name]()


async def test_log_deleted_at_runtime_is_not_created(jetstream_log: JetStreamLog) -> None:
    """Appends and reads fail, and no call creates it."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    with pytest.raises(LogUnavailable, match="is missing"):
        await jetstream_log.info()
    with pytest.raises(LogMissing):
        await jetstream_log.prepare_streams()
    assert "JOBS" not in (await ask(jetstream_log, "STREAM.NAMES"))["streams"]


async def test_log_created_by_another_process_is_found(
    server: EmbeddedServer, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts while another one creates all streams finds the log at its second look."""
    monkeypatch.setattr(stream_module, "STREAM_MISSING_SECONDS", 5.0)
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    connecting = asyncio.create_task(JetStreamLog.connect(server.url))
    config = LOG.config(StreamSettings(), replicas=1)
    assert "error" not in await ask(jetstream_log, "STREAM.CREATE.JOBS", config)
    await (await connecting).close()
