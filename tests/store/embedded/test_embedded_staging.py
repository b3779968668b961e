"""Batches of the embedded server are staged in memory, and on disk where that is not possible."""

import asyncio
import os
import select
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.embedded import server as embedded, staging
from jobledger.store.log import NO_JOB, Appended, PendingEvent
from jobledger.store.model.limits import STAGING_MIN_FREE_BYTES, STAGING_STOP_FREE_BYTES
from tests.support.batches import send_batch
from tests.support.disks import fill, small_disk
from tests.support.logs import draft, eventually
from tests.support.nats_servers import start_owner

SHM = Path("/dev/shm")
DISK_MEGABYTES = 64

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not staging.is_tmpfs(SHM), reason="this machine has no tmpfs"
)


@pytest.fixture
def tmpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only tmpfs that the server may use: one as small as in a container."""
    with small_disk(tmp_path / "tmpfs", megabytes=DISK_MEGABYTES) as disk:
        monkeypatch.setattr(staging, "default_roots", lambda: (disk,))
        yield disk


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory on a tmpfs, which only this test uses."""
    with TemporaryDirectory(dir=SHM) as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@asynccontextmanager
async def started(
    directory: Path, *, stage_in_memory: bool = True
) -> AsyncIterator[tuple[EmbeddedServer, JetStreamLog]]:
    """Run a server with a log, staged as `serve` does."""
    async with EmbeddedServer(directory, stage_in_memory=stage_in_memory) as server:
        log = await JetStreamLog.connect(server.url)
        try:
            await server.stage()
            yield server, log
        finally:
            await log.close()


def batches_of(directory: Path) -> Path:
    """Return the folder where nats-server stages the batches of the log."""
    return directory / "jetstream" / "$G" / "streams" / "JOBS" / "batches"


def drafts(name: str, count: int) -> list[PendingEvent]:
    """Return first events of new jobs."""
    return [draft(f"{name}-{number}") for number in range(count)]


async def assert_batch(log: JetStreamLog, name: str, *, first: int, count: int = 8) -> None:
    """Assert that a batch is stored at these sequences."""
    ack = await send_batch(log, drafts(name, count))
    assert ack is not None
    assert ack.error is None
    assert (ack.seq, ack.count) == (first + count - 1, count)


async def test_batches_are_staged_on_a_private_tmpfs_while_the_server_runs(tmp_path: Path) -> None:
    """The link is made for the log's stream only, and it and its target are removed at the end."""
    async with started(tmp_path) as (server, log):
        batches = batches_of(tmp_path)
        target = batches.readlink()
        assert staging.is_tmpfs(target)
        assert stat.S_IMODE(target.parent.stat().st_mode) == stat.S_IMODE(target.stat().st_mode) == 0o700
        await assert_batch(log, "a", first=1)
        assert batches.is_symlink()
        assert list(target.iterdir()) == []
        assert [link for link in tmp_path.rglob("batches") if link.is_symlink()] == [batches]
        assert server.staging_problem == ""
    assert not batches.is_symlink()
    assert not target.parent.exists()


async def test_staging_on_disk_uses_no_tmpfs(tmp_path: Path) -> None:
    """With `batch_staging` = `disk` nats-server's own folder is used, and that is no problem."""
    async with started(tmp_path, stage_in_memory=False) as (server, log):
        await assert_batch(log, "a", first=1)
        assert batches_of(tmp_path).is_dir()
        assert not batches_of(tmp_path).is_symlink()
        assert server.staging_problem == ""


