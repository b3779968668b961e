"""Groups of subscriber processes: start, watch and kill them, and judge their output."""

import asyncio
import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import NamedTuple

import msgspec

from tests.support.subscriber_process import Plan


class OutputLine(NamedTuple):
    """A line of output of one process.

    Attributes:
        word: `begin`, `end` or `fail`.
        revision: of the job after the event.
        at: nanoseconds of the machine's monotonic clock.
    """

    pid: int
    word: str
    sequence: int
    job_id: str
    revision: int
    at: int


class Group:
    """The started processes and their output."""

    def __init__(self) -> None:
        self.lines: list[OutputLine] = []
        self.handled: set[int] = set()
        self.troubles: list[str] = []
        self.running: dict[int, asyncio.subprocess.Process] = {}
        self.opened: set[int] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    async def start(self, url: str, plan: Plan) -> int:
        """Start one more process; returns its pid."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.subscriber_process",
            msgspec.json.encode(plan).decode(),
            env={**os.environ, "NATS_URL": url},
            stdout=asyncio.subprocess.PIPE,
        )
        self.running[process.pid] = process
        task = asyncio.create_task(self._read(process))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        return process.pid

    async def kill(self, pid: int) -> None:
        """Kill a process and read its remaining output."""
        process = self.running.pop(pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def end(self) -> None:
        """Kill all running processes."""
        for pid in tuple(self.running):
            await self.kill(pid)
        await asyncio.gather(*self._reading)

    async def until(self, condition: Callable[[], bool], *, within_seconds: float = 60.0) -> None:
        """Wait until the output satisfies a condition."""
        try:
            async with asyncio.timeout(within_seconds):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not so: {len(self.handled)} handled, {self.troubles[-5:]}") from None

    async def until_handled(self, sequences: Iterable[int], *, within_seconds: float = 60.0) -> None:
        """Wait until each of these events was handled."""
        wanted = set(sequences)
        try:
            await self.until(lambda: wanted <= self.handled, within_seconds=within_seconds)
        except AssertionError as error:
            missing = sorted(wanted - self.handled)
            raise AssertionError(f"{error}; {len(missing)} not: {missing[:5]} …") from None

    def in_handler(self) -> int:
        """Return the running process with the latest output."""
        return next(line.pid for line in reversed(self.lines) if line.pid in self.running)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, _, rest = line.decode().rstrip("\n").partition(" ")
            if word == "open":
                self.opened.add(process.pid)
            elif word == "trouble":
                self.troubles.append(rest)
            else:
                sequence, job_id, revision, at = rest.split()
                parsed = OutputLine(process.pid, word, int(sequence), job_id, int(revision), int(at))
                self.lines.append(parsed)
                if word == "end":
                    self.handled.add(parsed.sequence)
            self._news.set()


@asynccontextmanager
async def group() -> AsyncIterator[Group]:
    """Run a group whose processes are killed at the end of the block."""
    members = Group()
    try:
        yield members
    finally:
        await members.end()


def first_handlings(lines: Iterable[OutputLine]) -> dict[int, tuple[int, int]]:
    """Return the start and end of the first successful handling of each event.

    An event whose process was killed or failed was not handled.
    """
    started: dict[tuple[int, int], int] = {}
    found: dict[int, tuple[int, int]] = {}
    for each in lines:
        if each.word == "begin":
            started[each.pid, each.sequence] = each.at
        elif each.word == "end":
            span = (started.pop((each.pid, each.sequence)), each.at)
            if each.sequence not in found or span[1] < found[each.sequence][1]:
                found[each.sequence] = span
    return found


def out_of_order(lines: Iterable[OutputLine]) -> list[str]:
    """Return where an event was started before the job's previous event had ever been handled.

    Empty if the order per job was kept, judged by first handlings.
    """
    lines = tuple(lines)
    spans = first_handlings(lines)
    started: dict[int, int] = {}  # the first attempt at each event, also a failed one
    of_job: dict[str, set[int]] = defaultdict(set)
    for each in lines:
        if each.word == "begin":
            started[each.sequence] = min(started.get(each.sequence, each.at), each.at)
            of_job[each.job_id].add(each.sequence)
    wrong = []
    for job_id, sequences in of_job.items():
        ordered = sorted(sequences)
        for before, after in pairwise(ordered):
            if before not in spans:
                wrong.append(f"{job_id}: {after} was started, and {before} was never handled")
            elif started[after] < spans[before][1]:
                wrong.append(f"{job_id}: {after} was started before {before} was handled")
    return wrong
