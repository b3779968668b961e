"""`subscribe`: a durable subscription catching up, against a bare pull loop with acknowledgements.

The baseline is hand-written: two pull requests in flight, a callback, each event decoded and acknowledged.
Ours also folds each event's job, for its revision and version.
"""

import asyncio
import time
from itertools import count
from typing import Final

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from benchmarks.harness import Output, take_turns
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, fill_log, pull_all, served
from jobledger import subscribe
from jobledger.store.backoff import Backoff
from jobledger.store.model.events import decode_event

_PULL_EVENTS: Final = 1_000  # faster than 250, and not slower than 2,500
_POLL_SECONDS: Final = 0.005
_POLL_MAX_SECONDS: Final = 0.1
_APPLY_SECONDS: Final = 30.0  # for acknowledgements that the server has received


async def run(sizes: Sizes, output: Output) -> None:
    """Measure one case, with new consumers in every round, so that each starts at the beginning."""
    jobs = sizes.subscribe_jobs
    numbers = count()
    async with served("2m") as bench:
        events = await fill_log(bench, jobs, output, "subscribe")

        async def bare() -> float:
            return events / await _pull_all(bench, f"bare-{next(numbers)}", events)

        async def ours() -> float:
            return events / await _subscribe_to_all(bench, f"ours-{next(numbers)}", events)

        await ours()  # warm-up
        of_bare, of_ours = await take_turns(sizes.rounds, bare, ours)
    output.compare(
        "subscribe/pull",
        f"a durable subscription over {events:,} events ({jobs:,} jobs x 4), against a bare pull loop"
        " that decodes and acknowledges each",
        of_ours,
        of_bare,
        "events/s",
    )


async def _subscribe_to_all(bench: Bench, name: str, events: int) -> float:
    """Return the seconds until the last event was handled and the server knows it."""
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
    """Return the seconds until the server has received the acknowledgement of the last event."""
    config = ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        max_ack_pending=3 * _PULL_EVENTS,
    )

    async def handle(message: Msg) -> None:
        decode_event(message.data)
        await bench.jetstream._nc.publish(message.reply, b"+ACK")

    seconds = await pull_all(bench, config, _PULL_EVENTS, events, handle)
    await _all_acknowledged(bench, name, events)
    return seconds


async def _all_acknowledged(bench: Bench, name: str, events: int) -> None:
    """Verify that every event was acknowledged, and delete the consumer.

    The server receives acknowledgements in one goroutine and applies them in another, so under load it may
    still be applying those that it has received. That time counts for neither side.
    """
    backoff = Backoff(_POLL_SECONDS, _POLL_MAX_SECONDS)
    applied = 0
    try:
        async with asyncio.timeout(_APPLY_SECONDS):
            while applied < events:
                info = await bench.jetstream.consumer_info("JOBS", name)
                assert info.ack_floor is not None
                applied = info.ack_floor.stream_seq
                if applied < events:
                    await backoff.sleep()
    except TimeoutError:
        raise AssertionError(f"{name}: {applied} of {events} acknowledged") from None
    await bench.jetstream.delete_consumer("JOBS", name)