async def test_new_stream_is_linked_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that creates the log gets the link by the next probe, also if a batch came first."""
    monkeypatch.setattr(embedded, "HEALTH_SECONDS", 0.02)
    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        await assert_batch(log, "a", first=1)
        await eventually(lambda: batches_of(tmp_path).is_symlink())
        await assert_batch(log, "b", first=9)
        await log.close()


async def test_restarted_server_stages_in_memory_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-server removes the link at each start; it is there again, and what was staged is not."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    async with started(tmp_path) as (server, log):
        target = batches_of(tmp_path).readlink()
        (target / "half-staged").mkdir()
        restarted = server.restarts
        os.kill(server.pid, signal.SIGKILL)
        assert await log.append(draft("a"), expect=NO_JOB) == Appended(1)
        await eventually(lambda: server.restarts == restarted + 1)
        assert batches_of(tmp_path).is_symlink()
        assert batches_of(tmp_path).readlink() != target
        assert not target.exists()
        await assert_batch(log, "b", first=2)


async def test_directory_of_a_killed_service_is_removed_by_the_next_start(
    tmp_path: Path, runtime: Path
) -> None:
    """Any service of the user removes it; that of a running service stays."""
    owner, pid = await start_owner(tmp_path / "one")
    (abandoned,) = runtime.iterdir()
    handle = os.pidfd_open(pid)
    async with EmbeddedServer(tmp_path / "two"):
        assert abandoned in set(runtime.iterdir())
        owner.kill()
        await owner.wait()
        await asyncio.to_thread(select.select, [handle], [], [], 10)
    os.close(handle)
    assert list(runtime.iterdir()) == [abandoned]
    async with EmbeddedServer(tmp_path / "two"):
        (left,) = runtime.iterdir()
        assert left != abandoned


async def test_link_in_a_restored_copy_is_not_followed(tmp_path: Path) -> None:
    """A copy of the directory of a killed service has its link: the copy leaves the target alone."""
    async with started(tmp_path / "one") as (_, log):
        await assert_batch(log, "a", first=1)
        shutil.copytree(tmp_path / "one" / "jetstream", tmp_path / "copy" / "jetstream", symlinks=True)
        used = batches_of(tmp_path / "one").readlink()
        (used / "in-use").mkdir()
        assert batches_of(tmp_path / "copy").readlink() == used
        async with started(tmp_path / "copy") as (_, copied):
            assert batches_of(tmp_path / "copy").readlink() != used
            await assert_batch(copied, "b", first=9)
        assert (used / "in-use").is_dir()
        (used / "in-use").rmdir()


async def test_dangling_link_stops_no_start(tmp_path: Path) -> None:
    """After a power loss the target is gone; with staging on disk the link is replaced as well."""
    async with started(tmp_path) as (_, log):
        await assert_batch(log, "a", first=1)
    batches_of(tmp_path).symlink_to(SHM / f"{staging.STAGING_PREFIX}gone" / "JOBS")
    async with started(tmp_path, stage_in_memory=False) as (_, log):
        await assert_batch(log, "b", first=9)
        assert not batches_of(tmp_path).is_symlink()


async def test_machine_without_a_tmpfs_stages_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason names each place that was tried, and is logged once."""
    monkeypatch.setattr(staging, "default_roots", lambda: (tmp_path, tmp_path / "none"))
    async with started(tmp_path / "nats") as (server, log):
        await assert_batch(log, "a", first=1)
        assert f"{tmp_path} is not a tmpfs; {tmp_path / 'none'} does not exist" in server.staging_problem
        server._staging.check()
    assert [each.levelname for each in caplog.records if "staged on disk" in each.message] == ["WARNING"]


async def test_small_tmpfs_is_not_used(tmp_path: Path, tmpfs: Path) -> None:
    """Below STAGING_MIN_FREE_BYTES batches are staged on disk; from there on in memory."""
    filler = fill(tmpfs, leave_bytes=STAGING_MIN_FREE_BYTES - 4096)
    async with started(tmp_path / "nats") as (server, log):
        assert "less than" in server.staging_problem
        await assert_batch(log, "a", first=1)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - 8192)
        server._staging.check()
        assert server.staging_problem == ""
        await assert_batch(log, "b", first=9)
        assert batches_of(tmp_path / "nats").readlink().is_relative_to(tmpfs)


async def test_filling_tmpfs_moves_the_staging_to_disk_and_back(tmp_path: Path, tmpfs: Path) -> None:
    """The reserve that is left has room for the batches that are being staged."""
    async with started(tmp_path / "nats") as (server, log):
        filler = fill(tmpfs, leave_bytes=STAGING_STOP_FREE_BYTES)
        server._staging.check()
        assert server.staging_problem == ""
        filler.write_bytes(b"")
        filler = fill(tmpfs, leave_bytes=STAGING_STOP_FREE_BYTES - 4096)
        server._staging.check()
        assert "bytes free" in server.staging_problem
        assert list(tmpfs.glob(f"{staging.STAGING_PREFIX}*")) == []
        await assert_batch(log, "a", first=1)
        filler.unlink()
        server._staging.check()
        await assert_batch(log, "b", first=9)
        assert batches_of(tmp_path / "nats").is_symlink()


