"""Readiness: the log accepts appends and returns them; every failure is named within seconds."""

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from jobledger import LogUnavailable
from jobledger.projections.results import Troubles
from jobledger.service.limits import DISK_MIN_FREE_FRACTION
from jobledger.service.server.checks import CHECKS, Disks, DiskSpace, Observation, full_disk_reason
from jobledger.service.settings import Settings
from jobledger.service.wiring import Service
from jobledger.store.jetstream.declarations import COMPRESSED_KEY
from jobledger.store.jetstream.heartbeat import LogCondition, replica_id
from jobledger.store.model.limits import HEARTBEAT_BYTES, HEARTBEAT_SECONDS
from tests.support.api import job_body, running_api
from tests.support.disks import fill, small_disk
from tests.support.logs import ask, eventually
from tests.support.nats_servers import nats_server
from tests.support.readiness import AT_ONCE_SECONDS, FAULT_SECONDS, ROOT, Watched, watched
from tests.support.service_process import stopped


@pytest.mark.slow
async def test_server_that_hangs_is_named_and_service_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGSTOP of nats-server: 503 within 10 s, one log line, and one after the recovery."""
    caplog.set_level("INFO", "jobledger.service")
    async with (
        nats_server(tmp_path / "nats") as port,
        watched(tmp_path / "data", nats_url=f"nats://127.0.0.1:{port}") as at,
    ):
        with stopped(_pid(tmp_path / "nats")):
            await at.fails("append", "not acknowledged")
            await at.fails("log", "no answer")
        await at.recovers()
        lines = [line for line in caplog.messages if "check append" in line]
        assert len(lines) == 2
        assert lines[0].startswith("not ready: check append failed: ")
        assert lines[1] == "check append recovered"


async def test_missing_permission_to_append_is_named(tmp_path: Path) -> None:
    """The server does not answer such an append; the reason names the subject."""
    permissions = {"publish": {"deny": ["jobs.>"]}}
    user = {"user": "a", "password": "b", "permissions": permissions}
    async with nats_server(tmp_path / "nats", authorization={"users": [user]}) as port:
        url = f"nats://a:b@127.0.0.1:{port}"
        async with running_api(tmp_path / "data", nats_url=url) as (service, client):
            reason = await Watched(service, client).fails("append")
            assert "this NATS user may not publish to jobs." in reason


@pytest.mark.slow
async def test_full_stream_is_named_before_and_after_it_refuses(tmp_path: Path) -> None:
    """A log that has reached its max_bytes: 503, with the limit to raise."""
    async with (
        nats_server(tmp_path / "nats") as port,
        watched(tmp_path / "data", nats_url=f"nats://127.0.0.1:{port}") as at,
    ):
        info = await ask(at.service.log, "STREAM.INFO.JOBS")
        config = info["config"] | {"max_bytes": 20_000}
        assert "error" not in await ask(at.service.log, "STREAM.UPDATE.JOBS", config)
        number = 0
        while (answer := await at.write(f"job-{number}")).status_code == 200:
            number += 1
        assert answer.json()["Code"] == "LogRefused"
        await at.fails("capacity", "raise the log's max_bytes")
        assert "error" not in await ask(at.service.log, "STREAM.UPDATE.JOBS", config | {"max_bytes": -1})
        await at.recovers()


async def test_full_account_is_named(tmp_path: Path) -> None:
    """The account's storage limit, as far as the server reports it."""
    config: dict[str, Any] = {
        "accounts": {
            "JOBS": {"jetstream": {"max_disk": 60_000}, "users": [{"user": "a", "password": "b"}]},
        }
    }
    async with (
        nats_server(tmp_path / "nats", **config) as port,
        watched(tmp_path / "data", nats_url=f"nats://a:b@127.0.0.1:{port}") as at,
    ):
        number = 0
        while (await at.write(f"job-{number}")).status_code == 200:
            number += 1
        await at.fails("capacity", "raise the NATS account's storage limit")


@pytest.mark.slow
async def test_heartbeat_stream_that_was_deleted_is_created_again(tmp_path: Path) -> None:
    """It has no data to lose; each service has one message there."""
    async with watched(tmp_path) as at:
        await ask(at.service.log, "STREAM.DELETE.JOBS_HEARTBEAT")

        async def back() -> bool:
            info = await ask(at.service.log, "STREAM.INFO.JOBS_HEARTBEAT")
            return bool(info.get("state", {}).get("messages") == 1 and info["state"]["last_seq"] > 1)

        await eventually(back, within_seconds=3 * FAULT_SECONDS)
        config = (await ask(at.service.log, "STREAM.INFO.JOBS_HEARTBEAT"))["config"]
        assert (config["storage"], config["max_msgs_per_subject"]) == ("file", 1)
        assert config["compression"] == "none"
        await at.recovers()


