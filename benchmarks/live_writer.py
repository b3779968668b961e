"""Appends at a steady rate, for `live`: a process of its own, because it must not share the projector's loop.

The first line on standard input is a `LiveTask`. Each further line starts a round, which is answered with
lines of JSON: pairs of a sequence and the time of its acknowledgement, then an empty list.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import msgspec

from benchmarks.workload import JobLog
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.job import StateType

_PAIRS_PER_LINE = 1_000  # a line must fit into the buffer of the reader


class LiveTask(msgspec.Struct):
    """What to append.

    Attributes:
        url: of the server.
        rate: events per second.
        seconds: of each round.
        rounds: the number of rounds.
        share_on_time: of the rate, which a round must reach.
    """

    url: str
    rate: int
    seconds: float
    rounds: int
    share_on_time: float


async def run() -> None:
    """Create the jobs whose state changes, then append in rounds."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=LiveTask)
    changing = int(task.rate * task.rounds * task.seconds) // 2 + 1
    log = await JetStreamLog.connect(task.url)
    try:
        filler = JobLog(log, 2 * changing)
        await filler.create(range(changing))
        _answer(filler.last_sequence)
        numbers = count()
        acknowledged: list[tuple[int, int]] = []

        async def one() -> None:
            number = next(numbers)
            if number % 2:
                sequence = await filler.change_one(number // 2, StateType.RUNNING)
            else:
                sequence = await filler.create_one(changing + number // 2)
            acknowledged.append((sequence, time.monotonic_ns()))

        while await asyncio.to_thread(sys.stdin.buffer.readline):
            await _paced(task, one)
            for start in range(0, len(acknowledged), _PAIRS_PER_LINE):
                _answer(acknowledged[start : start + _PAIRS_PER_LINE])
            _answer([])
            acknowledged.clear()
    finally:
        await log.close()


async def _paced(task: LiveTask, one: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start one call per tick; a slow response does not delay other calls."""
    clock = asyncio.get_running_loop().time
    rate, total = task.rate, int(task.rate * task.seconds)
    started = clock()
    async with asyncio.TaskGroup() as group:
        for number in range(total):
            early = started + number / rate - clock()
            if early > 0:
                await asyncio.sleep(early)
            group.create_task(one())
        took = clock() - started
    if total / took < task.share_on_time * rate:
        raise RuntimeError(
            f"only {total / took:,.0f} of {rate:,} events/s could be sent; measure on a less busy machine"
        )


def _answer(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(run())
