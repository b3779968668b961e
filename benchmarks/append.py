"""`append`: the log's `append` against the client library's `js.publish`, on one server with one disk."""

from functools import partial

from benchmarks.harness import Output, compare, judge, take_turns
from benchmarks.sizes import Load, Sizes
from benchmarks.workload import Bench, new_drafts, publish, rate_of, served
from jobledger.store.log import NO_JOB, Appended, PendingEvent


async def run(sizes: Sizes, output: Output) -> None:
    """Every combination of sync interval and number of callers, each on a server of its own."""
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

        await take_turns(1, baseline, ours)  # warm: the publisher learns what this server's disk is like
        of_baseline, of_ours = await take_turns(rounds, baseline, ours)
    found = compare(of_ours, of_baseline)
    case = (
        f"append, sync_interval {sync}, {callers} caller{'s' * (callers > 1)} on distinct jobs,"
        f" {load.ours:,} events a round, against js.publish"
    )
    output.report(judge(key, case, found.value, "events/s", baseline=found.baseline, ratio=found.ratio))


async def _send(bench: Bench, draft: PendingEvent) -> None:
    assert isinstance(await bench.log.append(draft, expect=NO_JOB), Appended)
