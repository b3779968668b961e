"""Runs the peers and Jobledger alternately, and reports rates, CPU time and disk space."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from benchmarks.harness import Measure, Output, decide, take_turns
from benchmarks.peers import http
from benchmarks.peers.compare import CALLERS, NAME, Figure, report
from benchmarks.peers.etcd import Etcd
from benchmarks.peers.event_sourcing import EventSourcing
from benchmarks.peers.ours import Jobledger, open_jobledger
from benchmarks.peers.peer import NotInstalled, Peer, Store, cpu_seconds
from benchmarks.peers.postgresql import PostgreSQL
from benchmarks.sizes import Sizes
from benchmarks.workload import NAMESPACES, namespace_of, rate_of
from jobledger.store.model.job import StateType

PEERS: Final[dict[str, tuple[Peer, ...]]] = {
    "postgresql": (PostgreSQL(2), PostgreSQL(1)),
    "etcd": (Etcd(),),
    "eventsourcing": (EventSourcing(),),
}
HTTP: Final = "http"
NAMES: Final = (*PEERS, HTTP)

Opened = TypeVar("Opened")

_FILL_CALLERS: Final = 256
_HOT_JOBS: Final = 1_000
_TWO_STATES: Final = (StateType.RUNNING, StateType.QUEUED)
_OTHER_STATES: Final = (StateType.PENDING, StateType.RUNNING)
_FILL_STATES: Final = (StateType.QUEUED, StateType.RUNNING, StateType.QUEUED)


class Side:
    """A store with its own progress through the jobs."""

    def __init__(self, store: Store, jobs: int) -> None:
        self.store = store
        self.figures: list[Figure] = []
        self._jobs = jobs
        self._new = count(jobs)
        self._changes = count()
        self._cold = count()
        self._chance = random.Random(5)

    async def fill(self) -> int:
        """Create the jobs, each with three states; returns the bytes per job."""
        before = await self.store.used_bytes()
        await rate_of(range(self._jobs), min(_FILL_CALLERS, self._jobs), self.store.create)
        for state in _FILL_STATES:
            await rate_of(
                range(self._jobs), min(_FILL_CALLERS, self._jobs), partial(self.store.set_state, state=state)
            )
        return (await self.store.used_bytes() - before) // self._jobs

    async def warm(self) -> None:
        """Change every hot job once, so that caches have it."""
        hot = min(_HOT_JOBS, self._jobs)
        await rate_of(range(hot), min(_FILL_CALLERS, hot), lambda _: self.state())

    async def create(self) -> None:
        """Create the next job."""
        await self.store.create(next(self._new))

    async def state(self) -> None:
        """Change one of the hot jobs, which is in no other caller's hands."""
        turn, number = divmod(next(self._changes), min(_HOT_JOBS, self._jobs))
        await self.store.set_state(number, _TWO_STATES[turn % 2])

    async def cold_state(self) -> None:
        """Change a job that the client has not cached, unless a round is so long that all had their turn."""
        turn, number = divmod(next(self._cold), self._jobs)
        await self.store.set_state(number, _OTHER_STATES[turn % 2])

    async def get(self) -> None:
        """Read any job."""
        await self.store.get(self._chance.randrange(self._jobs))

    async def page(self) -> None:
        """Read a page of any namespace."""
        assert await self.store.page(namespace_of(self._chance.randrange(NAMESPACES)))


COLD: Final = "state, not cached"
OPERATIONS: Final[dict[str, Callable[[Side], Awaitable[None]]]] = {
    "create": Side.create,
    "state": Side.state,
    COLD: Side.cold_state,
    "get": Side.get,
    "page": Side.page,
}
LOG_ALONE: Final = "log"
WITH_VIEW: Final = "view"
_WRITES: Final = frozenset({"create", "state", COLD})


def installed(names: Iterable[str], output: Output) -> list[str]:
    """Return the peers that can run.

    Args:
        names: of `NAMES`; empty: all of them, without those that are not installed.
        output: of a message for each peer that is left out.

    Raises:
        NotInstalled: if a named peer, or every peer, is missing.
    """
    chosen = dict.fromkeys(names)
    found, missing = list[str](), list[NotInstalled]()
    for name in chosen or NAMES:
        try:
            _check(name)
        except NotInstalled as error:
            if chosen:
                raise
            missing.append(error)
            output.say(f"{NAME}: {name} is left out: {error}")
        else:
            found.append(name)
    if not found:
        raise missing[0]
    return found


