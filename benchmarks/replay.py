"""`replay`: a long log to NDJSON, beside a bare pull loop without acknowledgements; and the memory it takes.

The baseline only receives: two pull requests under way, a callback that counts. Ours reads likewise, folds
every event for its revision and version, and writes it with its place to a file.
"""

import asyncio
import os
import sys
import time
from itertools import count, pairwise
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from benchmarks.harness import Output, compare, judge, take_turns
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, JobLog, served
from jobledger.service.export.exporter import Export
from jobledger.service.export.log_source import LogReplay
from jobledger.service.export.output_file import open_target
from jobledger.service.export.query import Asked
from jobledger.service.export.text_format import Lines
from jobledger.store.model.job import StateType

_PULL_EVENTS: Final = 2_500  # as ours
_PULL_EXPIRES_NANOSECONDS: Final = 30_000_000_000
_AFTER_CREATION: Final = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)
_REPOSITORY: Final = Path(__file__).parents[1]
_LOOK_SECONDS: Final = 0.05


async def run(sizes: Sizes, output: Output) -> None:
    """Both cases, on one log."""
    jobs = sizes.replay_jobs
    numbers = count()
    async with served("2m") as bench:
        filler = JobLog(bench.log, jobs)
        output.say(f"replay: filling a log with {4 * jobs:,} events")
        await filler.create(range(jobs))
        for state in _AFTER_CREATION:  # one state after the other: the four events of a job are far apart
            await filler.change(range(jobs), state)
        events = filler.last_sequence

        async def bare() -> float:
            return events / await _pull_all(bench, f"bare-{next(numbers)}", events)

        async def ours() -> float:
            return events / await _replay_all(bench, events)

        of_bare, of_ours = await take_turns(sizes.replay_rounds, bare, ours)
        found = compare(of_ours, of_bare)
        what = f"{events:,} events ({jobs:,} jobs x 4) to NDJSON in a file"
        output.report(
            judge(
                "replay/pull",
                f"{what}, against a bare pull loop without acknowledgements that only receives",
                found.value,
                "events/s",
                baseline=found.baseline,
                ratio=found.ratio,
            )
        )
        await _memory(bench, what, output)


async def _replay_all(bench: Bench, events: int) -> float:
    """Seconds until the file is whole and synced."""
    path = bench.directory / "events.ndjson"
    started = time.perf_counter()
    replay = await LogReplay.ask(bench.log, Asked(), now=time.time_ns())
    target = open_target(path)
    telling = Export(replay.range, Lines(target), lambda _: None)
    await telling.run(replay.chunks())
    target.finish()
    seconds = time.perf_counter() - started
    assert telling.events == events
    path.unlink()
    return seconds


async def _pull_all(bench: Bench, name: str, events: int) -> float:
    """Seconds until the last event was received."""
    connection = bench.jetstream._nc
    config = ConsumerConfig(
        durable_name=name, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
    )
    request = msgspec.json.encode({"batch": _PULL_EVENTS, "expires": _PULL_EXPIRES_NANOSECONDS})
    inbox = connection.new_inbox()
    done = asyncio.get_running_loop().create_future()
    received = 0

    async def handle(_: Msg) -> None:
        nonlocal received
        received += 1
        if received % _PULL_EVENTS == 0:
            await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{name}", request, inbox)
        if received == events:
            done.set_result(None)

    started = time.perf_counter()
    await bench.jetstream.add_consumer("JOBS", config)
    subscription = await connection.subscribe(inbox, cb=handle, pending_msgs_limit=0, pending_bytes_limit=0)
    for _ in range(2):
        await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{name}", request, inbox)
    await done
    seconds = time.perf_counter() - started
    await subscription.unsubscribe()
    await bench.jetstream.delete_consumer("JOBS", name)
    return seconds


async def _memory(bench: Bench, what: str, output: Output) -> None:
    """Run the command in a process of its own, and look at it until it ends."""
    # By the environment: the address holds a password, and arguments are for all to see.
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
    looks: list[float] = []
    while not ended.done():
        looks.append(_resident(child.pid))
        await asyncio.wait([ended], timeout=_LOOK_SECONDS)
    assert await ended == 0
    looks = [look for look, later in pairwise(looks) if later] or looks  # the last are of its end
    half = len(looks) // 2
    early, late = max(looks[: half + 1]), max(looks[half:])
    output.report(
        judge("replay/most", f"resident memory of a replay of {what}, the most", max(early, late), "MB")
    )
    case = f"resident memory of a replay of {what}, the most in the second half, against the first"
    output.report(judge("replay/flat", case, late, "MB", baseline=early, ratio=late / early))


def _resident(pid: int) -> float:
    """MB that are resident; 0 when it is gone."""
    try:
        _, resident, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0.0
    return int(resident) * os.sysconf("SC_PAGE_SIZE") / 1e6
