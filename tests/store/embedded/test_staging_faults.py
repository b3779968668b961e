"""Losing the staging area at any moment loses, doubles and moves no acknowledged event.

The faults hit commits: the tests count the batches of which only a prefix is in the files of the stream.
"""

import asyncio
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jobledger import EmbeddedServer, JetStreamLog, JobledgerError
from jobledger.store.embedded import server as embedded, staging
from jobledger.store.jetstream.publisher import Batch
from jobledger.store.log import NO_JOB, Appended, PendingEvent
from jobledger.store.nats_files.blocks import messages
from tests.chaos.machine import DiskImage, can_loop
from tests.support.disks import fill, small_disk
from tests.support.logs import draft, eventually, force_batches, whole

SHM = Path("/dev/shm")
CALLERS = 256
PADDING = b"x" * 800
HITS = 5  # commits that must have been interrupted
ROUNDS_MAX = 40
AIM_SECONDS = 0.1  # for a commit to start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        sys.platform != "linux" or not staging.is_tmpfs(SHM), reason="this machine has no tmpfs"
    ),
]


@pytest.fixture(autouse=True)
def prompt_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart a killed server at once."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(embedded, "RESTART_MAX_WAIT_SECONDS", 0.01)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory on a tmpfs, which only this test uses."""
    with TemporaryDirectory(dir=SHM) as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


class Commits:
    """Notices each commit that is sent, and aims at the middle of one.

    Attributes:
        rounds: commits that were aimed at.
        hits: those of which a prefix was found in the files of the stream.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.rounds = self.hits = 0
        self._aim: Callable[[set[bytes], int], None] | None = None
        self._blocks = directory / "jetstream" / "$G" / "streams" / "JOBS" / "msgs"
        commit = Batch.commit

        async def noted(batch: Batch, reply: str, now: float) -> None:
            before = self._size()
            await commit(batch, reply, now)  # to the socket, so the server works on it already
            aim, self._aim = self._aim, None
            if aim is not None:
                aim({each.draft.payload for each in batch.members}, before)

        monkeypatch.setattr(Batch, "commit", noted)

    async def interrupt(self, rng: random.Random, act: Callable[[], None]) -> None:
        """Act when a random part of the next batch is in the stream, and look how much it was.

        It blocks the event loop, so the server is not restarted before the look.
        """
        looked = asyncio.Event()

        def aim(payloads: set[bytes], before: int) -> None:
            wanted = before + rng.random() * sum(map(len, payloads))
            deadline = time.monotonic() + AIM_SECONDS
            while self._size() <= wanted and time.monotonic() < deadline:
                pass
            act()
            stored = len(payloads & self._stored())
            self.rounds += 1
            self.hits += 0 < stored < len(payloads)
            looked.set()

        self._aim = aim
        async with asyncio.timeout(30):
            await looked.wait()

    def _size(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self._blocks))

    def _stored(self) -> set[bytes]:
        blocks = sorted(self._blocks.glob("*.blk"), key=lambda path: int(path.stem))
        return {each.payload for path in blocks[-2:] for each in messages(path.read_bytes())}


class Writer:
    """A caller that extends one job; an append without an answer is repeated by its id, and nothing else."""

    def __init__(self, number: int) -> None:
        self._subject = f"job-{number}"
        self._doubtful: PendingEvent | None = None
        self.acknowledged: list[tuple[int, bytes]] = []

    async def work(self, log: JetStreamLog, end: asyncio.Event) -> None:
        """Append until the end; a failed append is repeated first."""
        while not end.is_set():
            with suppress(JobledgerError):
                await self.append(log)

    async def append(self, log: JetStreamLog) -> None:
        """Append the next event, or settle the doubtful one.

        Raises:
            JobledgerError: there was no answer; the event is doubtful.
        """
        if self._doubtful is None:
            event_id = str(uuid.uuid4())
            self._doubtful = draft(self._subject, event_id.encode() + PADDING, event_id=event_id)
        expect = self.acknowledged[-1][0] if self.acknowledged else NO_JOB
        outcome = await log.append(self._doubtful, expect=expect)
        assert isinstance(outcome, Appended), f"expected {expect}, got {outcome}"
        self.acknowledged.append((outcome.sequence, self._doubtful.payload))
        self._doubtful = None

    async def settle(self, log: JetStreamLog) -> None:
        """Settle a doubtful append, as a caller does after a restart of its process."""
        if self._doubtful is not None:
            await self.append(log)


class Writers:
    """CALLERS writers."""

    def __init__(self) -> None:
        self._writers = [Writer(number) for number in range(CALLERS)]

    @asynccontextmanager
    async def working(self, log: JetStreamLog) -> AsyncIterator[None]:
        """Append until the end of the block; each finishes its last append, or fails."""
        force_batches(log)
        end = asyncio.Event()
        tasks = [asyncio.create_task(each.work(log, end)) for each in self._writers]
        try:
            yield
        finally:
            end.set()
            await asyncio.gather(*tasks)

    async def settle(self, log: JetStreamLog) -> None:
        """Settle every doubtful append."""
        await asyncio.gather(*(each.settle(log) for each in self._writers))

    async def check(self, log: JetStreamLog) -> None:
        """Each event is in the log once, at the sequence that was reported, and there are no others."""
        await self.settle(log)
        reported = dict(pair for each in self._writers for pair in each.acknowledged)
        assert reported == {each.sequence: each.payload for each in await whole(log)}
        assert sorted(reported) == list(range(1, len(reported) + 1))

    @property
    def acknowledged(self) -> int:
        """The number of acknowledged events."""
        return sum(len(each.acknowledged) for each in self._writers)


@asynccontextmanager
async def connected(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """Connect a log whose batches are staged as those of `serve`."""
    log = await JetStreamLog.connect(server.url)
    try:
        await server.stage()
        yield log
    finally:
        await log.close()


def batches_of(directory: Path) -> Path:
    """Return the folder where nats-server stages the batches of the log."""
    return directory / "jetstream" / "$G" / "streams" / "JOBS" / "batches"


def kill(pid: int) -> None:
    """`kill -9`; returns when the process has ended."""
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([handle], [], [], 10)
    os.close(handle)


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "disk"])
@pytest.mark.usefixtures("runtime")
async def test_kills_within_commits_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """A prefix of a batch stays in the stream, and each append is settled by its id."""
    writers, commits, rng = Writers(), Commits(monkeypatch, tmp_path), random.Random(1)
    async with EmbeddedServer(tmp_path, stage_in_memory=in_memory) as server, connected(server) as log:
        async with writers.working(log):
            while commits.hits < HITS:
                assert commits.rounds < ROUNDS_MAX
                await eventually(lambda: batches_of(tmp_path).is_symlink() == in_memory)
                restarts = server.restarts
                await commits.interrupt(rng, lambda: kill(server.pid))
                await eventually(lambda: server.restarts > restarts)  # noqa: B023 - awaited here
        await writers.check(log)
    assert writers.acknowledged > commits.rounds
    text = (tmp_path / "nats.log").read_text()
    assert "Restoring partial batch write" not in text
    assert "Failed restoring partial batch write" in text


async def test_power_losses_within_commits_lose_and_double_nothing(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk keeps what was synced, or also a prefix of the batch; the staging area is gone."""
    if not can_loop():
        pytest.skip("mounting a disk image needs root and loop devices")
    image = DiskImage(tmp_path / "disk", 256)
    directory = tmp_path / "disk" / "nats"
    writers, commits, rng = Writers(), Commits(monkeypatch, directory), random.Random(2)
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 1_000.0)
    monkeypatch.setattr(embedded, "RESTART_MAX_WAIT_SECONDS", 1_000.0)
    durable = 0

    def lose_power(server: EmbeddedServer) -> None:
        nonlocal durable
        if commits.rounds % 2:  # the kernel may write a page at any time
            os.kill(server.pid, signal.SIGSTOP)
            subprocess.run(["sync", "-f", directory], check=True)
            durable += 1
        kill(server.pid)

    try:
        while commits.hits < HITS:
            assert commits.rounds < ROUNDS_MAX
            server = await EmbeddedServer(directory).start()
            try:
                async with connected(server) as log:
                    await writers.settle(log)
                    async with writers.working(log):
                        await commits.interrupt(rng, lambda: lose_power(server))  # noqa: B023
                        snapshot = image.snapshot()
                        log.publisher._fail_all()  # the clients end with the machine
            finally:
                await server.stop()
            shutil.rmtree(runtime)
            runtime.mkdir(mode=0o700)
            image.restore(snapshot)
        async with EmbeddedServer(directory) as server, connected(server) as log:
            await writers.check(log)
        assert durable
    finally:
        image.remove()