def _check(name: str) -> None:
    if name == HTTP:
        http.check()
    else:
        for peer in PEERS[name]:
            peer.check()


async def run(names: Sequence[str], sizes: Sizes, output: Output) -> None:
    """Measure the named peers, or all that are installed, next to Jobledger.

    Raises:
        NotInstalled: if a named peer, or every peer, is missing.
    """
    found = installed(names, output)
    peers = [peer for name in found if name != HTTP for peer in PEERS[name]]
    if peers:
        await _run_stores(peers, sizes, output)
    if HTTP in found:
        await http.run(sizes, output)


async def _run_stores(peers: Sequence[Peer], sizes: Sizes, output: Output) -> None:
    jobs = sizes.peers_jobs
    async with AsyncExitStack() as stack:
        ours = Side(await stack.enter_async_context(_in_directory(open_jobledger)), jobs)
        own_bytes = await _fill(ours, output)
        theirs = dict[str, Side]()
        for peer in peers:
            side = Side(await stack.enter_async_context(_in_directory(peer.open)), jobs)
            theirs[peer.name] = side
            used = await _fill(side, output)
            case = f"bytes on disk of a job with 4 events, {jobs:,} jobs, against {peer.name}"
            output.report(decide(NAME, case, own_bytes, "B", baseline=used, ratio=own_bytes / used))
        for operation, callers in product(OPERATIONS, CALLERS):
            rivals = [theirs[peer.name] for peer in peers if operation not in peer.missing_operations]
            if not rivals:
                continue
            figures = await _compare(operation, callers, ours, rivals, sizes)
            for rival, name in product(rivals, (LOG_ALONE, WITH_VIEW)):
                if name in figures:
                    suffix = ", visible" if name == WITH_VIEW and operation in _WRITES else ""
                    what = f"{operation}{suffix}, {callers} caller{'s' * (callers > 1)}"
                    report(what, rival.store.name, figures[name], figures[rival.store.name], output)


async def _fill(side: Side, output: Output) -> int:
    output.say(f"{NAME}: filling {side.store.name}")
    return await side.fill()


async def _compare(
    operation: str, callers: int, ours: Side, theirs: Sequence[Side], sizes: Sizes
) -> dict[str, list[Figure]]:
    """Measure one operation at one concurrency; returns the figures by side.

    Our writes are measured twice: until they are acknowledged, and until they are in the view.
    """
    figures = dict[str, list[Figure]]()

    def measure(name: str, side: Side, *, projecting: bool = False) -> Measure:
        own = figures[name] = []

        async def one_round() -> float:
            if isinstance(side.store, Jobledger):
                await side.store.set_projecting(projecting)
            if operation == COLD:
                side.store.forget()
            own.append(await _round(OPERATIONS[operation], side, callers, sizes.peers_round_seconds))
            return own[-1].rate

        return one_round

    sides = [measure(side.store.name, side) for side in theirs]
    if operation in _WRITES:
        sides.append(measure(LOG_ALONE, ours))
    sides.append(measure(WITH_VIEW, ours, projecting=True))
    if operation == "state":
        for side in (*theirs, ours):
            await side.warm()
    await take_turns(1, *sides)
    for own in figures.values():
        own.clear()
    await take_turns(sizes.rounds, *sides)
    return figures


async def _round(
    operation: Callable[[Side], Awaitable[None]], side: Side, callers: int, seconds: float
) -> Figure:
    """Let the callers repeat an operation, each after its last one was answered, for this long."""
    pids = side.store.pids()
    done = 0
    before, started = cpu_seconds(pids), time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - started < seconds:
            await operation(side)
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    await side.store.settle()
    took = time.perf_counter() - started
    return Figure(done / took, 1e6 * (cpu_seconds(pids) - before) / done)


@asynccontextmanager
async def _in_directory(
    open_store: Callable[[Path], AbstractAsyncContextManager[Opened]],
) -> AsyncIterator[Opened]:
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        async with open_store(Path(directory)) as store:
            yield store
