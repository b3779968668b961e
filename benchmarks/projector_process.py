"""`apart`: reads under a write load, with the projector in the serving process and in its own process.

An experiment without a bound, for `docs/decisions/0008`.
"""

import asyncio
import random
import statistics
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Output, percentile
from benchmarks.http import JOBS, body_of, fill
from benchmarks.http_load import load, request
from benchmarks.http_server import serving
from benchmarks.sizes import Sizes
from benchmarks.workload import job_key, named_spec

_JOBS = 10_000
_READS = 8_000
_WRITES = 3_000
_CONNECTIONS = 8  # of readers, and the same number of writers
_ROUNDS = 5


async def run(_sizes: Sizes, output: Output) -> None:
    """Alternate between both and print the medians."""
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        together, apart = Path(directory) / "together", Path(directory) / "apart"
        for path in (together, apart):
            await fill(path, _JOBS)
        numbers = count(_JOBS)
        figures: dict[str, list[list[float]]] = {"together": [], "apart": []}
        async with (
            serving(data_dir=str(together)) as port,
            serving(data_dir=str(apart), apart="1") as other_port,
        ):
            for _ in range(_ROUNDS + 1):
                figures["together"].append(await _round(port, numbers))
                figures["apart"].append(await _round(other_port, numbers))
    for name, rounds in figures.items():
        reads, p50, p99, writes, write_p50 = map(statistics.median, zip(*rounds[1:], strict=True))
        output.say(
            f"{name}: {reads:,.0f} reads/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms;"
            f" {writes:,.0f} writes/s, p50 {write_p50:.1f} ms"
        )


async def _round(port: int, numbers: "count[int]") -> list[float]:
    chance = random.Random(1)
    reads = [
        request("GET", f"{JOBS}/{job_key(chance.randrange(_JOBS)).job_id}", port=port) for _ in range(_READS)
    ]
    writes = [request("PUT", JOBS, body_of(named_spec(next(numbers))), port=port) for _ in range(_WRITES)]
    (read_rate, read_seconds), (write_rate, write_seconds) = await asyncio.gather(
        load(port, reads, _CONNECTIONS), load(port, writes, _CONNECTIONS)
    )
    p50, p99 = (1e3 * percentile(read_seconds, share) for share in (0.5, 0.99))
    return [read_rate, p50, p99, write_rate, 1e3 * percentile(write_seconds, 0.5)]
