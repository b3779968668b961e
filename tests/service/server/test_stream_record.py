"""A service whose log vanished refuses to start, reports the evidence, and creates nothing."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from jobledger import EmbeddedServer
from jobledger.service import stream_record
from jobledger.service.errors import InvalidSettings, exit_code
from jobledger.service.log_access import open_log
from jobledger.service.settings import Settings
from jobledger.service.stream_record import RECORD_FILE, StreamRecord, evidence_in
from jobledger.store.jetstream import stream as stream_module
from jobledger.store.jetstream.declarations import STREAMS, StreamSettings
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.model.errors import (
    LogBehind,
    LogError,
    LogMissing,
    LogReplaced,
    LogTruncated,
    StoreDamaged,
)
from tests.conftest import make_spec
from tests.support.api import running_api
from tests.support.logs import ask, eventually, unchecked

JOBS = 3
STREAMS_FOLDER = Path("nats") / "jetstream" / "$G" / "streams"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is created or elected in these tests while it is looked for."""
    monkeypatch.setattr(stream_module, "STREAM_MISSING_SECONDS", 0.05)


async def serve_once(directory: Path) -> None:
    """A service that takes a few jobs, seals them, and ends."""
    async with running_api(directory) as (service, _):
        for number in range(JOBS):
            await service.ledger.create(make_spec(f"job-{number}"))
        await service.projector.wait_for(JOBS, 10)
        await service.sealer.seal()


async def refused(directory: Path) -> LogMissing:
    """The error with which the next start ends."""
    with pytest.raises(LogMissing) as caught:
        async with running_api(directory):
            pass
    return caught.value


def remove_log(directory: Path) -> None:
    """As nats-server does when it can't read the stream."""
    shutil.rmtree(directory / STREAMS_FOLDER / "JOBS")


def remove_streams(directory: Path) -> None:
    shutil.rmtree(directory / STREAMS_FOLDER)


def remove_store(directory: Path) -> None:
    shutil.rmtree(directory / "nats")


@pytest.mark.parametrize("destroy", [remove_log, remove_streams, remove_store])
async def test_vanished_log_stops_the_start(tmp_path: Path, destroy: Callable[[Path], None]) -> None:
    """Whichever part of the store is missing: record, view and seals are evidence."""
    await serve_once(tmp_path)
    destroy(tmp_path)
    for _ in range(2):  # the refused start leaves the evidence as it was
        text = str(await refused(tmp_path))
        assert f"{RECORD_FILE} recorded it at" in text
        assert f"the view {tmp_path / 'view.sqlite'} was made from {JOBS} events" in text
        assert f"covers {JOBS} events" in text
        assert "Restore it from a backup" in text
        assert "jobledger streams create --accept-loss" in text
        assert not (tmp_path / STREAMS_FOLDER / "JOBS").exists()
    assert ("JOBS_SEALS" in text) == (destroy is remove_log)


@pytest.mark.parametrize("file", ["meta.inf", "meta.sum"])
async def test_stream_that_the_server_skips_is_not_overwritten(tmp_path: Path, file: str) -> None:
    """With damaged metadata nats-server ignores the directory; its blocks are kept and reported."""
    await serve_once(tmp_path)
    directory = tmp_path / STREAMS_FOLDER / "JOBS"
    (directory / file).write_bytes(b"{" + bytes(20))
    shutil.rmtree(tmp_path / "nats" / "recovery")  # with the copies that it would be repaired from
    (tmp_path / RECORD_FILE).unlink()
    before = [(each.name, each.read_bytes()) for each in sorted(directory.glob("msgs/*.blk"))]
    with pytest.raises(StoreDamaged, match=r"nats-server skips it, because meta\.inf does not match"):
        async with running_api(tmp_path):
            pass
    assert [(each.name, each.read_bytes()) for each in sorted(directory.glob("msgs/*.blk"))] == before


@pytest.mark.parametrize("name", [each.name("JOBS") for each in STREAMS if each.keeps_records][1:])
async def test_vanished_companion_stops_the_start(tmp_path: Path, name: str) -> None:
    """Subscriptions, webhooks, seals and keys are records as well."""
    await serve_once(tmp_path)
    shutil.rmtree(tmp_path / STREAMS_FOLDER / name)
    error = await refused(tmp_path)
    assert error.stream == name
    assert not (tmp_path / STREAMS_FOLDER / name).exists()


