"""The memory of one service under constant load: `python -m tests.chaos.soak --minutes 30`.

Writes (one in five creates a job, the others change the state of a recent one), reads, lists and a feed, at
constant rates. Every ten seconds the resident memory of the service and of its nats-server is sampled:
anonymous memory is the process's own; mapped file pages are the view's, which the kernel reclaims when it
needs memory.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.workload import JobLog
from tests.chaos.topology import Single
from tests.support.api import PREFIX, job_body

SAMPLE_SECONDS: Final = 10.0
CREATE_SHARE: Final = 0.2
RECENT_JOBS: Final = 2_000
FILL_JOBS: Final = 70_000  # more than the projector's cache of statuses
_MEGABYTE_KB: Final = 1_024


def memory_of(pid: int) -> dict[str, float]:
    """Return the resident memory of a process in MB, by kind."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon", "RssFile"):
            found[name] = round(int(value.split()[0]) / _MEGABYTE_KB, 1)
    return found


class Load:
    """Calls at constant rates; counts the responses."""

    def __init__(self, url: str, rng: random.Random, most_jobs: int) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False)
        self._rng = rng
        self._most_jobs = most_jobs
        self.jobs = 0
        self.counts: dict[str, int] = {"write": 0, "read": 0, "list": 0, "fed": 0, "failed": 0}

    async def at_rate(self, per_second: float, verb: str) -> None:
        """Call at this rate, forever; late calls are not made up for."""
        calls = {"write": self._write, "read": self._read, "list": self._list}
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + 1 / per_second, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                response = await calls[verb]()
            except httpx.TransportError:
                self.counts["failed"] += 1
                continue
            good = response.status_code == httpx.codes.OK
            self.counts[verb if good else "failed"] += 1

    async def feed(self) -> None:
        """Follow all events."""
        timeout = httpx.Timeout(30.0, read=60.0)
        async with self._client.stream("GET", "/api/v1/events", timeout=timeout) as response:
            async for line in response.aiter_lines():
                self.counts["fed"] += line.startswith("data:")

    async def _write(self) -> httpx.Response:
        if not self.jobs or (self.jobs < self._most_jobs and self._rng.random() < CREATE_SHARE):
            return await self._create()
        state = {"StateType": "Running", "Message": f"step {self._rng.random()}"}
        return await self._client.put(f"{PREFIX}/jobs/{self._recent()}/state", json=state)

    async def _create(self) -> httpx.Response:
        self.jobs += 1
        body = job_body(f"job-{self.jobs}", Labels={"env": self._rng.choice("abc")})
        return await self._client.put(f"{PREFIX}/jobs", json=body)

    async def _read(self) -> httpx.Response:
        return await self._client.get(f"{PREFIX}/jobs/{self._recent()}")

    async def _list(self) -> httpx.Response:
        return await self._client.get(f"{PREFIX}/jobs", params={"limit": "50", "labels": "env=a"})

    def _recent(self) -> str:
        return f"job-{self._rng.randint(max(1, self.jobs - RECENT_JOBS), max(1, self.jobs))}"


async def fill(system: Single, jobs: int) -> None:
    """Fill the projector's cache, which is bounded by a number of jobs, directly from the log."""
    log = await system.open_log()
    try:
        await JobLog(log, jobs).create(range(jobs))
    finally:
        await log.close()
    await system.wait_ready()


async def soak(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the load; returns the samples."""
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="jobledger-soak-") as scratch:
        async with Single(Path(scratch)) as system:
            load = Load(system.service.url, random.Random(given.seed), given.most_jobs)
            if given.filled:
                await fill(system, FILL_JOBS)
            tasks = [asyncio.create_task(load.at_rate(given.writes / 5, "write")) for _ in range(5)]
            tasks += [asyncio.create_task(load.at_rate(20.0, "read"))]
            tasks += [asyncio.create_task(load.at_rate(1.0, "list"))]
            tasks += [asyncio.create_task(load.feed())]
            started = time.monotonic()
            while time.monotonic() - started < 60 * given.minutes:
                await asyncio.sleep(SAMPLE_SECONDS)
                sample = {
                    "seconds": round(time.monotonic() - started),
                    "jobs": load.jobs,
                    **load.counts,
                    "service": memory_of(system.service.pid),
                    "nats": memory_of(system.service.embedded_pid()),
                    "view_mb": round(system.service.view.stat().st_size / 1e6, 1),
                }
                samples.append(sample)
                line = json.dumps(sample)
                print(line, flush=True)
                if given.out:
                    with given.out.open("a") as file:
                        file.write(line + "\n")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return samples


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--writes", type=float, default=50.0, help="per second")
    parser.add_argument("--most-jobs", type=int, default=1_000_000, help="then no more are created")
    parser.add_argument("--filled", action="store_true", help=f"begin after {FILL_JOBS:,} other jobs")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("JOBLEDGER_CHAOS_SEED", "1")))
    parser.add_argument("--out", type=Path, default=None, help="append the samples there")
    given = parser.parse_args(words)
    samples = asyncio.run(soak(given))
    for kind in ("RssAnon", "VmRSS"):
        series = [sample["service"][kind] for sample in samples]
        third = max(1, len(series) // 3)
        parts = [series[:third], series[third : 2 * third] or series, series[2 * third :]]
        print(kind, ", ".join(f"{min(part):.1f} to {max(part):.1f} MB" for part in parts), "by thirds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
