"""`http`: requests to the service, against a fixed response, the library, and a smaller view."""

import random
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from benchmarks.harness import Measure, Output, percentile, take_turns
from benchmarks.http_load import fetch, load, request
from benchmarks.http_server import FIXED_PATH, serving
from benchmarks.sizes import Sizes
from benchmarks.workload import (
    ACTOR,
    REASON,
    JobLog,
    job_key,
    labels_of,
    named_spec,
    namespace_of,
    rate_of,
    served,
)
from jobledger.projections.projector import Projector
from jobledger.service.log_access import VIEW_FILE
from jobledger.store.embedded import NATS_FOLDER, EmbeddedServer
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.ledger import Ledger
from jobledger.store.spec.spec import JobSpec, encode_spec

JOBS: Final = "/api/v1/orchestrator/jobs"
_GET_CONNECTIONS: Final = 16
_PUT_CONNECTIONS: Final = 64
_PAGE_JOBS: Final = 50
_CATCH_UP_SECONDS: Final = 600.0


async def run(sizes: Sizes, output: Output) -> None:
    """Measure real services in their own processes, each on its own directory."""
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        small, large, empty = (Path(directory) / name for name in ("small", "large", "empty"))
        for path, jobs in ((small, sizes.http_small_jobs), (large, sizes.http_large_jobs)):
            output.say(f"http: filling a service with {jobs:,} jobs")
            await fill(path, jobs)
        async with serving(data_dir=str(small)) as port:
            await _gets(port, sizes, output)
            async with serving(data_dir=str(large)) as large_port:
                await _pages(port, large_port, sizes, output)
        async with serving(data_dir=str(empty)) as port:
            await _puts(port, sizes, output)


async def fill(data_dir: Path, jobs: int) -> None:
    """Create the log and the view of a service with this many jobs."""
    async with EmbeddedServer(data_dir / NATS_FOLDER, sync="2m") as server:
        log = await JetStreamLog.connect(server.url)
        try:
            filler = JobLog(log, jobs)
            async with Projector(log, data_dir / VIEW_FILE) as projector:
                await filler.create(range(jobs))
                await projector.wait_for(filler.last_sequence, _CATCH_UP_SECONDS)
        finally:
            await log.close()


async def _gets(port: int, sizes: Sizes, output: Output) -> None:
    chance = random.Random(1)
    ids = [job_key(chance.randrange(sizes.http_small_jobs)).job_id for _ in range(sizes.http_get.ours)]
    body = await fetch(port, f"{JOBS}/{ids[0]}")
    async with serving(body=body.decode()) as fixed_port:
        fixed = [request("GET", f"{FIXED_PATH}/{ids[0]}", port=fixed_port)] * sizes.http_get.baseline
        ours = [request("GET", f"{JOBS}/{job_id}", port=port) for job_id in ids]
        sides = (
            _rate("the fixed response", fixed_port, fixed, _GET_CONNECTIONS, output),
            _rate("get", port, ours, _GET_CONNECTIONS, output),
        )
        await take_turns(1, *sides)
        of_fixed, of_ours = await take_turns(sizes.rounds, *sides)
    output.compare(
        "http/get",
        f"GET /jobs/{{id}} at {sizes.http_small_jobs:,} jobs, {_GET_CONNECTIONS} connections,"
        f" {sizes.http_get.ours:,} a round, against {len(body):,} fixed bytes from the same router",
        of_ours,
        of_fixed,
        "gets/s",
    )


async def _puts(port: int, sizes: Sizes, output: Output) -> None:
    numbers = count()

    async def put() -> float:
        # Prepared before the clock starts, like the specs of the baseline.
        puts = [
            request("PUT", JOBS, body_of(named_spec(next(numbers))), port=port)
            for _ in range(sizes.http_put.ours)
        ]
        return await _rate("put", port, puts, _PUT_CONNECTIONS, output)()

    async with served("always") as bench:
        ledger = Ledger(bench.log)

        async def create(spec: JobSpec) -> None:
            await ledger.create(spec, actor=ACTOR, reason=REASON)

        async def library() -> float:
            specs = [named_spec(next(numbers)) for _ in range(sizes.http_put.baseline)]
            return await rate_of(specs, _PUT_CONNECTIONS, create)

        await take_turns(1, library, put)
        of_library, of_ours = await take_turns(sizes.rounds, library, put)
    output.compare(
        "http/put",
        f"PUT /jobs of new jobs, sync_interval always, {_PUT_CONNECTIONS} connections,"
        f" {sizes.http_put.ours:,} a round, against the library's create with {_PUT_CONNECTIONS} callers",
        of_ours,
        of_library,
        "jobs/s",
    )


def body_of(spec: JobSpec) -> bytes:
    """Return a request body for `PUT /jobs`."""
    return msgspec.json.encode({"Job": msgspec.Raw(encode_spec(spec)), "Reason": REASON})


async def _pages(small_port: int, large_port: int, sizes: Sizes, output: Output) -> None:
    sides = [
        p50(port, _page_requests(port, jobs, sizes.http_pages))
        for port, jobs in ((small_port, sizes.http_small_jobs), (large_port, sizes.http_large_jobs))
    ]
    await take_turns(1, *sides)
    of_small, of_large = await take_turns(sizes.rounds, *sides)
    output.compare(
        "http/page/large",
        f"GET /jobs, a page of {_PAGE_JOBS} by namespace and a label of every other job,"
        f" at {sizes.http_large_jobs:,} jobs, against {sizes.http_small_jobs:,}, p50",
        of_large,
        of_small,
        "ms",
    )


def _page_requests(port: int, jobs: int, calls: int) -> list[bytes]:
    chance = random.Random(3)
    requests = []
    for _ in range(calls):
        number = chance.randrange(jobs)
        labels = f"env%3D{labels_of(number)['env']}"
        path = f"{JOBS}?namespace={namespace_of(number)}&labels={labels}&limit={_PAGE_JOBS}"
        requests.append(request("GET", path, port=port))
    return requests


def p50(port: int, requests: Sequence[bytes]) -> Measure:
    """Measure the median response time, one request after the other, in ms."""

    async def measure() -> float:
        _, seconds = await load(port, requests, 1)
        return 1e3 * percentile(seconds, 0.5)

    return measure


def _rate(what: str, port: int, requests: Sequence[bytes], connections: int, output: Output) -> Measure:
    """Measure responses per second."""

    async def measure() -> float:
        before, started = time.process_time(), time.perf_counter()
        rate, seconds = await load(port, requests, connections)
        busy = (time.process_time() - before) / (time.perf_counter() - started)
        p50, p99 = (1e3 * percentile(seconds, share) for share in (0.5, 0.99))
        output.say(
            f"http: {what}: {rate:,.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms; the load took {busy:.0%} of a"
            " core"
        )
        return rate

    return measure