async def test_lost_heartbeats_do_not_stop_the_start(tmp_path: Path) -> None:
    """They contain no data: the stream is created again."""
    await serve_once(tmp_path)
    shutil.rmtree(tmp_path / STREAMS_FOLDER / "JOBS_HEARTBEAT")
    async with running_api(tmp_path):
        assert (tmp_path / STREAMS_FOLDER / "JOBS_HEARTBEAT").exists()


async def test_commands_that_read_the_log_do_not_create_it(tmp_path: Path) -> None:
    """An audit of a lost log must not leave an empty one for the next start of the service."""
    await serve_once(tmp_path)
    remove_log(tmp_path)
    with pytest.raises(LogMissing) as caught:
        async with open_log(Settings(data_dir=tmp_path)):
            pass
    assert exit_code(caught.value) == 6


@pytest.mark.slow
async def test_log_that_vanishes_at_runtime_is_not_created(tmp_path: Path) -> None:
    """Writes fail with 503, readiness names the stream, and the next start is refused."""
    async with running_api(tmp_path) as (service, client):
        await service.ledger.create(make_spec("one"))
        await ask(service.log, "STREAM.DELETE.JOBS")
        with pytest.raises(LogError):
            async with asyncio.timeout(40):
                await service.ledger.create(make_spec("two"))

        async def reported() -> bool:
            return "JOBS is missing" in (await client.get("http://127.0.0.1/readyz?verbose")).text

        await eventually(reported)
        assert "JOBS" not in (await ask(service.log, "STREAM.NAMES"))["streams"]
    await refused(tmp_path)


async def test_first_start_records_every_stream(tmp_path: Path) -> None:
    """The private file has creation time and last sequence."""
    await serve_once(tmp_path)
    path = tmp_path / RECORD_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    streams = json.loads(path.read_bytes())["streams"]
    assert set(streams) == {each.name("JOBS") for each in STREAMS}
    assert streams["JOBS"]["created"]


