"""An append whose answer is lost is reconciled: acknowledged means stored, exactly once."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.embedded import server as embedded
from jobledger.store.jetstream import publisher as publisher_module, reconcile as settle_module
from jobledger.store.log import NO_JOB, Appended, PendingEvent, WrongSequence
from jobledger.store.model.errors import LogUnavailable, OutcomeUnknown
from jobledger.store.model.limits import ACK_TIMEOUT_SECONDS
from tests.support.logs import append_all, ask, draft, eventually, force_batches, publisher_of, stored_ids
from tests.support.proxy import Proxy

SEQUENCE = b'"seq":'  # part of an acknowledgment


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[Proxy]:
    """A proxy in front of the server."""
    async with Proxy(server.url) as running:
        yield running


@pytest.fixture
async def far_log(proxy: Proxy) -> AsyncIterator[JetStreamLog]:
    """A log that is reached through the proxy."""
    log = await JetStreamLog.connect(proxy.url)
    yield log
    proxy.swallow = False
    proxy.release()
    await proxy.listen()
    await log.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of an append in tenths of seconds instead of seconds."""
    monkeypatch.setattr(publisher_module, "ACK_TIMEOUT_SECONDS", 0.15)
    monkeypatch.setattr(settle_module, "ACK_TIMEOUT_SECONDS", 0.15)
    monkeypatch.setattr(settle_module, "APPEND_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(publisher_module, "_SWEEP_SECONDS", 0.02)


def check_appended_once(
    answers: Sequence[object], drafts: Sequence[PendingEvent], ids: Sequence[str]
) -> None:
    """Asserts that each was acknowledged at its sequence, and is in the log exactly once."""
    assert sorted(ids) == sorted(event.event_id for event in drafts)
    for event, answer in zip(drafts, answers, strict=True):
        assert answer == Appended(ids.index(event.event_id) + 1)


@pytest.mark.parametrize("events", [1, 40])
async def test_lost_acks_of_singles_are_reconciled_as_appended(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog, events: int
) -> None:
    """If the connection is cut before the ack, every event is stored once, and its caller is answered."""
    proxy.withhold()
    drafts = [draft(f"job-{number}") for number in range(events)]
    answering = asyncio.create_task(append_all(far_log, drafts))
    await proxy.withheld(SEQUENCE, times=events)
    proxy.cut()
    async with asyncio.timeout(ACK_TIMEOUT_SECONDS / 2):  # the lost connection ends the wait, not the timeout
        answers = await answering
    check_appended_once(answers, drafts, await stored_ids(jetstream_log))


async def test_lost_ack_of_a_batch_is_reconciled_as_appended(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog
) -> None:
    """If the answer for a batch is lost, each of its events is reconciled by itself, and is stored once."""
    force_batches(far_log)
    proxy.withhold()
    drafts = [draft(f"job-{number}") for number in range(100)]
    answering = asyncio.create_task(append_all(far_log, drafts))
    await proxy.withheld(b'"count":100')
    proxy.cut()
    check_appended_once(await answering, drafts, await stored_ids(jetstream_log))


@pytest.mark.parametrize("cut_after_bytes", [1, 2_000, 9_999, 20_000, 33_333])
async def test_partly_sent_batch_is_reconciled(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog, cut_after_bytes: int
) -> None:
    """If the connection breaks at any point of a batch, nothing is lost and nothing is stored twice."""
    force_batches(far_log)
    drafts = [draft(f"job-{number}", b"x" * 200) for number in range(100)]
    proxy.cut_after_bytes = cut_after_bytes
    answers = await append_all(far_log, drafts)
    assert proxy.connections > 1
    check_appended_once(answers, drafts, await stored_ids(jetstream_log))


async def test_own_event_is_found_before_a_later_one(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog
) -> None:
    """The first event after the expected one decides, not the last: another writer may have appended."""
    proxy.withhold()
    event = draft()
    answering = asyncio.create_task(far_log.append(event, expect=NO_JOB))
    await proxy.withheld(SEQUENCE)
    assert await jetstream_log.append(draft(), expect=1) == Appended(2)
    proxy.cut()
    assert await answering == Appended(1)
    assert (await jetstream_log.info()).last_sequence == 2


async def test_foreign_event_that_came_first_is_a_lost_race(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog
) -> None:
    """An event that never arrived, while another writer's did, is WrongSequence, and is not in the log."""
    proxy.swallow = True
    event = draft()
    answering = asyncio.create_task(far_log.append(event, expect=NO_JOB))
    await eventually(lambda: bool(publisher_of(far_log)._in_flight))
    foreign = draft()
    await jetstream_log.append(foreign, expect=NO_JOB)
    proxy.swallow = False
    proxy.cut()
    assert await answering == WrongSequence(1)
    assert await stored_ids(jetstream_log) == [foreign.event_id]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("events", [1, 30])
async def test_silence_until_the_deadline_is_an_unknown_outcome(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog, events: int
) -> None:
    """If the server never answers, the outcome is unknown; repeating the append gives the answer."""
    if events > 1:
        force_batches(far_log)
    proxy.withhold()
    drafts = [draft(f"job-{number}") for number in range(events)]
    async with asyncio.timeout(5):  # the limit of the append, not that of a dead connection
        answers = await append_all(far_log, drafts)
    for event, answer in zip(drafts, answers, strict=True):
        assert isinstance(answer, OutcomeUnknown)
        assert answer.event_id == event.event_id
        assert event.event_id in str(answer)
    proxy.release()
    check_appended_once(await append_all(far_log, drafts), drafts, await stored_ids(jetstream_log))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("events", [1, 30])
async def test_possibly_written_event_is_an_unknown_outcome(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog, events: int
) -> None:
    """An event that may be written is not reported as unwritten because its repeat has no responder."""
    if events > 1:
        force_batches(far_log)
    proxy.withhold()
    answering = asyncio.create_task(append_all(far_log, [draft(f"job-{n}") for n in range(events)]))
    await proxy.withheld(SEQUENCE)
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    proxy.cut()
    assert [type(answer) for answer in await answering] == [OutcomeUnknown] * events


@pytest.mark.usefixtures("impatient")
async def test_never_sent_is_unavailable(
    proxy: Proxy, far_log: JetStreamLog, jetstream_log: JetStreamLog
) -> None:
    """Without a connection an append fails at its deadline with LogUnavailable, and is not written later."""
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not far_log._connection.is_up)
    answers = await append_all(far_log, [draft(f"job-{number}") for number in range(5)])
    assert [type(answer) for answer in answers] == [LogUnavailable] * 5
    await proxy.listen()
    assert await far_log.append(draft("later"), expect=NO_JOB) == Appended(1)
    assert (await jetstream_log.info()).last_sequence == 1


