"""A server that hangs, cannot write, or lost its owner is restarted or ended, and nothing is lost."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.embedded import process, server as embedded
from jobledger.store.embedded.generation import RECOVERY_FOLDER
from jobledger.store.embedded.stream_states import read_known
from jobledger.store.log import NO_JOB, Appended
from jobledger.store.model.errors import EmbeddedServerError
from tests.support.logs import draft, eventually, fill
from tests.support.nats_servers import start_owner

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
may_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small file system"
)


quickly = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes in quick succession."""
    monkeypatch.setattr(embedded, "HEALTH_SECONDS", 0.05)
    monkeypatch.setattr(embedded, "HEALTH_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@quickly
async def test_a_server_that_hangs_is_restarted(
    server: EmbeddedServer, jetstream_log: JetStreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopped process (SIGSTOP) is replaced on the same port; the log continues."""
    await fill(jetstream_log, 5)
    url, pid = server.url, server.pid
    with caplog.at_level(logging.WARNING, "jobledger.store"):
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: server.restarts == 1, within_seconds=30)
    assert (server.url, server.problem) == (url, "")
    assert server.pid != pid
    (line,) = [each.getMessage() for each in caplog.records if each.name == "jobledger.store"]
    assert line.startswith("restarting the embedded nats-server: it has not answered 4 probes")
    async with asyncio.timeout(20):
        assert await jetstream_log.append(draft("after"), expect=NO_JOB) == Appended(6)


@quickly
async def test_a_server_that_pauses_for_a_moment_is_left_alone(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer missed probes than the limit do not cause a restart."""
    monkeypatch.setattr(embedded, "HEALTH_TIMEOUT_SECONDS", 2.0)
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    os.kill(pid, signal.SIGCONT)
    last = server.directory / RECOVERY_FOLDER / "known.json"
    log = await JetStreamLog.connect(server.url)
    await fill(log, 3)
    await eventually(lambda: any(each.last == 3 for each in read_known(last.parent).values()))
    await log.close()
    assert (server.pid, server.restarts) == (pid, 0)


@may_mount
@quickly
async def test_a_server_wedged_by_a_full_disk_is_restarted_once_there_is_space(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not before: while the disk is full a restart would not help, and would end reads."""
    monkeypatch.setattr(embedded, "RESTART_SPARE_BYTES", 8 * 1_048_576)
    ballast = small_disk / "ballast"
    async with EmbeddedServer(small_disk / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        await fill(log, 10)
        pid, known = server.pid, 10
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 65_536))
        appending: list[asyncio.Task[object]] = []
        for number in range(40):
            event = draft(f"big-{number}", b"x" * 8_000)
            appending.append(asyncio.create_task(log.append(event, expect=NO_JOB)))
        await eventually(lambda: "is full" in server.problem, within_seconds=20)
        assert (server.pid, server.restarts, server.wedged) == (pid, 0, server.problem)
        assert await log.read_at(1) is not None
        ballast.unlink()
        await eventually(lambda: server.restarts == 1, within_seconds=30)
        assert not server.wedged
        answers = await asyncio.gather(*appending, return_exceptions=True)
        acknowledged = {each.sequence for each in answers if isinstance(each, Appended)}
        async with asyncio.timeout(30):
            after = await log.append(draft("after"), expect=NO_JOB)
        assert isinstance(after, Appended)
        assert after.sequence > max(acknowledged, default=known)
        for sequence in (*range(1, known + 1), *acknowledged, after.sequence):
            assert await log.read_at(sequence) is not None
        await log.close()
    assert sum("critical write error" in each.getMessage().lower() for each in caplog.records) >= 1


@linux
async def test_a_stopped_server_without_an_owner_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After its owner was killed while it was stopped (SIGSTOP), the next start ends it and uses its log."""
    parent, pid = await start_owner(tmp_path / "nats")
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    (orphan,) = process.find_orphans(tmp_path / "nats" / "nats.conf", parent.pid)
    assert (orphan.pid, orphan.is_stopped) == (pid, True)
    with caplog.at_level(logging.WARNING, "jobledger.store"):
        async with EmbeddedServer(tmp_path / "nats") as server:
            assert server.pid != pid
    assert f"and stopped (process {pid})" in caplog.text
    assert not Path(f"/proc/{pid}").exists() or process._state_of(pid)[0] == "Z"


@linux
async def test_server_with_a_living_owner_is_not_an_orphan(tmp_path: Path) -> None:
    """Also if it is stopped: its owner restarts it. The message names the owner."""
    parent, pid = await start_owner(tmp_path / "nats")
    try:
        os.kill(pid, signal.SIGSTOP)
        assert process.find_orphans(tmp_path / "nats" / "nats.conf", parent.pid) == []
        with pytest.raises(EmbeddedServerError, match=f"another Jobledger \\(process {parent.pid}\\)"):
            await EmbeddedServer(tmp_path / "nats").start()
        os.kill(pid, signal.SIGCONT)
    finally:
        parent.kill()
        await parent.wait()


@linux
async def test_server_of_another_directory_is_not_an_orphan(tmp_path: Path) -> None:
    """Only the process that was started with this directory's configuration is ended."""
    parent, pid = await start_owner(tmp_path / "nats")
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    try:
        assert process.find_orphans(tmp_path / "other" / "nats.conf", parent.pid) == []
    finally:
        os.kill(pid, signal.SIGKILL)


@quickly
async def test_a_damaged_log_keeps_the_server_down(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """A server that would lose events at its restart is not restarted, and the reason is reported."""
    await fill(jetstream_log, 20)
    (block,) = server.directory.glob("jetstream/*/streams/JOBS/msgs/*.blk")
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.write_bytes(content)
    os.kill(server.pid, signal.SIGKILL)
    await eventually(lambda: "is damaged, so it is not started" in server.problem, within_seconds=20)
    assert block.read_bytes() == bytes(content)
    assert server.restarts == 0
    with pytest.raises(EmbeddedServerError, match="not running"):
        _ = server.pid


async def test_the_log_of_the_server_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is rotated by size, the number of files is limited, and other users cannot read them."""
    monkeypatch.setattr(embedded, "NATS_LOG_MAX_BYTES", 4_096)
    monkeypatch.setattr(embedded, "NATS_LOG_MAX_FILES", 3)
    for _ in range(12):
        async with EmbeddedServer(tmp_path):
            pass
    files = list(tmp_path.glob("nats.log*"))
    assert 1 < len(files) <= 3
    assert all(path.stat().st_size < 8_192 and path.stat().st_mode & 0o777 == 0o600 for path in files)
    shutil.rmtree(tmp_path)


async def test_suspected_server_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers every probe; only appends show that it does not store (`Monitor`)."""
    monkeypatch.setattr(embedded, "HEALTH_SECONDS", 0.02)
    async with EmbeddedServer(tmp_path) as server:
        before = server.pid
        server.suspect("appends are not answered")
        await eventually(lambda: server.restarts == 1)
        assert server.pid != before
        assert not server.problem
    assert "restarting the embedded nats-server: appends are not answered" in caplog.text


@quickly
@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError("no such luck")])
async def test_a_restart_that_fails_after_its_start_leaves_no_server_on_the_files(
    server: EmbeddedServer, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Otherwise the next one would write to the same files. It is tried again, also after a defect."""
    await fill(jetstream_log, 5)
    accept, failed = server._accept_start, list[int]()

    def fail_once(*arguments: object) -> None:
        if not failed:
            failed.append(server.pid)
            raise error
        accept(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(server, "_accept_start", fail_once)
    os.kill(server.pid, signal.SIGKILL)
    await eventually(lambda: server.restarts == 1, within_seconds=30)
    with pytest.raises(ProcessLookupError):
        os.kill(failed[0], 0)
    async with asyncio.timeout(20):
        assert await jetstream_log.append(draft("after"), expect=NO_JOB) == Appended(6)
    assert (server.problem, server.supervision_problem) == ("", "")


@quickly
async def test_supervision_that_fails_starts_again(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported until it works again."""

    def fail() -> dict[str, int]:
        raise RuntimeError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(server._generation, "expiring", fail)
        await eventually(lambda: "a defect" in server.supervision_problem)
    await eventually(lambda: not server.supervision_problem)
    assert any(each.levelname == "CRITICAL" and each.exc_info for each in caplog.records)
    server.suspect("appends are not answered")
    await eventually(lambda: server.restarts == 1, within_seconds=30)
