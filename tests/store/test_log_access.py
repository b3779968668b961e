"""How a command finds the log: a running embedded server is found, and nothing else is trusted."""

import asyncio
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.service import log_access as logaccess
from jobledger.service.limits import LOG_ACCESS_TIMEOUT_SECONDS
from jobledger.service.log_access import log_exists, log_is_served, open_log
from jobledger.service.settings import Settings
from jobledger.store.embedded import NATS_FOLDER, server as embedded
from jobledger.store.local_service import CONNECTION_FILE, find_connection
from jobledger.store.log import NO_JOB, Appended
from jobledger.store.model.errors import EmbeddedServerError, LogUnavailable
from jobledger.store.model.limits import CONNECTION_FILE_MAX_BYTES
from tests.support.logs import draft, fill, plain_server

CHILD = """
import asyncio, sys
from pathlib import Path
from jobledger import EmbeddedServer

async def main():
    await EmbeddedServer(Path(sys.argv[1])).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def held(path: Path, content: bytes) -> Iterator[None]:
    """A connection file whose lock is held, as that of a running server."""
    path.write_bytes(content)
    path.chmod(0o600)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def test_running_server_is_found_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    """The file has mode 0600 while the server runs, and is removed when it stops."""
    assert find_connection(tmp_path) is None
    async with EmbeddedServer(tmp_path) as server:
        file = tmp_path / CONNECTION_FILE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert find_connection(tmp_path) == server.url
    assert not file.exists()
    assert find_connection(tmp_path) is None


async def test_restarted_server_is_still_found(
    server: EmbeddedServer, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart of nats-server the file is correct."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    back = asyncio.Event()
    jetstream_log._connection.watch(lambda up: back.set() if up else None)
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        await back.wait()
    url = find_connection(server.directory)
    assert url is not None
    log = await JetStreamLog.connect(url)
    assert await log.append(draft(), expect=NO_JOB) == Appended(1)
    await log.close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel ends the server with its parent on Linux only"
)
async def test_file_left_by_kill_9_is_not_trusted(tmp_path: Path) -> None:
    """Its lock is free, and the next start replaces it."""
    directory = tmp_path / NATS_FOLDER
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, directory, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"ready\n"
    told = find_connection(directory)
    assert told is not None
    await (await JetStreamLog.connect(told)).close()
    owner.kill()
    await owner.wait()
    assert (directory / CONNECTION_FILE).exists()
    assert find_connection(directory) is None
    settings = Settings(data_dir=tmp_path)
    async with open_log(settings) as log:  # on a new server, after the old one has stopped
        assert (await log.info()).last_sequence == 0
        found = find_connection(directory)
        assert found is not None
        assert found != told


@pytest.mark.parametrize("mode", [0o640, 0o602])
async def test_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """A file that other users can read or write is refused, without its URL in the message."""
    async with EmbeddedServer(tmp_path) as server:
        (tmp_path / CONNECTION_FILE).chmod(mode)
        with pytest.raises(EmbeddedServerError, match="open to other users") as refused:
            find_connection(tmp_path)
        assert server.url.partition("@")[0] not in str(refused.value)


async def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    """With any target; a stopping server does not remove it."""
    async with EmbeddedServer(tmp_path):
        file = tmp_path / CONNECTION_FILE
        file.rename(tmp_path / "other")
        file.symlink_to(tmp_path / "other")
        with pytest.raises(EmbeddedServerError, match="symbolic link"):
            find_connection(tmp_path)
    assert file.is_symlink()


async def test_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by root, if the directory belongs to a third user."""
    with held(tmp_path / CONNECTION_FILE, b'{"url":"nats://x:y@127.0.0.1:1"}'):
        assert find_connection(tmp_path) == "nats://x:y@127.0.0.1:1"
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12_345)
        with pytest.raises(EmbeddedServerError, match="belongs to user"):
            find_connection(tmp_path)


