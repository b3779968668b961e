"""The stream is created as promised, checked if it exists, and refuses what would break a promise."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobledger import EmbeddedServer, JetStreamLog, StreamSettings
from jobledger.store.jetstream import publisher as batch_module, stream as stream_module
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import LOG
from jobledger.store.jetstream.publisher import HEADERS_MAX_BYTES
from jobledger.store.log import NO_JOB, Appended, WrongSequence
from jobledger.store.model.errors import LogBusy, LogRefused, LogUnavailable, LogUnfit
from jobledger.store.model.limits import (
    BATCH_MAX_BYTES,
    BATCH_MAX_EVENTS,
    DUPLICATE_WINDOW_SECONDS,
    PENDING_MAX_APPENDS,
)
from tests.support.logs import (
    append_all,
    ask,
    draft,
    force_batches,
    plain_server,
    publisher_of,
    unchecked,
    whole,
)

PROMISED = {
    "name": "JOBS",
    "subjects": ["jobs.>"],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "deny_delete": True,
    "deny_purge": True,
    "allow_direct": True,
    "allow_atomic": True,
    "compression": "none",
    "num_replicas": 1,
    "duplicate_window": DUPLICATE_WINDOW_SECONDS * 10**9,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "max_consumers": -1,
}


@pytest.mark.parametrize("field", sorted(PROMISED))
async def test_stream_is_created_as_promised(jetstream_log: JetStreamLog, field: str) -> None:
    """The server reports the promised value of each field."""
    config = (await ask(jetstream_log, "STREAM.INFO.JOBS"))["config"]
    assert config[field] == PROMISED[field]
    assert not config.get("sealed")


async def test_settings_reach_the_stream(server: EmbeddedServer) -> None:
    """The settings decide what may differ between installations."""
    settings = StreamSettings(name="OTHER", max_bytes=10**6, duplicate_window_seconds=7)
    log = await JetStreamLog.connect(server.url, settings)
    config = (await ask(log, "STREAM.INFO.OTHER"))["config"]
    assert (config["max_bytes"], config["duplicate_window"]) == (10**6, 7 * 10**9)
    assert await log.append(draft(), expect=NO_JOB) == Appended(1)
    await log.close()


async def test_existing_stream_is_used(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """Later connections, also several at once, find the same stream."""
    epoch = (await jetstream_log.info()).epoch
    others = await asyncio.gather(*(JetStreamLog.connect(server.url) for _ in range(5)))
    for other in others:
        assert (await other.info()).epoch == epoch
        await other.close()


async def test_concurrent_starts_create_one_stream(server: EmbeddedServer) -> None:
    """Processes that start together on an empty server end up with one stream."""
    logs = await asyncio.gather(*(JetStreamLog.connect(server.url) for _ in range(5)))
    assert len({(await log.info()).epoch for log in logs}) == 1
    for log in logs:
        await log.close()


WRONG: dict[str, dict[str, Any]] = {
    "discard": {"discard": "old"},
    "max_age": {"max_age": 3_600 * 10**9},
    "max_msgs": {"max_msgs": 1_000},
    "max_msgs_per_subject": {"max_msgs_per_subject": 1},
    "deny_delete": {"deny_delete": False},
    "deny_purge": {"deny_purge": False},
    "subjects": {"subjects": ["jobs.>", "tasks.>"]},
    "allow_direct": {"allow_direct": False},
    "allow_atomic": {"allow_atomic": False},
    "storage": {"storage": "memory"},
    "retention": {"retention": "interest"},
    "no_ack": {"no_ack": True, "allow_atomic": False},
    "allow_msg_ttl": {"allow_msg_ttl": True},
    "subject_transform": {"subject_transform": {"src": "jobs.*.*.*", "dest": "jobs.{{wildcard(1)}}"}},
    "sources": {"sources": [{"name": "ELSEWHERE"}]},
    "mirror": {"mirror": {"name": "ELSEWHERE"}, "subjects": [], "allow_atomic": False},
    "sealed": {"sealed": True},
}


@pytest.fixture
async def admin(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """A log of a user with all permissions; the stream `JOBS` does not exist yet."""
    log = await unchecked(server.url)
    yield log
    await log.close()


@pytest.mark.parametrize("field", sorted(WRONG))
async def test_stream_that_breaks_a_promise_is_refused(
    server: EmbeddedServer, admin: JetStreamLog, field: str
) -> None:
    """An existing stream with one wrong field is LogUnfit; the message names the field and the remedy."""
    config = LOG.config(StreamSettings(), replicas=1)
    if field == "sealed":  # only an existing stream can be sealed
        await ask(admin, "STREAM.CREATE.JOBS", config | {"deny_purge": False, "deny_delete": False})
        made = await ask(admin, "STREAM.UPDATE.JOBS", config | {"sealed": True})
    else:
        made = await ask(admin, "STREAM.CREATE.JOBS", config | WRONG[field])
    assert "error" not in made, made
    with pytest.raises(LogUnfit) as caught:
        await JetStreamLog.connect(server.url)
    assert f"{field} is" in str(caught.value)
    assert "nats stream edit" in str(caught.value)


async def test_every_wrong_field_is_named_at_once(server: EmbeddedServer, admin: JetStreamLog) -> None:
    """One error lists all wrong fields of a stream."""
    wrong = {"discard": "old", "max_age": 10**12, "deny_purge": False}
    await ask(admin, "STREAM.CREATE.JOBS", LOG.config(StreamSettings(), replicas=1) | wrong)
    with pytest.raises(LogUnfit) as caught:
        await JetStreamLog.connect(server.url)
    assert all(f"{field} is" in str(caught.value) for field in wrong)


async def test_server_refuses_to_delete_or_purge(jetstream_log: JetStreamLog) -> None:
    """The server enforces append-only: an administrator's delete and purge are refused."""
    await append_all(jetstream_log, [draft("a"), draft("b")])
    for verb, request, code in (
        ("STREAM.MSG.DELETE.JOBS", {"seq": 1}, 10057),
        ("STREAM.PURGE.JOBS", {}, 10110),
        ("STREAM.PURGE.JOBS", {"filter": "jobs.>", "keep": 1}, 10110),
    ):
        answer = await ask(jetstream_log, verb, request)
        assert answer["error"]["err_code"] == code
    config = (await ask(jetstream_log, "STREAM.INFO.JOBS"))["config"]
    for field in ("deny_delete", "deny_purge"):  # and cannot be allowed later
        answer = await ask(jetstream_log, "STREAM.UPDATE.JOBS", config | {field: False})
        assert answer["error"]["err_code"] == 10052
    assert len(await whole(jetstream_log)) == 2