@pytest.mark.usefixtures("impatient")
async def test_append_without_responder_is_unavailable(jetstream_log: JetStreamLog) -> None:
    """Without a responder nothing was written: LogUnavailable, not an unknown outcome."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    with pytest.raises(LogUnavailable, match="nothing was written"):
        await jetstream_log.append(draft(), expect=NO_JOB)


@pytest.mark.usefixtures("impatient")
async def test_answered_appends_leave_nothing_in_memory(proxy: Proxy, far_log: JetStreamLog) -> None:
    """After answers, lost answers, unknown outcomes and cancelled callers the publisher keeps nothing."""
    proxy.withhold()
    await append_all(far_log, [draft(f"job-{number}") for number in range(20)])
    proxy.cut()
    await append_all(far_log, [draft(f"job-{number}") for number in range(20)])
    task = asyncio.create_task(far_log.append(draft("cancelled"), expect=NO_JOB))
    await asyncio.sleep(0)
    task.cancel()
    await eventually(lambda: publisher_of(far_log)._pending_count() == 0)
    assert not publisher_of(far_log)._pending()
    assert not far_log._connection._client._resp_map


@pytest.mark.parametrize("reading", ["info", "page"])
async def test_lost_connection_fails_a_read_at_once(
    proxy: Proxy, far_log: JetStreamLog, reading: str
) -> None:
    """A read whose answer is lost with the connection fails at once, not after the timeout."""
    await far_log.append(draft(), expect=NO_JOB)
    proxy.withhold()
    asked = far_log.info() if reading == "info" else far_log.read(draft().subject)
    waiting = asyncio.ensure_future(asked)
    await proxy.withheld(b'"created"' if reading == "info" else b"NATS/1.0 204")
    proxy.cut()
    async with asyncio.timeout(2):
        with pytest.raises(LogUnavailable, match="connection"):
            await waiting


async def test_late_answers_are_not_taken_for_lost_ones(proxy: Proxy, far_log: JetStreamLog) -> None:
    """Late answers count; nothing is sent twice."""
    proxy.delay_seconds = 0.05
    drafts = [draft(f"job-{number}") for number in range(20)]
    answers = await append_all(far_log, drafts)
    check_appended_once(answers, drafts, await stored_ids(far_log))
    assert not publisher_of(far_log)._reconciling


class Load:
    """Writers with a job each, which repeat an append without an answer, until they are stopped."""

    def __init__(self, log: JetStreamLog, writers: int) -> None:
        self.log = log
        self.acknowledged: dict[str, int] = {}
        self._stop = False
        self._random = random.Random(1)
        self._tasks = [asyncio.create_task(self._write(f"job-{number}")) for number in range(writers)]

    async def _write(self, job: str) -> None:
        last = NO_JOB
        while not self._stop:
            event = draft(job, self._random.randbytes(self._random.randrange(1, 2_000)))
            answer: Appended | WrongSequence | None = None
            while answer is None:
                try:
                    answer = await self.log.append(event, expect=last)
                except (LogUnavailable, OutcomeUnknown):
                    continue
            assert isinstance(answer, Appended)  # the only writer of its job cannot lose a race
            self.acknowledged[event.event_id] = last = answer.sequence

    async def reach(self, events: int) -> None:
        """Waits until a number of further events are acknowledged."""
        goal = len(self.acknowledged) + events
        await eventually(lambda: len(self.acknowledged) >= goal, within_seconds=60)

    async def check(self) -> None:
        """Stops, and compares the log with what it acknowledged."""
        self._stop = True
        await asyncio.gather(*self._tasks)
        ids = await stored_ids(self.log)
        assert {event_id: sequence for sequence, event_id in enumerate(ids, 1)} == self.acknowledged
        assert len(ids) == len(self.acknowledged)


def restarted(server: EmbeddedServer, killed: int) -> bool:
    """Whether another process has replaced the killed one."""
    process = server._process
    return process is not None and process.pid != killed


async def survive_kills(directory: Path, rng: random.Random, kills: int, *, batches: bool) -> None:
    """Runs a load while the server is killed repeatedly, and checks the log."""
    async with EmbeddedServer(directory) as server:
        log = await JetStreamLog.connect(server.url)
        if batches:
            force_batches(log)
        load = Load(log, writers=rng.choice([1, 7, 40, 150]) if kills > 2 else 40)
        for _ in range(kills):
            await load.reach(rng.randrange(1, 400))
            killed = server.pid
            os.kill(killed, signal.SIGKILL)
            await eventually(partial(restarted, server, killed))
        await load.reach(50)
        await load.check()
        await log.close()


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.slow
async def test_acknowledged_events_survive_kills_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    """After `kill -9` of the server during a load, the log has exactly the acknowledged events, once."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    await survive_kills(tmp_path, random.Random(1), kills=2, batches=batches)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
async def test_acknowledged_events_survive_many_kills_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The same with many kills, at random moments, under loads of different sizes."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(embedded, "RESTART_MAX_WAIT_SECONDS", 0.1)
    await survive_kills(tmp_path, random.Random(seed), kills=20, batches=seed % 2 == 1)
