"""`memory`: the memory of a projector that reads a long log, in its own process."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Output, judge
from benchmarks.sizes import Sizes
from benchmarks.workload import JobLog, child, served
from jobledger.projections.projector import Projector
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.model.job import StateType

_STEP_TIMEOUT_SECONDS = 120.0  # an orphan does not wait for its server forever


async def run(sizes: Sizes, output: Output) -> None:
    """Fill a log, project it in a child process, and sample the memory of the child."""
    jobs, hot = sizes.memory_jobs, sizes.hot_jobs
    async with served("2m") as bench:
        output.say(f"memory: filling a log with {jobs:,} jobs")
        filler = JobLog(bench.log, jobs)
        await filler.create(range(jobs))
        for state in (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED):
            await filler.change(range(jobs - hot, jobs), state)
        task = {
            "url": bench.url,
            "path": str(bench.directory / "view.db"),
            "last": filler.last_sequence,
            "every": sizes.memory_every,
        }
        samples = [sample async for sample in _samples(task)]
    for sample in samples[:: max(1, len(samples) // 8)]:
        output.say(
            f"memory: at {sample['sequence']:,}: {sample['all']:.0f} MB"
            f" ({sample['anonymous']:.0f} anonymous, {sample['file']:.0f} mapped files)"
        )
    half = len(samples) // 2
    early, late = (max(sample["all"] for sample in part) for part in (samples[:half], samples[half:]))
    what = f"a projector over {filler.last_sequence:,} events of {jobs:,} jobs"
    output.report(judge("memory/most", f"resident memory of {what}, the most", max(early, late), "MB"))
    case = f"resident memory of {what}, the most in the second half, against the first"
    output.report(judge("memory/flat", case, late, "MB", baseline=early, ratio=late / early))


async def _samples(task: dict[str, Any]) -> AsyncIterator[dict[str, float]]:
    """Yield the samples that the child prints, one per line."""
    async with child("benchmarks.memory") as projecting:
        await projecting.send(task)
        async for line in projecting.stdout:
            yield json.loads(line)
        if await projecting.process.wait() != 0:
            raise RuntimeError("the projecting process failed; see its message above")


async def _project(task: dict[str, Any]) -> None:
    """Project, and sample the memory on the way; runs in the child."""
    log = await JetStreamLog.connect(task["url"])
    try:
        async with Projector(log, Path(task["path"])) as projector:
            for sequence in range(task["every"], task["last"] + 1, task["every"]):
                await projector.wait_for(sequence, _STEP_TIMEOUT_SECONDS)
                print(json.dumps({"sequence": sequence, **_resident()}), flush=True)
            await projector.wait_for(task["last"], _STEP_TIMEOUT_SECONDS)
            print(json.dumps({"sequence": task["last"], **_resident()}), flush=True)
    finally:
        await log.close()


def _resident() -> dict[str, float]:
    """Return the resident MB: all, anonymous, and mapped files (SQLite's memory map)."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return {
        "all": int(resident) * page,
        "anonymous": (int(resident) - int(shared)) * page,
        "file": int(shared) * page,
    }


if __name__ == "__main__":
    asyncio.run(_project(json.loads(sys.stdin.readline())))
