"""`subscribe`: a durable subscription catching up, beside a bare pull loop with acknowledgements.

The baseline is what one writes by hand: two pull requests under way, a callback, each event decoded and
acknowledged. Ours does the same and folds each event's job as well, for its revision and version.
"""

import asyncio
import time
from itertools import count
from typing import Final

import msgspec
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from benchmarks.harness import Output, compare, judge, take_turns
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, JobLog, served
from jobledger import subscribe
from jobledger.store.model.events import decode_event
from jobledger.store.model.job import StateType

_PULL_EVENTS: Final = 1_000  # quicker than 250, and no slower than 2,500
_PULL_EXPIRES_NANOSECONDS: Final = 30_000_000_000
_AFTER_CREATION: Final = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)


async def run(sizes: Sizes, output: Output) -> None:
    """The one case; new consumers in every round, so that nobody begins where the other one was."""
    jobs = sizes.subscribe_jobs
    numbers = count()
    async with served("2m") as bench:
        filler = JobLog(bench.log, jobs)
        output.say(f"subscribe: filling a log with {4 * jobs:,} events")
        await filler.create(range(jobs))
        for state in _AFTER_CREATION:  # one state after the other: the four events of a job are far apart
            await filler.change(range(jobs), state)
        events = filler.last_sequence

        async def bare() -> float:
            return events / await _pull_all(bench, f"bare-{next(numbers)}", events)

        async def ours() -> float:
            return events / await _subscribe_to_all(bench, f"ours-{next(numbers)}", events)

        await ours()  # warm
        of_bare, of_ours = await take_turns(sizes.rounds, bare, ours)
    found = compare(of_ours, of_bare)
    output.report(
        judge(
            "subscribe/pull",
            f"a durable subscription over {events:,} events ({jobs:,} jobs x 4), against a bare pull loop"
            " that decodes and acknowledges each",
            found.value,
            "events/s",
            baseline=found.baseline,
            ratio=found.ratio,
        )
    )


async def _subscribe_to_all(bench: Bench, name: str, events: int) -> float:
    """Seconds until the last event was handled and the server knows it."""
    started = time.perf_counter()
    async with subscribe(bench.log, name) as subscription:
        async for event in subscription:
            if event.sequence == events:
                await event.ack()
                break
    seconds = time.perf_counter() - started
    await _all_acknowledged(bench, name, events)
    return seconds


async def _pull_all(bench: Bench, name: str, events: int) -> float:
    """Seconds until the last event was decoded and the server has taken all acknowledgements."""
    connection = bench.jetstream._nc
    config = ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        max_ack_pending=3 * _PULL_EVENTS,
    )
    request = msgspec.json.encode({"batch": _PULL_EVENTS, "expires": _PULL_EXPIRES_NANOSECONDS})
    inbox = connection.new_inbox()
    done = asyncio.get_running_loop().create_future()
    received = 0

    async def handle(message: Msg) -> None:
        nonlocal received
        decode_event(message.data)
        received += 1
        await connection.publish(message.reply, b"+ACK")
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
    await connection.flush()
    seconds = time.perf_counter() - started
    await subscription.unsubscribe()
    await _all_acknowledged(bench, name, events)
    return seconds


async def _all_acknowledged(bench: Bench, name: str, events: int) -> None:
    """Make sure that a side did what it is measured for."""
    info = await bench.jetstream.consumer_info("JOBS", name)
    assert info.ack_floor is not None
    assert info.ack_floor.stream_seq == events, (
        f"{name}: {info.ack_floor.stream_seq} of {events} acknowledged"
    )
    await bench.jetstream.delete_consumer("JOBS", name)
