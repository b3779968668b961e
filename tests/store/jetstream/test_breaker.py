"""Appends that cannot succeed are refused at once; a working log refuses none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Ledger, LogUnavailable, OutcomeUnknown
from jobledger.store.jetstream import (
    breaker as breaker_module,
    publisher as publisher_module,
    reconcile as settle_module,
)
from jobledger.store.jetstream.breaker import Breaker
from jobledger.store.log import NO_JOB, Appended, WrongSequence
from jobledger.store.model.limits import APPENDS_SILENCE_SECONDS, APPENDS_TRIAL_SECONDS, SUSPENSION_SECONDS
from tests.conftest import make_spec
from tests.support.disks import fill, small_disk
from tests.support.logs import append_all, ask, draft, eventually, publisher_of
from tests.support.nats_servers import nats_server
from tests.support.proxy import Proxy
from tests.support.service_process import stopped

AT_ONCE_SECONDS = 0.2


# --- the state machine --------------------------------------------------------------------------------------


def test_breaker_opens_at_its_bound_and_not_before() -> None:
    """An append that waits as long as an election does not make the log silent."""
    breaker = Breaker(0.0)
    breaker.observe(100.0 + APPENDS_SILENCE_SECONDS - 0.01, oldest=100.0, reason="why")
    assert not breaker.problem(200.0)
    breaker.observe(100.0 + APPENDS_SILENCE_SECONDS, oldest=100.0, reason="why")
    assert breaker.problem(200.0) == "no append was acknowledged for 10 s (why)"


def test_breaker_stays_closed_while_appends_are_acknowledged() -> None:
    """One append without an answer does not matter while others are acknowledged."""
    breaker = Breaker(0.0)
    for second in range(100):
        breaker.acknowledge(float(second))
        breaker.observe(second + 0.5, oldest=0.0, reason="why")
        assert not breaker.problem(float(second))


def test_open_breaker_admits_one_append_per_interval_and_closes_on_an_acknowledgement() -> None:
    """That append shows when the log works again."""
    breaker, now = Breaker(0.0), APPENDS_SILENCE_SECONDS
    breaker.observe(now, oldest=0.0, reason="why")
    assert not breaker.admits(now)
    assert not breaker.admits(now + APPENDS_TRIAL_SECONDS - 0.01)
    now += APPENDS_TRIAL_SECONDS
    assert breaker.admits(now)
    breaker.note_trial(now)
    assert not breaker.admits(now)
    breaker.acknowledge(now)
    assert breaker.admits(now)
    assert not breaker.problem(now)


def test_suspension_ends_by_itself_and_admits_nothing_before() -> None:
    """A suspension that is not renewed does not block the log for good."""
    breaker = Breaker(0.0)
    breaker.suspend("full", 5.0)
    assert not breaker.admits(4.99)
    assert breaker.problem(4.99) == "full"
    assert breaker.admits(5.0)
    breaker.suspend("full", 10.0)
    breaker.resume()
    assert breaker.admits(6.0)


# --- the publisher ------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds in tenths of seconds."""
    monkeypatch.setattr(breaker_module, "APPENDS_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(breaker_module, "APPENDS_TRIAL_SECONDS", 0.3)
    monkeypatch.setattr(publisher_module, "APPENDS_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(publisher_module, "ACK_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(settle_module, "ACK_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(settle_module, "APPEND_TIMEOUT_SECONDS", 1.5)
    monkeypatch.setattr(publisher_module, "_SWEEP_SECONDS", 0.02)


async def refused_at_once(log: JetStreamLog, reason: str, job: str = "new") -> None:
    """Asserts that an append is refused immediately, with this reason."""
    async with asyncio.timeout(AT_ONCE_SECONDS):
        with pytest.raises(LogUnavailable, match=f"{reason}.*nothing was written"):
            await log.append(draft(job), expect=NO_JOB)


async def is_open(log: JetStreamLog) -> None:
    """Waits until the publisher finds the log silent."""
    await eventually(lambda: bool(publisher_of(log).silence))


@pytest.mark.usefixtures("impatient")
async def test_silent_log_refuses_appends_at_once_until_it_answers(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Sent appends are reconciled, new ones refused; one at a time is tried, and ends the silence."""
    with stopped(server.pid):
        sent = draft("sent")
        first = asyncio.create_task(jetstream_log.append(sent, expect=NO_JOB))
        await is_open(jetstream_log)
        await refused_at_once(jetstream_log, "no append was acknowledged for 0.5 s")
        with pytest.raises(OutcomeUnknown):
            await first
        # None is in flight: the next one is the try, which has a shorter deadline.
        await eventually(lambda: not jetstream_log.refusal)
        trial = asyncio.create_task(jetstream_log.append(draft("trial"), expect=NO_JOB))
        await asyncio.sleep(0)
        await refused_at_once(jetstream_log, "no append was acknowledged")
        with pytest.raises(OutcomeUnknown):
            await trial
    await eventually(lambda: not jetstream_log.refusal)
    assert isinstance(await jetstream_log.append(draft("well"), expect=NO_JOB), Appended)
    answers = await append_all(jetstream_log, [draft(f"job-{number}") for number in range(20)])
    assert all(isinstance(answer, Appended) for answer in answers)
    assert isinstance(await jetstream_log.append(sent, expect=NO_JOB), Appended)


@pytest.mark.usefixtures("impatient")
async def test_lost_connection_refuses_appends_at_once_and_a_new_one_accepts_them(
    server: EmbeddedServer,
) -> None:
    """Appends that were never sent are refused too: they were not written."""
    async with Proxy(server.url) as proxy:
        log = await JetStreamLog.connect(proxy.url)
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not log._connection.is_up)
        with pytest.raises(LogUnavailable, match=r"no connection to nats-server\); nothing was written"):
            await log.append(draft("queued"), expect=NO_JOB)
        await refused_at_once(log, "no connection")
        await proxy.listen()
        await eventually(lambda: not log.refusal)
        assert await log.append(draft("well"), expect=NO_JOB) == Appended(1)
        await log.close()


@pytest.mark.usefixtures("impatient")
async def test_conflicts_are_answers_and_keep_the_log_open(jetstream_log: JetStreamLog) -> None:
    """A log that answers every append with a conflict is not silent."""
    await jetstream_log.append(draft("taken"), expect=NO_JOB)
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.0
    while loop.time() < end:
        assert isinstance(await jetstream_log.append(draft("taken"), expect=7), WrongSequence)
    assert not publisher_of(jetstream_log).problem


@pytest.mark.usefixtures("impatient")
async def test_stream_without_a_leader_refuses_appends_at_once(jetstream_log: JetStreamLog) -> None:
    """The message has no responder, so nothing was written: queued appends are refused too."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS")
    waiting = asyncio.create_task(jetstream_log.append(draft("waits"), expect=NO_JOB))
    await is_open(jetstream_log)
    async with asyncio.timeout(AT_ONCE_SECONDS):
        with pytest.raises(LogUnavailable, match="nothing was written"):
            await waiting
    await refused_at_once(jetstream_log, "no append was acknowledged")


async def test_suspended_log_refuses_appends_at_once_and_resumes(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is reported; a suspension that is not renewed ends after its limit."""
    publisher = publisher_of(jetstream_log)
    publisher.suspend("the disk is full")
    await refused_at_once(jetstream_log, "the disk is full")
    publisher.resume()
    assert await jetstream_log.append(draft("one"), expect=NO_JOB) == Appended(1)
    publisher.suspend("the disk is full")
    now = publisher._now()
    monkeypatch.setattr(publisher, "_now", lambda: now + SUSPENSION_SECONDS)
    assert await jetstream_log.append(draft("two"), expect=NO_JOB) == Appended(2)


async def test_caller_that_tries_again_at_once_leaves_the_loop_to_others(
    jetstream_log: JetStreamLog,
) -> None:
    """Otherwise its retries would block the reconnect and the restart of the server."""
    publisher_of(jetstream_log).suspend("the disk is full")
    ledger, tries = Ledger(jetstream_log), 0

    async def insist() -> None:
        nonlocal tries
        while tries < 10_000:
            tries += 1
            with suppress(LogUnavailable):
                await jetstream_log.append(draft("refused"), expect=NO_JOB)
            with suppress(LogUnavailable):
                await ledger.create(make_spec("refused"))

    insisting = asyncio.create_task(insist())
    for _ in range(20):
        await asyncio.sleep(0)
    assert 0 < tries < 20
    insisting.cancel()
    await asyncio.wait({insisting})
    await jetstream_log.close()
    closed = asyncio.create_task(insist())
    await asyncio.sleep(0)
    assert tries < 40
    closed.cancel()
    await asyncio.wait({closed})


async def test_commands_are_refused_before_they_read_and_repeated_ones_are_looked_for(
    jetstream_log: JetStreamLog,
) -> None:
    """A read may take seconds while appends cannot succeed; an event that is already stored is answered."""
    ledger = Ledger(jetstream_log)
    event_id = "01939bd8-7a31-7cc1-9b15-7dfd0ad9dd4c"
    receipt = await ledger.create(make_spec("etl"), event_id=event_id)
    publisher_of(jetstream_log).suspend("the disk is full")
    with pytest.raises(LogUnavailable, match="the disk is full; nothing was written"):
        await ledger.create(make_spec("other"))
    assert await ledger.create(make_spec("etl"), event_id=event_id) == receipt


async def test_missing_permission_is_the_reason(tmp_path: Path) -> None:
    """The server does not answer such an append; it reports the subject on the connection."""
    permissions = {"publish": {"deny": ["jobs.>"]}}
    user = {"user": "a", "password": "b", "permissions": permissions}
    async with nats_server(tmp_path / "nats", authorization={"users": [user]}) as port:
        log = await JetStreamLog.connect(f"nats://a:b@127.0.0.1:{port}")
        try:
            with pytest.raises(LogUnavailable, match="this NATS user may not publish to"):
                await log._connection.request("jobs.x", b"", timeout_seconds=0.3)
            assert "permissions violation for publish" in log._connection.problem
        finally:
            await log.close()


@pytest.fixture
async def full_log(tmp_path: Path) -> AsyncIterator[tuple[JetStreamLog, Path]]:
    """A log on a small disk, and that disk."""
    with small_disk(tmp_path / "disk", megabytes=24) as disk:
        async with EmbeddedServer(disk / "nats") as server:
            log = await JetStreamLog.connect(server.url)
            yield log, disk
            await log.close()


@pytest.mark.usefixtures("impatient")
async def test_full_disk_is_a_silent_log(full_log: tuple[JetStreamLog, Path]) -> None:
    """nats-server then answers conflicts and reads, but not an append that it cannot store."""
    log, disk = full_log
    await log.append(draft("taken"), expect=NO_JOB)
    fill(disk)
    appending = asyncio.create_task(log.append(draft("lost", bytes(65_536)), expect=NO_JOB))
    assert isinstance(await log.append(draft("taken"), expect=7), WrongSequence), "conflicts are answered"
    await is_open(log)
    await refused_at_once(log, "no append was acknowledged")
    with pytest.raises(OutcomeUnknown):
        await appending
