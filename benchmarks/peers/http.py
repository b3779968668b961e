"""`peers http`: the service next to a minimal one of Litestar and asyncpg, on the same machine.

Both run under Granian in processes of their own, with one worker each. The peer writes a job and its history
with one statement.
"""

import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import msgspec

from benchmarks.harness import Measure, Output, take_turns
from benchmarks.http_load import load, request
from benchmarks.peers.compare import CALLERS, NAME, Figure, report
from benchmarks.peers.litestar_service import DSN_VARIABLE, JOBS_PATH
from benchmarks.peers.peer import cpu_seconds, free_port, library, running, until_listening, version_of
from benchmarks.peers.postgresql import check_server, served_postgresql, version
from benchmarks.sizes import Sizes
from benchmarks.workload import NAMESPACES, REASON, child, job_key, named_spec, namespace_of
from jobledger.service.wire.paths import JOBS
from jobledger.store.model.job import StateType
from jobledger.store.spec.spec import encode_spec

_ROOT: Final = Path(__file__).parents[2]
_FILL_CONNECTIONS: Final = 64
_CALIBRATION_REQUESTS: Final = 300


class Service(NamedTuple):
    """A running service."""

    name: str
    port: int
    pids: tuple[int, ...]
    jobs_path: str
    page_query: str


def check() -> None:
    """Raise `NotInstalled` if the database or a library is missing."""
    check_server()
    library("litestar", "litestar")


def peer_name() -> str:
    """Return what the peer is made of."""
    return f"Litestar {version_of('litestar')}, asyncpg and PostgreSQL {version()}"


@asynccontextmanager
async def _ours() -> AsyncIterator[Service]:
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        async with child("benchmarks.http_server") as server:
            await server.send({"data_dir": directory})
            port = int(await server.stdout.readline())
            yield Service("Jobledger", port, (server.process.pid,), JOBS, "&limit=50")
            server.stdin.close()
            await server.process.wait()


@asynccontextmanager
async def _theirs() -> AsyncIterator[Service]:
    async with served_postgresql() as database:
        port = free_port()
        command = (
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1", "--no-access-log", "--log-level", "error", "--factory"),
            "benchmarks.peers.litestar_service:create_app",
        )
        environment = os.environ | {DSN_VARIABLE: database.dsn}
        async with running(*command, stop=signal.SIGTERM, env=environment, cwd=_ROOT) as process:
            await until_listening(process, port)
            pids = (process.pid, database.process.pid)
            yield Service(peer_name(), port, pids, JOBS_PATH, "")


class Side:
    """A service with its own progress through the jobs."""

    def __init__(self, service: Service, jobs: int) -> None:
        self.service = service
        self._jobs = jobs
        self._new = count(jobs)
        self._changes = count()
        self._chance = random.Random(5)

    async def fill(self) -> None:
        """Create the jobs."""
        puts = [self._put(number) for number in range(self._jobs)]
        await load(self.service.port, puts, _FILL_CONNECTIONS)

    def create(self) -> bytes:
        """The request for the next job."""
        return self._put(next(self._new))

    def state(self) -> bytes:
        """The request to change the next job."""
        turn, number = divmod(next(self._changes), self._jobs)
        state = (StateType.RUNNING, StateType.QUEUED)[turn % 2]
        body = msgspec.json.encode({"StateType": str(state)})
        return self._request("PUT", f"/{job_key(number).job_id}/state", body)

    def get(self) -> bytes:
        """The request for any job."""
        return self._request("GET", f"/{job_key(self._chance.randrange(self._jobs)).job_id}")

    def page(self) -> bytes:
        """The request for a page of any namespace."""
        namespace = namespace_of(self._chance.randrange(NAMESPACES))
        return self._request("GET", f"?namespace={namespace}{self.service.page_query}")

    def _put(self, number: int) -> bytes:
        spec = msgspec.Raw(encode_spec(named_spec(number)))
        return self._request("PUT", "", msgspec.json.encode({"Job": spec, "Reason": REASON}))

    def _request(self, method: str, path: str, body: bytes = b"") -> bytes:
        return request(method, f"{self.service.jobs_path}{path}", body, port=self.service.port)


OPERATIONS: Final[dict[str, Callable[[Side], bytes]]] = {
    "create": Side.create,
    "state": Side.state,
    "get": Side.get,
    "page": Side.page,
}


async def run(sizes: Sizes, output: Output) -> None:
    """Measure both services alternately."""
    async with _ours() as ours, _theirs() as theirs:
        sides = [Side(theirs, sizes.peers_jobs), Side(ours, sizes.peers_jobs)]
        for side in sides:
            output.say(f"{NAME}: filling {side.service.name} with {sizes.peers_jobs:,} jobs")
            await side.fill()
        for operation in OPERATIONS:
            for connections in CALLERS:
                await _compare(operation, connections, sides, sizes, output)


async def _compare(operation: str, connections: int, sides: list[Side], sizes: Sizes, output: Output) -> None:
    figures = list[list[Figure]]()
    measures = list[Measure]()
    for side in sides:
        # The number of requests for one round: the rate of a first run gives it.
        first = max(_CALIBRATION_REQUESTS, 2 * connections)
        rate = (await _round(operation, side, connections, first)).rate
        requests = max(first // 3, round(rate * sizes.peers_round_seconds))
        own = list[Figure]()
        figures.append(own)

        async def measure(side: Side = side, requests: int = requests, own: list[Figure] = own) -> float:
            own.append(await _round(operation, side, connections, requests))
            return own[-1].rate

        measures.append(measure)
    await take_turns(sizes.rounds, *measures)
    of_theirs, of_ours = figures
    what = f"HTTP {operation}, {connections} connection{'s' * (connections > 1)}"
    report(what, sides[0].service.name, of_ours, of_theirs, output)


async def _round(operation: str, side: Side, connections: int, requests: int) -> Figure:
    """Send prepared requests; the CPU time is that of the service and its database."""
    prepared = [OPERATIONS[operation](side) for _ in range(requests)]
    before = cpu_seconds(side.service.pids, own=False)
    rate, _ = await load(side.service.port, prepared, connections)
    return Figure(rate, 1e6 * (cpu_seconds(side.service.pids, own=False) - before) / requests)
