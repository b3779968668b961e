"""`tree`: catching up on a log with the Merkle tree, against the same without it."""

import gc

from benchmarks.harness import Output, compare, judge, take_turns
from benchmarks.project import AFTER_CREATION, catch_up
from benchmarks.sizes import Sizes
from benchmarks.workload import JobLog, served
from jobledger.projections.database import remove_view
from jobledger.projections.projector import Projector


async def run(sizes: Sizes, output: Output) -> None:
    """One case: what the tree costs the projector."""
    jobs = sizes.project_jobs
    async with served("2m") as bench:
        view = bench.directory / "view.db"
        filler = JobLog(bench.log, jobs)
        output.say(f"tree: filling a log with {4 * jobs:,} events")
        await filler.create(range(jobs))
        for state in AFTER_CREATION:
            await filler.change(range(jobs), state)
        events = filler.last_sequence

        async def rate(*, tree: bool) -> float:
            remove_view(view)
            gc.collect()
            return events / await catch_up(Projector(bench.log, view, tree=tree), events)

        await rate(tree=True)  # warm
        without, with_tree = await take_turns(sizes.rounds, lambda: rate(tree=False), lambda: rate(tree=True))
    found = compare(with_tree, without)
    output.report(
        judge(
            "tree/project",
            f"catch up on {events:,} events ({jobs:,} jobs x 4) with the Merkle tree, against without",
            found.value,
            "events/s",
            baseline=found.baseline,
            ratio=found.ratio,
        )
    )
