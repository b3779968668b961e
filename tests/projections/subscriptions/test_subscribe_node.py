"""The Node program of docs/SUBSCRIBE.md runs unchanged: in order, at least once, through kill -9."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Subscriptions, named_job_id
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.subjects import shard_of
from tests.clients.nodejs import NODE, install
from tests.support.cluster import CONFIGS, PASSWORD
from tests.support.logs import ask, eventually
from tests.support.other_languages import ROOT, SECTION, WAIT_SECONDS, write_jobs
from tests.support.rights import one_server


def _job_id(name: str) -> str:
    """The job's id: the program prints an event's name, or its job's id if it has none."""
    return name if re.fullmatch(r"j-[0-9a-f-]{36}", name) else named_job_id("default", name)


_LINE = re.compile(r"(\d+) jobledger\.job\.state\.v1 default/(\S+) attempt (\d+)")


async def truth(log: JetStreamLog) -> dict[str, list[int]]:
    """The sequences of the state events, by job."""
    found: dict[str, list[int]] = {}
    feed = await log.follow(after=0)
    last = (await log.info()).last_sequence
    sequence = 0
    while sequence < last:
        for record in await feed.take(1_000):
            sequence = record.sequence
            event = json.loads(record.payload)
            if event["type"] == "jobledger.job.state.v1":
                found.setdefault(event["subject"], []).append(sequence)
    await feed.close()
    return found