async def test_file_without_a_url_is_refused(tmp_path: Path) -> None:
    """Content without a URL, or above the size limit; at the limit it is read."""
    path = tmp_path / CONNECTION_FILE
    for content in (b"", b"{}", b'{"url":1}', b"\xff\xfe"):
        with held(path, content), pytest.raises(EmbeddedServerError, match="has no URL"):
            find_connection(tmp_path)
    long = b'{"url":"%b"}' % (b"u" * (CONNECTION_FILE_MAX_BYTES - 10))
    assert len(long) == CONNECTION_FILE_MAX_BYTES
    with held(path, long):
        assert find_connection(tmp_path) is not None
    with held(path, long + b" "), pytest.raises(EmbeddedServerError, match="more than"):
        find_connection(tmp_path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(EmbeddedServerError, match="not a regular file"):
        find_connection(tmp_path)
    path.unlink()
    path.mkdir(0o700)
    with pytest.raises(EmbeddedServerError, match="not a regular file"):
        find_connection(tmp_path)


async def test_log_of_a_running_service_is_opened(tmp_path: Path) -> None:
    """A command on the same machine reads the log of the service, through its server."""
    settings = Settings(data_dir=tmp_path)
    async with EmbeddedServer(tmp_path / NATS_FOLDER) as server:
        writer = await JetStreamLog.connect(server.url)
        await fill(writer, 3)
        assert log_is_served(settings)
        async with open_log(settings) as log:
            assert (await log.info()).last_sequence == 3
        await writer.close()


async def test_log_without_a_service_gets_a_server_for_the_command(tmp_path: Path) -> None:
    """The server of the command stops with it."""
    settings = Settings(data_dir=tmp_path)
    async with EmbeddedServer(tmp_path / NATS_FOLDER) as server:
        writer = await JetStreamLog.connect(server.url)
        await fill(writer, 3)
        await writer.close()
    assert log_exists(settings)
    assert not log_is_served(settings)
    async with open_log(settings) as log:
        assert (await log.info()).last_sequence == 3
        assert log_is_served(settings)
    assert not log_is_served(settings)


async def test_without_a_log_nothing_is_created(tmp_path: Path) -> None:
    """The command names the settings, and creates neither directory nor server."""
    settings = Settings(data_dir=tmp_path / "nowhere")
    with pytest.raises(LogUnavailable, match=r"--nats-url.*--data-dir"):
        async with open_log(settings):
            pass
    assert not settings.data_dir.exists()


async def test_directory_that_stays_locked_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time limit the error names the process that holds it."""
    assert LOG_ACCESS_TIMEOUT_SECONDS > embedded.STOP_TIMEOUT_SECONDS  # waits for a stopping service
    monkeypatch.setattr(logaccess, "LOG_ACCESS_TIMEOUT_SECONDS", 0.3)
    settings = Settings(data_dir=tmp_path)
    async with EmbeddedServer(tmp_path / NATS_FOLDER) as server:
        writer = await JetStreamLog.connect(server.url)
        await writer.close()
        (server.directory / CONNECTION_FILE).unlink()
        with pytest.raises(EmbeddedServerError, match=rf"in use .*process {os.getpid()}"):
            async with open_log(settings):
                pass


async def test_service_that_starts_meanwhile_is_waited_for(tmp_path: Path) -> None:
    """A command that runs during the start of a service gets its log."""
    settings = Settings(data_dir=tmp_path)
    async with EmbeddedServer(tmp_path / NATS_FOLDER) as server:
        writer = await JetStreamLog.connect(server.url)
        await fill(writer, 1)
        hidden = tmp_path / "hidden"
        told = server.directory / CONNECTION_FILE
        told.rename(hidden)

        async def read() -> int:
            async with open_log(settings) as log:
                return (await log.info()).last_sequence

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)  # it finds nothing yet
        hidden.rename(told)
        async with asyncio.timeout(60):
            assert await reading == 1
        await writer.close()


async def test_directory_of_another_user_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server for one command is not started on the log of another user, whose files would change owner."""
    settings = Settings(data_dir=tmp_path)
    (tmp_path / NATS_FOLDER / "jetstream").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12_345)
    with pytest.raises(EmbeddedServerError, match="run the command as that user"):
        async with open_log(settings):
            pass


async def test_servers_that_are_named_are_used(tmp_path: Path) -> None:
    """With nats_url the command connects as the service does, and ignores the data directory."""
    authorization = {"user": "reader", "password": "secret-of-the-test"}
    store = {"store_dir": str(tmp_path / "store")}
    async with plain_server(tmp_path / "server", jetstream=store, authorization=authorization) as address:
        settings = Settings(
            nats_url=address,
            nats_user="reader",
            nats_password="secret-of-the-test",
            data_dir=tmp_path / "nowhere",
        )
        assert log_is_served(settings)
        async with open_log(settings) as log:
            assert (await log.info()).last_sequence == 0