async def test_streams_are_checked_while_the_service_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart, a rewrite ends the compression warning, and a missing stream is named."""
    monkeypatch.setattr("jobledger.service.server.monitor.STREAMS_POLL_SECONDS", 0.0)
    async with watched(tmp_path) as at:
        log = at.service.log
        config = (await ask(log, "STREAM.INFO.JOBS_KEYS"))["config"]
        noted = {"metadata": {**config.get("metadata", {}), COMPRESSED_KEY: "7"}}
        assert "error" not in await ask(log, "STREAM.UPDATE.JOBS_KEYS", config | noted)

        async def warned(check: str, words: str) -> bool:
            return words in (await at.problems()).get(check, "")

        await eventually(lambda: warned("compression", "JOBS_KEYS: blocks may be compressed"))
        await log.note_rewritten()

        async def quiet() -> bool:
            return "compression" not in await at.problems()

        await eventually(quiet)
        assert (await ask(log, "STREAM.DELETE.JOBS_SEALS"))["success"]
        await eventually(lambda: warned("streams", "JOBS_SEALS is missing"))


async def test_log_that_was_deleted_is_named(tmp_path: Path) -> None:
    """Even without writes."""
    async with watched(tmp_path) as at:
        await ask(at.service.log, "STREAM.DELETE.JOBS")
        await at.fails("append")
        await at.fails("log")


async def test_stalled_log_reader_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No event arrives although the next one is readable: a new consumer reads it."""
    monkeypatch.setattr("jobledger.service.server.monitor.STALL_SECONDS", 1.0)
    monkeypatch.setattr("jobledger.store.jetstream.log_reader._SILENCE_SECONDS", 60.0)
    async with watched(tmp_path) as at:
        feed: Any = at.service.projector._reader
        connection = at.service.log._connection
        # What arrives for the present consumer is lost; its silence would be noticed later.
        await connection._subscriptions[feed._inbox.removesuffix(".")].unsubscribe()
        sequence = (await at.write("second")).json()["Sequence"]
        await at.service.projector.wait_for(sequence, FAULT_SECONDS)
        assert any("restarting the log reader" in line for line in caplog.messages)
        assert at.service.monitor.feed_restarts >= 1
        await at.recovers()


@pytest.mark.parametrize("caught_up", [True, False])
async def test_event_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caught_up: bool
) -> None:
    """Also for a view that never caught up: the check names the event."""
    monkeypatch.setattr("jobledger.service.server.monitor.STALL_SECONDS", 0.5)
    async with watched(tmp_path) as at:
        monitor, projector = at.service.monitor, at.service.projector
        await projector.wait_live()
        if not caught_up:
            monitor.latest = type(monitor.latest)()
        last = (await at.service.log.info()).last_sequence
        await projector.wait_for(last)
        monkeypatch.setattr(projector, "_sequence", last - 1)

        async def missing(_: int) -> None:
            return None

        monkeypatch.setattr(at.service.log, "read_at", missing)
        await at.fails("stall", f"damage at event {last}: it is missing")


@pytest.mark.slow
async def test_low_disk_is_named_and_appends_stop_before_it_is_full(tmp_path: Path) -> None:
    """Not ready below the first threshold; below the second, appends are refused until there is space."""
    with small_disk(tmp_path / "disk", megabytes=40) as disk:
        async with watched(disk / "data") as at:
            filler = fill(disk, leave_bytes=3 * 1_048_576)
            await at.fails("disk", "disk_min_free_bytes")
            assert (await at.write("second")).status_code == 200
            filler.unlink()
            await at.recovers()
            kept = {"Idempotency-Key": "kept"}
            first = await at.client.put("/jobs", json=job_body("kept"), headers=kept)
            filler = fill(disk, leave_bytes=300_000)
            await at.fails("disk", "disk_stop_free_bytes")
            await at.refuses_at_once("third", "disk_stop_free_bytes")
            keyed = await asyncio.wait_for(
                at.client.put("/jobs", json=job_body("keyed"), headers={"Idempotency-Key": "k"}),
                AT_ONCE_SECONDS,
            )
            assert keyed.json()["Code"] == "LogUnavailable"
            assert "disk_stop_free_bytes" in keyed.json()["Message"]
            again = await at.client.put("/jobs", json=job_body("kept"), headers=kept)
            assert (again.status_code, again.content) == (200, first.content), "it is in the log already"
            filler.unlink()
            await at.recovers()
            assert (await at.write("third")).status_code == 200


async def test_full_disk_under_the_view_is_named(tmp_path: Path) -> None:
    """Appends continue: the log is on another disk."""
    with small_disk(tmp_path / "disk", megabytes=40) as disk:
        async with (
            nats_server(tmp_path / "nats") as port,
            watched(disk / "data", nats_url=f"nats://127.0.0.1:{port}") as at,
        ):
            filler = fill(disk, leave_bytes=3 * 1_048_576)
            await at.fails("disk", str(disk), "disk_min_free_bytes")
            assert (await at.write("second")).status_code == 200
            filler.unlink()
            await at.recovers()


