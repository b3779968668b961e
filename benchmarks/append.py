"""`append` and `create`: durable appends and whole commands, against the client library's `js.publish`."""

from functools import partial
from itertools import count

from benchmarks.harness import Output, take_turns
from benchmarks.sizes import Load, Sizes
from benchmarks.workload import ACTOR, REASON, Bench, named_spec, new_drafts, publish, rate_of, served
from jobledger.store.ledger import Ledger
from jobledger.store.log import NO_JOB, Appended, PendingEvent
from jobledger.store.spec.spec import JobSpec


async def run(sizes: Sizes, output: Output) -> None:
    """Measure every combination of sync interval and number of callers, each on its own server."""
    for key, load in sizes.append.items():
        await _append(key, load, sizes.rounds, output)


async def _append(key: str, load: Load, rounds: int, output: Output) -> None:
    _, sync, many = key.split("/")
    callers = int(many)
    async with served(sync) as bench:

        async def baseline() -> float:
            return await rate_of(new_drafts(load.baseline), callers, partial(publish, bench.jetstream))

        async def ours() -> float:
            return await rate_of(new_drafts(load.ours), callers, partial(_send, bench))

        await take_turns(1, baseline, ours)  # warm-up: the publisher measures the disk of this server
        of_baseline, of_ours = await take_turns(rounds, baseline, ours)
    case = (
        f"append, sync_interval {sync}, {callers} caller{'s' * (callers > 1)} on distinct jobs,"
        f" {load.ours:,} events a round, against js.publish"
    )
    output.compare(key, case, of_ours, of_baseline, "events/s")


async def _send(bench: Bench, draft: PendingEvent) -> None:
    assert isinstance(await bench.log.append(draft, expect=NO_JOB), Appended)


_CREATE_CALLERS = 256


async def run_create(sizes: Sizes, output: Output) -> None:
    """Normalize, validate, encode, decide and append; the baseline only appends."""
    load = sizes.create
    async with served("always") as bench:
        ledger = Ledger(bench.log)
        numbers = count()

        async def create(spec: JobSpec) -> None:
            await ledger.create(spec, actor=ACTOR, reason=REASON)

        async def baseline() -> float:
            return await rate_of(
                new_drafts(load.baseline), _CREATE_CALLERS, partial(publish, bench.jetstream)
            )

        async def ours() -> float:
            return await rate_of(
                [named_spec(next(numbers)) for _ in range(load.ours)], _CREATE_CALLERS, create
            )

        await take_turns(1, baseline, ours)  # warm-up: the publisher measures the disk of this server
        of_baseline, of_ours = await take_turns(sizes.rounds, baseline, ours)
    output.compare(
        "create/always/256",
        f"create from a decoded spec, sync_interval always, {_CREATE_CALLERS} callers,"
        f" {load.ours:,} jobs a round, against js.publish",
        of_ours,
        of_baseline,
        "jobs/s",
    )
