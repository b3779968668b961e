"""Groups of subscribers in processes of their own: started, watched, killed, and judged by what they tell."""

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


class DemoResult(NamedTuple):
    """One line of one process.

    Attributes:
        pid: of the process.
        word: `begin`, `end` or `fail`.
        sequence: of the event.
        job_id: of its job.
        revision: of the job after it.
        at: when, on the machine's monotonic clock; nanoseconds.
    """

    pid: int
    word: str
    sequence: int
    job_id: str
    revision: int
    at: int


class Group:
    """The processes that were started, and everything that they told."""

    def __init__(self) -> None:
        self.told: list[DemoResult] = []
        self.handled: set[int] = set()
        self.troubles: list[str] = []
        self.running: dict[int, asyncio.subprocess.Process] = {}
        self.opened: set[int] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    async def start(self, url: str, plan: Plan) -> int:
        """Start one more process; gives its pid."""
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
        """End a process as `kill -9` does, and read what it had told."""
        process = self.running.pop(pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def end(self) -> None:
        """Kill all that run."""
        for pid in tuple(self.running):
            await self.kill(pid)
        await asyncio.gather(*self._reading)

    async def until(self, condition: Callable[[], bool], *, within_seconds: float = 60.0) -> None:
        """Wait until what was told makes something true."""
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
        """The running process that told something last: it is in the middle of it."""
        return next(told.pid for told in reversed(self.told) if told.pid in self.running)

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
                told = DemoResult(process.pid, word, int(sequence), job_id, int(revision), int(at))
                self.told.append(told)
                if word == "end":
                    self.handled.add(told.sequence)
            self._news.set()


@asynccontextmanager
async def group() -> AsyncIterator[Group]:
    """A group whose processes are gone when the block ends."""
    members = Group()
    try:
        yield members
    finally:
        await members.end()


def first_handlings(told: Iterable[DemoResult]) -> dict[int, tuple[int, int]]:
    """For each event, when its first handling that ended well began and ended.

    An event that was begun by a process that was killed, or failed, was not handled.
    """
    begun: dict[tuple[int, int], int] = {}
    found: dict[int, tuple[int, int]] = {}
    for each in told:
        if each.word == "begin":
            begun[each.pid, each.sequence] = each.at
        elif each.word == "end":
            span = (begun.pop((each.pid, each.sequence)), each.at)
            if each.sequence not in found or span[1] < found[each.sequence][1]:
                found[each.sequence] = span
    return found


def out_of_order(told: Iterable[DemoResult]) -> list[str]:
    """Where an event of a job began to be handled before the one before it had been handled, ever.

    Empty if the order per job was kept: whoever looks at first handlings sees each job's events in the order
    of the log, one after the other.
    """
    told = tuple(told)
    spans = first_handlings(told)
    begun: dict[int, int] = {}  # the first try of each event, also of one that failed
    of_job: dict[str, set[int]] = defaultdict(set)
    for each in told:
        if each.word == "begin":
            begun[each.sequence] = min(begun.get(each.sequence, each.at), each.at)
            of_job[each.job_id].add(each.sequence)
    wrong = []
    for job_id, sequences in of_job.items():
        ordered = sorted(sequences)
        for before, after in pairwise(ordered):
            if before not in spans:
                wrong.append(f"{job_id}: {after} was begun, and {before} was never handled")
            elif begun[after] < spans[before][1]:
                wrong.append(f"{job_id}: {after} was begun before {before} was handled")
    return wrong
