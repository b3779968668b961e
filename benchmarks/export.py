"""`replay`: the export of a long log to NDJSON, against a bare pull loop; and its memory.

The baseline only receives: two pull requests in flight, a callback that counts, no acknowledgements. Ours
also folds every event for its revision and version, and writes it with its position to a file.
"""

import asyncio
import os
import sys
import time
from itertools import count, pairwise
from pathlib import Path
from typing import Final

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from benchmarks.harness import Output, judge, take_turns
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, fill_log, pull_all, served
from jobledger.service.export.exporter import Export
from jobledger.service.export.output_file import open_output
from jobledger.service.export.query import ExportQuery
from jobledger.service.export.sources import LogSource
from jobledger.service.export.text_format import JSONLines

_PULL_EVENTS: Final = 2_500  # as ours
_REPOSITORY: Final = Path(__file__).parents[1]
_SAMPLE_SECONDS: Final = 0.05


async def run(sizes: Sizes, output: Output) -> None:
    """Measure both cases on one log."""
    jobs = sizes.replay_jobs
    numbers = count()
    async with served("2m") as bench:
        events = await fill_log(bench, jobs, output, "replay")

        async def bare() -> float:
            return events / await _pull_all(bench, f"bare-{next(numbers)}", events)

        async def ours() -> float:
            return events / await _replay_all(bench, events)

        of_bare, of_ours = await take_turns(sizes.replay_rounds, bare, ours)
        what = f"{events:,} events ({jobs:,} jobs x 4) to NDJSON in a file"
        output.compare(
            "replay/pull",
            f"{what}, against a bare pull loop without acknowledgements that only receives",
            of_ours,
            of_bare,
            "events/s",
        )
        await _memory(bench, what, output)


async def _replay_all(bench: Bench, events: int) -> float:
    """Return the seconds until the file is complete and synced."""
    path = bench.directory / "events.ndjson"
    started = time.perf_counter()
    replay = await LogSource.open(bench.log, ExportQuery(), now=time.time_ns())
    target = open_output(path)
    export = Export(replay.range, JSONLines(target), lambda _: None)
    await export.run(replay.chunks())
    target.finish()
    seconds = time.perf_counter() - started
    assert export.events == events
    path.unlink()
    return seconds


async def _pull_all(bench: Bench, name: str, events: int) -> float:
    """Return the seconds until the last event was received."""
    config = ConsumerConfig(
        durable_name=name, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
    )
    seconds = await pull_all(bench, config, _PULL_EVENTS, events)
    await bench.jetstream.delete_consumer("JOBS", name)
    return seconds


async def _memory(bench: Bench, what: str, output: Output) -> None:
    """Run the command in its own process and sample its memory until it exits."""
    # In the environment: the URL contains a password, and arguments are visible to other users.
    env = {**os.environ, "JOBLEDGER_NATS_URL": bench.url}
    words = ("events", "replay", "-o", "ndjson", "--output-file", os.devnull)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "jobledger.service.cli.main",
        *words,
        cwd=_REPOSITORY,
        env=env,
        stderr=asyncio.subprocess.DEVNULL,
    )
    ended = asyncio.create_task(child.wait())
    samples: list[float] = []
    while not ended.done():
        samples.append(_resident(child.pid))
        await asyncio.wait([ended], timeout=_SAMPLE_SECONDS)
    assert await ended == 0
    samples = [
        sample for sample, later in pairwise(samples) if later
    ] or samples  # the last samples are from its exit
    half = len(samples) // 2
    early, late = max(samples[: half + 1]), max(samples[half:])
    output.report(
        judge("replay/most", f"resident memory of a replay of {what}, the most", max(early, late), "MB")
    )
    case = f"resident memory of a replay of {what}, the most in the second half, against the first"
    output.report(judge("replay/flat", case, late, "MB", baseline=early, ratio=late / early))


def _resident(pid: int) -> float:
    """Return the resident MB; 0 if the process has exited."""
    try:
        _, resident, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0.0
    return int(resident) * os.sysconf("SC_PAGE_SIZE") / 1e6