@pytest.mark.parametrize("emptied", ["stream", "all"])
async def test_emptied_staging_is_created_again(tmp_path: Path, emptied: str) -> None:
    """While it is gone a batch is refused and nothing is written, and its events are sent one by one."""
    async with started(tmp_path) as (server, log):
        target = batches_of(tmp_path).readlink()
        shutil.rmtree(target.parent if emptied == "all" else target)
        ack = await send_batch(log, drafts("a", 4))
        assert ack is not None
        assert ack.error is not None
        assert (await log.info()).last_sequence == 0
        assert await log.append(draft("a-0"), expect=NO_JOB) == Appended(1)
        await asyncio.to_thread(server._staging.check)
        await assert_batch(log, "b", first=2)
        assert batches_of(tmp_path).is_symlink()


def test_a_folder_that_the_server_removes_meanwhile_does_not_end_the_start(tmp_path: Path) -> None:
    """nats-server removes an empty `streams` folder while it starts."""
    folder = tmp_path / "$G" / "streams"
    removed = threading.Event()

    def remove() -> None:
        for _ in range(1_000):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder)
        removed.set()

    server = threading.Thread(target=remove)
    server.start()
    try:
        files = staging.Staging(tmp_path)
        files._folder = tmp_path  # without one, nothing is looked for
        while not removed.is_set():
            files.link()
    finally:
        server.join()


def test_a_root_that_cannot_be_examined_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server starts all the same, and the reason is reported."""
    monkeypatch.setattr(staging, "default_roots", lambda: (tmp_path / ("x" * 300),))  # ENAMETOOLONG
    files = staging.Staging(tmp_path)
    files.reset()
    assert files.folder is None
    assert "cannot be used: File name too long" in files.problem


async def test_a_start_does_not_wait_for_the_staging_on_the_event_loop(tmp_path: Path) -> None:
    """Files are linked in a thread: a slow disk, or a check in progress, stops no other task."""
    async with started(tmp_path) as (server, _):
        changing = server._staging._changing
        changing.acquire()
        release = threading.Timer(10, changing.release)  # in case that the loop waits
        release.start()
        waiting = asyncio.create_task(server._wait_ready(tmp_path / "ports"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert changing.locked()
        release.cancel()
        changing.release()
        assert await waiting == int(server.address.rpartition(":")[2])


async def test_a_check_of_the_staging_that_fails_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And again after one that did not fail."""
    async with started(tmp_path) as (server, _):

        def fail() -> None:
            raise OSError("too many open files")

        for broken in (True, True, False, True):
            with monkeypatch.context() as patched:
                if broken:
                    patched.setattr(server._staging, "check", fail)
                await server.stage()
    lines = [each.getMessage() for each in caplog.records if "cannot be checked" in each.getMessage()]
    assert lines == 2 * ["the staging of batches cannot be checked, trying again: too many open files"]


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[staging.Staging]:
    """A staging with a stream in whose folder a batch is always being staged."""
    monkeypatch.setattr(staging, "LINK_SECONDS", 0.01)
    stream = tmp_path / "$G" / "streams" / "JOBS"
    (stream / "batches" / "open").mkdir(parents=True)
    (stream / staging.META_FILE).write_text('{"allow_atomic":true,"num_replicas":1,"storage":"file"}')
    files = staging.Staging(tmp_path)
    files._create()
    yield files
    files.close()


def test_looking_for_a_moment_between_two_batches_is_bounded(
    busy: staging.Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it failed, the next check only tries once; later ones look again."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    busy.check()
    assert waits
    looked = len(waits)
    busy.check()
    assert len(waits) == looked
    busy._search_at = time.monotonic()  # after LINK_RETRY_SECONDS
    busy.check()
    assert len(waits) > looked


def test_a_folder_that_stays_in_use_is_reported_until_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that nats-server cannot end keeps its folder until the server is restarted."""
    monkeypatch.setattr(staging, "LINK_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(staging, "LINK_SECONDS", 0.001)
    stream = tmp_path / "$G" / "streams" / "JOBS"
    (stream / "batches" / "open").mkdir(parents=True)
    (stream / staging.META_FILE).write_text('{"allow_atomic":true,"num_replicas":1,"storage":"file"}')
    files = staging.Staging(tmp_path)
    for count in range(1, staging.LINK_FAILURES_REPORTED + 1):
        assert files.problem == ""
        files.check()
        assert files._unlinked.attempts == count
    assert f"a batch keeps {stream / 'batches'}" in files.problem
    (stream / "batches" / "open").rmdir()
    files.check()
    assert (files.problem, (stream / "batches").is_symlink()) == ("", True)
    files.close()
