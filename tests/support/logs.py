"""Pending events, reading a whole log, waits, and servers of any configuration."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from jobledger import JetStreamLog, StreamSettings
from jobledger.store.embedded import find_program
from jobledger.store.jetstream.connection import Connection, Message, _QuickClient
from jobledger.store.jetstream.publisher import Publisher
from jobledger.store.jetstream.stream import Streams
from jobledger.store.log import Appended, EventLog, LogReader, PendingEvent, WrongSequence
from jobledger.store.model.errors import LogBehind, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import job_subject

Answer = TypeVar("Answer")

ASK_SECONDS = 60.0  # for one response, through elections


def draft(
    job: str = "job", payload: bytes = b"{}", *, namespace: str = "default", event_id: str = ""
) -> PendingEvent:
    """Return an event of a job, with a new id."""
    return PendingEvent(job_subject(namespace, job), event_id or str(uuid.uuid4()), payload)


def force_batches(log: EventLog) -> None:
    """Make a JetStream log send queued events as one atomic batch; no effect on other logs."""
    if isinstance(log, JetStreamLog):
        log._publisher._policy.single_seconds = 1.0


async def append_all(
    log: EventLog, drafts: list[PendingEvent], *, expect: int = 0
) -> list[Appended | WrongSequence | BaseException]:
    """Append all concurrently; returns the results in order."""
    return await asyncio.gather(*(log.append(each, expect=expect) for each in drafts), return_exceptions=True)


async def whole(log: EventLog) -> list[Record]:
    """Return every record of the log, through a reader."""
    last = (await log.info()).last_sequence
    records: list[Record] = []
    if last:
        feed = await log.follow(after=0)
        while not records or records[-1].sequence < last:
            records.extend(await feed.take(1_000))
        await feed.close()
    return records


async def take_until(feed: LogReader, last: int) -> list[int]:
    """Return the sequences from a reader up to one, with a timeout shorter than missed heartbeats."""
    sequences: list[int] = []
    async with asyncio.timeout(10):
        while not sequences or sequences[-1] < last:
            sequences += [record.sequence for record in await feed.take(1_000)]
    return sequences


async def decided(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a call on a log that seems to lack events until it is certain whether they are lost."""
    async with asyncio.timeout(20):
        while True:
            with suppress(LogBehind):
                return await ask()
            await asyncio.sleep(0.02)


async def fill(log: JetStreamLog, events: int, prefix: str = "job") -> None:
    """Append the first events of this many jobs."""
    answers = await append_all(log, [draft(f"{prefix}-{number}") for number in range(events)])
    assert all(isinstance(answer, Appended) for answer in answers)


async def stored_ids(log: JetStreamLog) -> list[str]:
    """Return the event id of every message in the stream, read directly from the server."""
    ids: list[str] = []
    for sequence in range(1, (await log.info()).last_sequence + 1):
        found = await ask(log, "STREAM.MSG.GET.JOBS", {"seq": sequence})
        headers = msgspec.json.decode(f'"{found["message"].get("hdrs", "")}"', type=bytes).decode()
        ids += [line[13:] for line in headers.split("\r\n") if line.startswith("Nats-Msg-Id: ")]
    return ids


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], *, within_seconds: float = 10.0
) -> None:
    """Wait until a condition outside this process holds; fails after a timeout."""
    async with asyncio.timeout(within_seconds):
        while True:
            now = condition()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(0.005)


async def ask(log: JetStreamLog, verb: str, request: object = None) -> dict[str, Any]:
    """Send a JetStream API request as an administrator; returns the response, including errors.

    There is no response while a stream has no leader, which can happen at any time on a busy machine.
    """
    async with asyncio.timeout(ASK_SECONDS):
        while True:
            with suppress(LogUnavailable):
                answer = await log._connection.request(f"$JS.API.{verb}", msgspec.json.encode(request or {}))
                return dict(json.loads(answer.payload))
            await asyncio.sleep(0.1)


async def publish_raw(log: JetStreamLog, subject: str, payload: bytes, **headers: str) -> Message:
    """Publish without the publisher, as any client could; `_` in a header's name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await log._connection.request(subject, payload, headers=named or None)


def ordinary_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new connections receive everything through the client library."""
    monkeypatch.setattr(_QuickClient, "parse_directly", lambda _client, _on_error: None)


def publisher_of(log: EventLog) -> Publisher:
    """Return the publisher of a JetStream log."""
    assert isinstance(log, JetStreamLog)
    return log._publisher


async def unchecked(url: str) -> JetStreamLog:
    """Return a log on a stream `JOBS` of any configuration, or on none, without the checks of `connect`."""
    connection = await Connection.open(url)
    streams = Streams(connection, StreamSettings())
    return JetStreamLog(connection, streams, await Publisher.start(connection, "JOBS"))


@asynccontextmanager
async def plain_server(directory: Path, **config: object) -> AsyncIterator[str]:
    """Run a nats-server with this configuration; yields its URL."""
    directory.mkdir()
    ports = directory / "ports"
    ports.mkdir()
    path = directory / "nats.conf"
    path.write_text(json.dumps({"listen": "127.0.0.1:-1", "ports_file_dir": str(ports), **config}))
    with (directory / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(find_program(), "-c", path, stdout=out, stderr=out)
    try:
        await eventually(lambda: any(file.stat().st_size for file in ports.glob("*.ports")))
        (file,) = ports.glob("*.ports")
        yield str(json.loads(file.read_text())["nats"][0])
    finally:
        process.terminate()
        await process.wait()