def empty(runtime: Path) -> None:
    """Delete the staging area, as a logout does."""
    for folder in runtime.iterdir():
        shutil.rmtree(folder, ignore_errors=True)


def fill_up(runtime: Path) -> None:
    """Leave no space."""
    fill(runtime)


def make_read_only(runtime: Path) -> None:
    """Make it read-only as soon as nothing is being written."""
    deadline = time.monotonic() + 10
    command = ["mount", "-o", "remount,ro", str(runtime)]
    while subprocess.run(command, check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline


def heal(runtime: Path) -> None:
    """End each of these faults."""
    subprocess.run(["mount", "-o", "remount,rw", runtime], check=True)
    (runtime / "filler").unlink(missing_ok=True)


@pytest.mark.parametrize("fault", [empty, fill_up, make_read_only])
async def test_fault_of_the_staging_area_in_operation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]
) -> None:
    """Appends go on during the fault, and are staged in memory again after it."""
    with small_disk(tmp_path / "runtime", megabytes=64) as runtime:
        runtime.chmod(0o700)
        monkeypatch.setattr(staging, "default_roots", lambda: (runtime,))
        writers, directory = Writers(), tmp_path / "nats"
        async with EmbeddedServer(directory) as server, connected(server) as log:
            async with writers.working(log):
                for _ in range(2):
                    await eventually(lambda: batches_of(directory).is_symlink())
                    await _more(writers)
                    await asyncio.to_thread(fault, runtime)
                    await _more(writers)
                    if fault is not empty:
                        await eventually(lambda: bool(server.staging_problem))
                        await _more(writers)
                    await asyncio.to_thread(heal, runtime)
                    await eventually(lambda: server.staging_problem == "")
            await writers.check(log)


async def _more(writers: Writers) -> None:
    """Wait for 2,000 more acknowledged events."""
    wanted = writers.acknowledged + 2_000
    await eventually(lambda: writers.acknowledged >= wanted, within_seconds=30.0)
