"""`create`: the whole command, from a decoded spec to an acknowledged event, against a bare `js.publish`."""

from functools import partial
from itertools import count

from benchmarks.harness import Output, compare, judge, take_turns
from benchmarks.sizes import Sizes
from benchmarks.workload import ACTOR, REASON, named_spec, new_drafts, publish, rate_of, served
from jobledger.store.ledger import Ledger
from jobledger.store.spec.spec import JobSpec

_CALLERS = 256


async def run(sizes: Sizes, output: Output) -> None:
    """Normalise, validate, encode, decide and append, where the baseline only appends."""
    load = sizes.create
    async with served("always") as bench:
        ledger = Ledger(bench.log)
        numbers = count()

        async def create(spec: JobSpec) -> None:
            await ledger.create(spec, actor=ACTOR, reason=REASON)

        async def baseline() -> float:
            return await rate_of(new_drafts(load.baseline), _CALLERS, partial(publish, bench.jetstream))

        async def ours() -> float:
            return await rate_of([named_spec(next(numbers)) for _ in range(load.ours)], _CALLERS, create)

        await take_turns(1, baseline, ours)  # warm: the publisher learns what this server's disk is like
        of_baseline, of_ours = await take_turns(sizes.rounds, baseline, ours)
    found = compare(of_ours, of_baseline)
    output.report(
        judge(
            "create/always/256",
            f"create from a decoded spec, sync_interval always, {_CALLERS} callers,"
            f" {load.ours:,} jobs a round, against js.publish",
            found.value,
            "jobs/s",
            baseline=found.baseline,
            ratio=found.ratio,
        )
    )
