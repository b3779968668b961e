"""`live`: how soon what was acknowledged can be read."""

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from benchmarks.harness import Output, judge, percentile
from benchmarks.sizes import Sizes
from benchmarks.workload import JobLog, served
from jobledger.projections.projector import Projector
from jobledger.store.model.job import StateType

_WARM_SECONDS = 1.0
_SHARE_ON_TIME = 0.95


async def run(sizes: Sizes, output: Output) -> None:
    """Appends at a steady rate, whatever the answers do; each then waits until the view shows its event."""
    seconds = sizes.live_round_seconds
    async with served("always") as bench, Projector(bench.log, bench.directory / "view.db") as projector:
        total = int(sizes.live_rate * (sizes.rounds * seconds + _WARM_SECONDS))
        changing = total // 2 + 1
        filler = JobLog(bench.log, 2 * changing)
        await filler.create(range(changing))  # the jobs that will change
        await projector.wait_for(filler.last_sequence, 60)
        numbers = count()

        async def one(waits: list[float]) -> None:
            number = next(numbers)
            if number % 2:
                sequence = await filler.change_one(number // 2, StateType.RUNNING)
            else:
                sequence = await filler.create_one(changing + number // 2)
            acknowledged = time.perf_counter()
            await projector.wait_for(sequence)
            waits.append(time.perf_counter() - acknowledged)

        await _paced(sizes.live_rate, _WARM_SECONDS, one)
        rounds = [await _paced(sizes.live_rate, seconds, one) for _ in range(sizes.rounds)]
    figures = [(1e3 * percentile(waits, 0.5), 1e3 * percentile(waits, 0.99)) for waits in rounds]
    output.say("live: p50/p99 ms by round: " + ", ".join(f"{p50:.2f}/{p99:.1f}" for p50, p99 in figures))
    what = f"acknowledged to visible at {sizes.live_rate:,} events/s, {sizes.rounds} rounds of {seconds:g} s"
    for key, column in (("live/p50", 0), ("live/p99", 1)):
        value = statistics.median(figure[column] for figure in figures)
        output.report(judge(key, f"{what}, {key.rpartition('/')[2]}", value, "ms"))


async def _paced(
    rate: int, seconds: float, one: Callable[[list[float]], Coroutine[Any, Any, None]]
) -> list[float]:
    """Start one call per tick; a late answer delays no other call."""
    waits: list[float] = []
    clock = asyncio.get_running_loop().time
    total = int(rate * seconds)
    started = clock()
    async with asyncio.TaskGroup() as group:
        for number in range(total):
            early = started + number / rate - clock()
            if early > 0:
                await asyncio.sleep(early)
            group.create_task(one(waits))
        took = clock() - started
    if total / took < _SHARE_ON_TIME * rate:
        raise RuntimeError(
            f"only {total / took:,.0f} of {rate:,} events/s could be sent; measure on a less busy machine"
        )
    return waits