async def test_disk_that_hangs_is_named_and_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network mount that does not answer blocks one thread, however often it is read."""
    monkeypatch.setattr("jobledger.service.server.checks.OBSERVE_TIMEOUT_SECONDS", 0.1)
    released = threading.Event()
    statvfs = os.statvfs

    def hangs(path: Any) -> os.statvfs_result:
        released.wait()
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", hangs)
    disks, before = Disks([tmp_path]), threading.active_count()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await disks.read()
    assert threading.active_count() == before + 1
    released.set()
    found: list[DiskSpace] = []

    async def answers() -> bool:
        with suppress(TimeoutError):
            found[:] = await disks.read()
        return bool(found)

    await eventually(answers)
    assert found[0].size_bytes > 0


def test_small_disk_has_smaller_thresholds() -> None:
    """A tenth of a small disk is enough."""
    settings = Settings()
    small = DiskSpace(Path("/"), 30_000_000, 100_000_000, holds_log=True)
    assert small.required_bytes(settings.disk_min_free_bytes) == 100_000_000 * DISK_MIN_FREE_FRACTION
    assert not full_disk_reason(settings, [small])
    large = DiskSpace(Path("/"), 30_000_000, 100_000_000_000, holds_log=True)
    assert "30.0 MB free, less than 67.1 MB (disk_stop_free_bytes)" in full_disk_reason(settings, [large])
    elsewhere = DiskSpace(Path("/"), 0, 100_000_000_000)
    assert not full_disk_reason(settings, [elsewhere])


async def test_many_probes_make_one_test_append(tmp_path: Path) -> None:
    """A service appends once in HEARTBEAT_SECONDS, and one message stays."""
    async with running_api(tmp_path) as (service, client):
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(10):
            await asyncio.gather(*(client.get(f"{ROOT}/readyz") for _ in range(10)))
        beats = service.probe._beats
        assert 1 <= beats <= 1 + (loop.time() - began) / HEARTBEAT_SECONDS
        state = (await ask(service.log, "STREAM.INFO.JOBS_HEARTBEAT"))["state"]
        assert (state["messages"], state["last_seq"]) == (1, beats)
        stored = await ask(service.log, "STREAM.MSG.GET.JOBS_HEARTBEAT", {"seq": beats})
        assert stored["message"]["subject"] == f"jobledger.heartbeat.{replica_id(tmp_path)}"
        assert HEARTBEAT_BYTES >= 2_048, "more than the room that a full disk leaves in a block"


async def test_election_does_not_suspend_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While heartbeats fail for less than the limit, appends wait."""
    async with running_api(tmp_path) as (service, _):
        monitor = service.monitor

        async def fails() -> None:
            raise LogUnavailable("no leader")

        now = asyncio.get_running_loop().time
        ahead = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now() + ahead)
        monkeypatch.setattr(service.log.publisher, "_now", lambda: now() + ahead)
        monkeypatch.setattr(service.probe, "beat", fails)
        for seconds in (0.0, 5.0, 9.0):
            ahead = seconds
            await monitor.observe()
            assert not service.log.refusal
            assert any(check.name == "append" and check.problem for check in monitor.checks)
        ahead = 11.5
        await monitor.observe()
        assert service.log.refusal == "no leader"
        # An append that is acknowledged proves that the log works: only the heartbeats do not.
        service.log.publisher._breaker.acknowledge(service.log.publisher._now())
        ahead = 13.0
        await monitor.observe()
        assert not service.log.refusal


def test_every_check_is_documented() -> None:
    """An operator can look up `[-]stall failed`."""
    text = (Path(__file__).parents[3] / "docs" / "OPERATIONS.md").read_text()
    for check in CHECKS:
        assert f"| `{check.name}` " in text, check.name


def test_a_recorded_missing_last_event_does_not_make_the_service_unready() -> None:
    """`damage` warns of it; an unrecorded one fails the check."""
    read = next(check for check in CHECKS if check.name == "read")
    condition = LogCondition(last_sequence=43, missing_events=9, size_bytes=1, max_bytes=-1)
    service = cast("Service", None)
    lost = "event 43 is the last one of the stream JOBS and cannot be read"
    unmet = Observation(condition=condition, read_error=lost)
    assert read.examine(service, unmet) == lost
    earlier = Troubles(damaged_events=1, holes=1, first_damaged=3, last_damaged=3)
    assert read.examine(service, structs.replace(unmet, troubles=earlier)) == lost
    recorded = Troubles(damaged_events=9, holes=1, first_damaged=35, last_damaged=43)
    assert read.examine(service, structs.replace(unmet, troubles=recorded)) == ""


def _pid(directory: Path) -> int:
    """The server that serves this directory."""
    (file,) = (directory / "ports").glob("*.ports")
    return int(file.stem.rpartition("_")[2])


def test_events_lost_below_the_checkpoint_of_the_view_are_a_warning() -> None:
    """The view does not read them again; the leader counts fewer events than sequences."""
    damage = next(check for check in CHECKS if check.name == "damage")
    condition = LogCondition(last_sequence=45, missing_events=9, size_bytes=1, max_bytes=-1)
    service = cast("Service", None)
    assert damage.examine(service, Observation(condition=condition)).startswith("9 events are missing")
    met = Observation(condition=condition, troubles=Troubles(damaged_events=9, holes=1, first_damaged=24))
    assert "the first is 24" in damage.examine(service, met)
    whole = LogCondition(last_sequence=45, size_bytes=1, max_bytes=-1)
    assert damage.examine(service, Observation(condition=whole)) == ""