@pytest.mark.parametrize("batches", [False, True])
async def test_full_stream_refuses_appends_and_loses_nothing(server: EmbeddedServer, batches: bool) -> None:
    """A stream at its max_bytes refuses new events at once, with a remedy, and keeps every old one."""
    log = await JetStreamLog.connect(server.url, StreamSettings(max_bytes=100_000))
    if batches:
        force_batches(log)
    answers = await append_all(log, [draft(f"job-{number}", b"x" * 9_000) for number in range(8)])
    assert sorted(answer.sequence for answer in answers if isinstance(answer, Appended)) == list(range(1, 9))
    async with asyncio.timeout(5):
        answers = await append_all(log, [draft(f"more-{number}", b"x" * 9_000) for number in range(8)])
    refused = [answer for answer in answers if isinstance(answer, LogRefused)]
    assert len(refused) >= 5
    assert all("full" in str(error) and "max_bytes" in str(error) for error in refused)
    taken = len(answers) - len(refused)
    assert [record.sequence for record in await whole(log)] == list(range(1, 9 + taken))
    await log.close()


async def test_old_server_is_refused(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with a too low API level is refused before anything is created on it."""
    monkeypatch.setattr(stream_module, "MIN_API_LEVEL", 99)
    with pytest.raises(LogUnfit, match=r"API level must be 99 or higher, .* has \d+"):
        await JetStreamLog.connect(server.url)


async def test_server_without_jetstream_is_reported(tmp_path: Path) -> None:
    """The error for a nats-server without JetStream says so."""
    async with plain_server(tmp_path / "plain") as url:
        with pytest.raises(LogUnavailable, match="JetStream is off"):
            await JetStreamLog.connect(url)


async def test_wrong_password_is_reported(server: EmbeddedServer) -> None:
    """Refused credentials and an unreachable server give different errors, without the credentials."""
    wrong = server.url.replace("jobledger:", "jobledger:hunter2")
    with pytest.raises(LogUnavailable, match="credentials") as caught:
        await JetStreamLog.connect(wrong)
    assert "hunter2" not in str(caught.value)
    assert server.address in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "nats://someone:hunter2@127.0.0.1:1",
        "someone:hunter2@127.0.0.1:1",
        "nats://someone:hunter2@127.0.0.1:x",
    ],
)
async def test_unreachable_server_is_reported_without_credentials(url: str) -> None:
    """The error contains the address, and not the credentials."""
    with pytest.raises(LogUnavailable, match="is it running") as caught:
        await JetStreamLog.connect(url)
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_connection_survives_an_error_of_the_server(jetstream_log: JetStreamLog) -> None:
    """The connection reconnects after an error of the server; the library would have closed for good."""
    lost, back = asyncio.Event(), asyncio.Event()
    jetstream_log._connection.watch(lambda up: back.set() if up else lost.set())
    await jetstream_log._connection.publish("x" * 5_000, b"")  # longer than a line may be
    async with asyncio.timeout(5):
        await lost.wait()
        await back.wait()
    assert await jetstream_log.append(draft(), expect=NO_JOB) == Appended(1)


async def test_too_large_event_is_refused_before_sending(jetstream_log: JetStreamLog) -> None:
    """An event over max_payload is LogRefused; the largest one passes; the connection stays up."""
    states: list[bool] = []
    jetstream_log._connection.watch(states.append)
    largest = jetstream_log._connection.max_payload - HEADERS_MAX_BYTES
    with pytest.raises(LogRefused, match="max_payload"):
        await jetstream_log.append(draft(payload=b"x" * (largest + 1)), expect=NO_JOB)
    event = draft(payload=b"x" * largest)
    assert await jetstream_log.append(event, expect=NO_JOB) == Appended(1)
    assert (await jetstream_log.read(event.subject))[0].payload == event.payload
    assert states == []


async def test_one_append_too_many_is_busy(jetstream_log: JetStreamLog) -> None:
    """PENDING_MAX_APPENDS appends may be pending; one more is LogBusy, and all others are answered."""
    tasks = [
        asyncio.create_task(jetstream_log.append(draft(f"job-{number}"), expect=NO_JOB))
        for number in range(PENDING_MAX_APPENDS + 1)
    ]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers.pop(), LogBusy)
    assert all(isinstance(answer, Appended) for answer in answers)


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of events of each batch that is committed from now on."""
    sizes: list[int] = []
    commit = batch_module.Batch.commit

    async def watched(batch: batch_module.Batch, reply: str, now: float) -> None:
        sizes.append(len(batch.members))
        await commit(batch, reply, now)

    monkeypatch.setattr(batch_module.Batch, "commit", watched)
    return sizes


@pytest.mark.parametrize("waiting", [2, BATCH_MAX_EVENTS, BATCH_MAX_EVENTS + 1])
async def test_batch_has_as_many_events_as_the_server_accepts(
    jetstream_log: JetStreamLog, batch_sizes: list[int], waiting: int
) -> None:
    """1,000 pending events are one batch; the 1,001st is sent after it, by itself."""
    force_batches(jetstream_log)
    answers = await append_all(jetstream_log, [draft(f"job-{number}") for number in range(waiting)])
    assert sorted(answer.sequence for answer in answers if isinstance(answer, Appended)) == list(
        range(1, waiting + 1)
    )
    assert batch_sizes == [min(waiting, BATCH_MAX_EVENTS)]


async def test_callers_that_need_time_get_a_batch_in_two_halves(
    jetstream_log: JetStreamLog, batch_sizes: list[int]
) -> None:
    """Half of the callers are in a batch while the others append again; each event is written once."""
    force_batches(jetstream_log)
    policy = publisher_of(jetstream_log)._policy
    policy.commit_at = lambda events: max(2, events // 2)  # type: ignore[method-assign]
    sequences: list[int] = []

    async def caller(number: int) -> None:
        for turn in range(5):
            answer = await jetstream_log.append(draft(f"job-{number}-{turn}"), expect=NO_JOB)
            assert isinstance(answer, Appended)
            sequences.append(answer.sequence)

    async with asyncio.timeout(20):
        await asyncio.gather(*(caller(number) for number in range(100)))
    assert sorted(sequences) == list(range(1, 501))
    assert max(batch_sizes) < 100
    assert len(batch_sizes) >= 8


async def test_batch_has_one_event_of_a_job(jetstream_log: JetStreamLog, batch_sizes: list[int]) -> None:
    """The second event of a job waits for the next batch: the server would refuse a batch with both."""
    force_batches(jetstream_log)
    drafts = [draft("a"), draft("a"), draft("b"), draft("a"), draft("c")]
    answers = await append_all(jetstream_log, drafts)
    assert [type(answer) for answer in answers] == [
        Appended,
        WrongSequence,
        Appended,
        WrongSequence,
        Appended,
    ]
    assert batch_sizes[0] == 3
    assert publisher_of(jetstream_log)._policy._batches == 1  # accepted unchanged


async def test_batch_has_a_size_limit(jetstream_log: JetStreamLog, batch_sizes: list[int]) -> None:
    """Large events are spread over batches of at most BATCH_MAX_BYTES."""
    force_batches(jetstream_log)
    size = BATCH_MAX_BYTES // 16
    answers = await append_all(jetstream_log, [draft(f"job-{number}", b"x" * size) for number in range(40)])
    assert sorted(answer.sequence for answer in answers if isinstance(answer, Appended)) == list(range(1, 41))
    assert max(batch_sizes) == 16


async def test_bug_in_the_publisher_leaves_no_caller_waiting(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the publisher itself fails, all waiting callers get an error, and so do later ones."""
    force_batches(jetstream_log)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Connection, "publish", broken)
    monkeypatch.setattr(Connection, "publish_all", broken)
    async with asyncio.timeout(5):
        answers = await append_all(jetstream_log, [draft(f"job-{number}") for number in range(50)])
        answers += await append_all(jetstream_log, [draft("later")])
    assert all(isinstance(answer, Exception) for answer in answers)
    assert publisher_of(jetstream_log)._pending() == []
