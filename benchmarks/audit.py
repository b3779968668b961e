"""`audit`: the proof of one job in a large log, from request to document."""

import random
import time

from benchmarks.harness import Output, judge, percentile, take_turns
from benchmarks.projection import catch_up
from benchmarks.sizes import Sizes
from benchmarks.workload import fill_log, job_key, served
from jobledger.projections.projector import Projector
from jobledger.projections.tree_reader import TreeReader
from jobledger.projections.view import View
from jobledger.service.audit.bundle_check import check_bundle
from jobledger.service.audit.model.bundle import read_bundle
from jobledger.service.audit.model.checkpoint import make_seal
from jobledger.service.audit.model.note import Signer
from jobledger.service.audit.proof import make_proof

_ORIGIN, _MARK = "jobledger/benchmark", "benchmark"


async def run(sizes: Sizes, output: Output) -> None:
    """Measure proofs of random jobs, one after the other; each is verified, which is timed too."""
    jobs = sizes.audit_jobs
    signer = Signer.of(_ORIGIN, bytes(32))
    chance = random.Random(11)
    async with served("2m") as bench:
        path = bench.directory / "view.db"
        events = await fill_log(bench, jobs, output, "audit")
        output.say("audit: projecting it, with its tree")
        await catch_up(Projector(bench.log, path), events)
        seals = await bench.log.seals(_MARK)
        checks: list[float] = []
        async with await View.open(path) as view:
            tree = TreeReader(view)
            seal = make_seal(_ORIGIN, events, await tree.root(events), (signer,))
            assert await seals.append(seal.note.encode(), expect=0)

            async def proofs() -> float:
                took = []
                for _ in range(sizes.audit_calls):
                    job = await view.get_by_id(job_key(chance.randrange(jobs)).job_id)
                    started = time.perf_counter()
                    proof = await make_proof(bench.log, tree, seals, job.status)
                    took.append(time.perf_counter() - started)
                    started = time.perf_counter()
                    verdict = check_bundle(read_bundle(proof.text), (signer.key,), job=job.status.id)
                    checks.append(time.perf_counter() - started)
                    assert verdict.ok, verdict
                    assert verdict.events == 4
                return 1e3 * percentile(took, 0.5)

            await take_turns(1, proofs)  # warm-up
            checks.clear()
            [figures] = await take_turns(sizes.rounds, proofs)
    case = f"the proof of one job of 4 events in a log of {events:,}, {sizes.audit_calls:,} a round, p50"
    output.report(judge("audit/proof", case, percentile(figures, 0.5), "ms"))
    output.say(f"audit: checking one takes {1e3 * percentile(checks, 0.5):.1f} ms, p50")