async def test_record_follows_the_log_in_bounded_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later sequence is written after the interval, an earlier one never."""
    clock = [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
    record = StreamRecord(tmp_path / RECORD_FILE, clock=lambda: 0)
    record.replace([report(5)])
    await record.update("JOBS", 7)
    for at, sequence, kept in ((9.9, 8, 7), (10.0, 9, 9), (30.0, 4, 9)):
        clock[0] = at
        await record.update("JOBS", sequence)
        assert record.read()["JOBS"].last_sequence == kept


def report(last_sequence: int, leader: str = "nats-1 since 12:00:00") -> StreamReport:
    return StreamReport(
        name="JOBS",
        created="2026-01-02T03:04:05Z",
        replicas=1,
        compression="none",
        once_compressed=False,
        messages=last_sequence,
        bytes=0,
        first_sequence=1,
        last_sequence=last_sequence,
        leader=leader,
    )


async def test_damaged_record_is_evidence_and_is_replaced(tmp_path: Path) -> None:
    """A service wrote it; a start that finds the log replaces it."""
    await serve_once(tmp_path)
    path = tmp_path / RECORD_FILE
    path.write_bytes(b"{}")
    with pytest.raises(InvalidSettings, match="can't be read"):
        StreamRecord(path).read()
    found = await evidence_in(tmp_path, store=tmp_path / "x", view=tmp_path / "y")("JOBS")
    assert "a service wrote it" in found[0]
    async with running_api(tmp_path):
        assert StreamRecord(path).read()["JOBS"].last_sequence == JOBS


@pytest.mark.parametrize("name", ["JOBS", "JOBS_WEBHOOKS"])
async def test_another_stream_than_the_recorded_one_stops_the_start(tmp_path: Path, name: str) -> None:
    """The directory of another ledger: both creation times are named, and the record is kept."""
    await serve_once(tmp_path)
    change_record(tmp_path, name, created="2026-01-02T03:04:05Z")
    before = (tmp_path / RECORD_FILE).read_bytes()
    with pytest.raises(
        LogReplaced, match=rf"the stream {name} is not the one .*2026-01-02T03:04:05Z"
    ) as caught:
        async with running_api(tmp_path):
            pass
    assert exit_code(caught.value) == 6
    assert "streams create --accept-loss" in str(caught.value)
    assert (tmp_path / RECORD_FILE).read_bytes() == before


@pytest.mark.usefixtures("quick_proof")
async def test_a_shorter_stream_than_the_recorded_one_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for other streams than the log, such as seals."""
    monkeypatch.setattr(stream_record, "TRUNCATION_POLL_SECONDS", 0.02)
    record = StreamRecord(tmp_path / RECORD_FILE, clock=lambda: 0)
    record.replace([report(5)])
    answers = [report(3), report(4), report(5)]

    async def late() -> list[StreamReport]:
        return [answers.pop(0)]

    # A leader that catches up within the time is believed, and what it said last is what is recorded.
    assert await record.verify(late) == ((report(5),), True)
    assert not answers

    async def short() -> list[StreamReport]:
        return [report(4)]

    with pytest.raises(
        LogTruncated, match=r"JOBS ends at 4, .* recorded 5 at .*: its end is lost\. Use the right"
    ):
        await record.verify(short)


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize("changes", [False, True], ids=["no leader that is current", "another one each time"])
async def test_a_shorter_stream_without_a_stable_leader_is_not_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, changes: bool
) -> None:
    """A cluster that is starting proves nothing, however long it reports less."""
    monkeypatch.setattr(stream_record, "TRUNCATION_POLL_SECONDS", 0.02)
    monkeypatch.setattr(stream_record, "TRUNCATION_GIVE_UP_SECONDS", 0.4)
    record = StreamRecord(tmp_path / RECORD_FILE, clock=lambda: 0)
    record.replace([report(5)])
    looks = 0

    async def short() -> list[StreamReport]:
        nonlocal looks
        looks += 1
        return [report(4, f"nats-{looks}" if changes else "")]

    with pytest.raises(LogBehind, match=r"JOBS ends at 4, .* recorded 5 at .*Z; not counted as lost yet"):
        await record.verify(short)
    assert looks > 3
    assert record.read()["JOBS"].last_sequence == 5


async def test_a_view_of_another_log_is_rebuilt(tmp_path: Path) -> None:
    """The record determines the log that the view must be of."""
    await serve_once(tmp_path)
    with sqlite3.connect(tmp_path / "view.sqlite") as view:
        view.execute("UPDATE checkpoint SET epoch = '2026-01-02T03:04:05Z'")
    view.close()
    async with running_api(tmp_path) as (service, _):
        await service.projector.wait_live()
        assert service.projector.rebuilds == 1
        assert (await service.view.checkpoint()).sequence == JOBS
    assert (tmp_path / "view.sqlite.damaged-1").exists()


def change_record(directory: Path, name: str, **fields: object) -> None:
    path = directory / RECORD_FILE
    document = json.loads(path.read_bytes())
    document["streams"][name].update(fields)
    path.write_text(json.dumps(document))


async def test_empty_data_directory_has_no_evidence(tmp_path: Path) -> None:
    """A first start is not refused."""
    assert not await evidence_in(tmp_path, store=tmp_path / "nats", view=tmp_path / "view.sqlite")("JOBS")


async def test_compression_of_an_embedded_log_ends_at_the_start(tmp_path: Path) -> None:
    """nats-server, which compresses until it reopens the files, is restarted; readiness warns."""
    async with EmbeddedServer(tmp_path / "nats") as server:
        admin = await unchecked(server.url)
        for each in STREAMS:
            config = each.config(StreamSettings(), replicas=1) | {"compression": "s2", "metadata": {}}
            assert "error" not in await ask(admin, f"STREAM.CREATE.{each.name('JOBS')}", config)
        await admin.close()
    async with running_api(tmp_path) as (service, client):
        assert all(each.compression == "none" for each in service.streams)
        await service.projector.wait_live()
        answer = await client.get("http://127.0.0.1/readyz?verbose")
        assert "jobledger streams rewrite" in answer.text
        assert answer.status_code == 200