class Program:
    """The page's program, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[tuple[int, str, int]] = []
        """What it handled: sequence, job, which try."""

    async def read(self, count: int) -> None:
        """Wait until it has handled this many events."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.lines) < count:
                line = (await self.process.stdout.readline()).decode()
                found = _LINE.match(line)
                assert found, f"the program ended, or said {line!r}"
                self.lines.append((int(found[1]), _job_id(found[2]), int(found[3])))

    async def kill(self) -> None:
        """Kill it, and read its remaining output."""
        assert self.process.stdout is not None
        self.process.kill()
        for line in (await self.process.stdout.read()).decode().splitlines():
            if found := _LINE.match(line):  # the last line may be truncated
                self.lines.append((int(found[1]), _job_id(found[2]), int(found[3])))
        await self.process.wait()

    async def read_until(self, sequence: int) -> None:
        """Wait until it has handled this event."""
        while not self.lines or self.lines[-1][0] < sequence:
            await self.read(len(self.lines) + 1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the program of the page, and its packages from the npm registry."""
    directory = tmp_path_factory.mktemp("node")
    found = re.search(r"```js\n(.*?)```", SECTION, re.DOTALL)
    assert found
    (directory / "billing.mjs").write_text(found[1])
    install(ROOT / "tests" / "node", directory)
    return directory


@asynccontextmanager
async def running(package: Path, server: EmbeddedServer | None, **env: str) -> AsyncIterator[Program]:
    """The program, ended with the block."""
    login = {}
    if server is not None:
        user, _, password = server.url.removeprefix("nats://").partition("@")[0].partition(":")
        login = {"NATS_URL": server.address, "NATS_USER": user, "NATS_PASSWORD": password}
    process = await asyncio.create_subprocess_exec(
        NODE,
        "billing.mjs",
        cwd=package,
        env={**login, **env},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def in_order(lines: Sequence[tuple[int, str, int]], events: dict[str, list[int]]) -> bool:
    """Whether no event was handled before its job's previous one; repeats are allowed."""
    places = dict.fromkeys(events, -1)  # index of the last handled one, per job
    for sequence, job, _ in lines:
        place = events[job].index(sequence)
        if place > places[job] + 1:
            return False
        places[job] = place
    return True


@pytest.mark.slow
async def test_the_node_program_survives_kills_of_itself_and_the_server(
    package: Path, server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Every event is handled, in order, and acknowledged."""
    await Subscriptions(jetstream_log).create("node-billing", plain=True)
    await write_jobs(jetstream_log, "first")
    async with running(package, server) as program:
        await program.read(7)  # of 36
        await program.kill()
    handled = program.lines
    async with running(package, server) as program:
        await program.read(3)
        # After the last acknowledged event: the last handled one may not be acknowledged.
        assert handled[-1][0] <= program.lines[0][0]
        assert program.lines[0][0] <= truth_after(await truth(jetstream_log), handled[-1][0])
        back = asyncio.Event()
        jetstream_log._connection.watch(lambda up: back.set() if up else None)
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT_SECONDS):
            await back.wait()
        await eventually(lambda: answers(jetstream_log), within_seconds=WAIT_SECONDS)
        await write_jobs(jetstream_log, "second")
        last = (await jetstream_log.info()).last_sequence
        await program.read_until(last)
        await eventually(
            lambda: acknowledged(jetstream_log, "node-billing", last), within_seconds=WAIT_SECONDS
        )
        program.process.terminate()
        async with asyncio.timeout(WAIT_SECONDS):
            assert await program.process.wait() == 0
    handled += program.lines
    wanted = await truth(jetstream_log)
    assert in_order(handled, wanted)
    assert {job: sorted({at for at, each, _ in handled if each == job}) for job in wanted} == wanted


def truth_after(events: dict[str, list[int]], sequence: int) -> int:
    """The first state event after a sequence."""
    return min(at for each in events.values() for at in each if at > sequence)


async def answers(log: JetStreamLog) -> bool:
    try:
        await log.info()
    except LogUnavailable:
        return False
    return True


async def acknowledged(log: JetStreamLog, consumer: str, sequence: int) -> bool:
    info = await ask(log, f"CONSUMER.INFO.JOBS.{consumer}")
    return bool(info["ack_floor"]["stream_seq"] == sequence)


@pytest.mark.slow
async def test_node_programs_share_jobs_by_their_shards(
    package: Path, server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Two members each handle all events of their own jobs, in order."""
    await Subscriptions(jetstream_log).create("node-billing", plain=True, members=2)
    await write_jobs(jetstream_log, "shared")
    wanted = await truth(jetstream_log)
    async with (
        running(package, server, MEMBERS="2", MEMBER="1") as one,
        running(package, server, MEMBERS="2", MEMBER="2") as two,
    ):
        for number, program in enumerate((one, two)):
            mine = {job: found for job, found in wanted.items() if int(shard_of(job)) % 2 == number}
            assert mine
            await program.read(sum(map(len, mine.values())))
            assert in_order(program.lines, mine)
            assert {job: [at for at, each, _ in program.lines if each == job] for job in mine} == mine


@pytest.mark.slow
async def test_the_node_program_runs_in_an_account_of_its_own(package: Path, tmp_path: Path) -> None:
    """With the accounts that are deployed, and rights to its own consumer only."""
    async with one_server(tmp_path / "nats", (CONFIGS / "accounts-example.conf").read_text()) as address:
        operator = await JetStreamLog.connect(address, user="operator", password=PASSWORD)
        await operator.prepare_streams()
        await Subscriptions(operator).create("node-billing", plain=True)
        await write_jobs(operator, "own")
        login = {"NATS_URL": address, "NATS_USER": "node-billing", "NATS_PASSWORD": PASSWORD}
        async with running(package, None, **login) as program:
            await program.read(36)
            last = program.lines[-1][0]
            assert last == (await operator.info()).last_sequence
            await eventually(
                lambda: acknowledged(operator, "node-billing", last), within_seconds=WAIT_SECONDS
            )
        await operator.close()


def test_the_page_and_the_packages_fit_together() -> None:
    """The program uses the packages of the lock file, which names no registry."""
    lock = json.loads((ROOT / "tests" / "node" / "package-lock.json").read_text())
    program = re.search(r"```js\n(.*?)```", SECTION, re.DOTALL)
    assert program
    for name in re.findall(r'from "(@[^"]+)"', program[1]):
        assert f"node_modules/{name}" in lock["packages"]
        assert name in SECTION.partition("npm install")[2].partition("\n")[0]
    assert "resolved" not in json.dumps(lock)
