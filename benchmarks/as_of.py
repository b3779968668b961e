"""`asof`: one job as of a point, the first lists as of a new point, and lists of points near it.

The first page of the jobs modified last is read from the log, and pages in the order of creation from the
live view and the log. Other lists, and counts, need a snapshot of the view.

Two logs, because the first list costs more the more jobs keep changing: in one, jobs end early; in the other,
the worst case, every job changes until the end of the log.
"""

import random
import time
from collections.abc import Iterable
from typing import Final

from benchmarks.harness import Output, judge, percentile
from benchmarks.projection import CATCH_UP_TIMEOUT_SECONDS
from benchmarks.sizes import Sizes
from benchmarks.workload import AFTER_CREATION, Bench, JobLog, job_key, namespace_of, served
from jobledger.projections.as_of.reader import AsOf
from jobledger.projections.errors import AsOfBusy
from jobledger.projections.limits import ASOF_NEAR_EVENTS
from jobledger.projections.projector import Projector
from jobledger.projections.query.query import ListQuery, Order
from jobledger.projections.view import View

_SHARES: Final = (0.25, 0.5, 0.9)  # of the log, for the points
_WINDOWS: Final = 25  # groups of jobs that run at the same time, if jobs end
_PAGE: Final = ListQuery(namespace=namespace_of(0), order=Order.MODIFIED, descending=True, limit=50)
_CREATED_PAGE: Final = ListQuery(namespace=namespace_of(0), order=Order.CREATED, limit=50)
_BUILT_PAGE: Final = ListQuery(namespace=namespace_of(0), order=Order.MODIFIED, limit=50)  # needs a snapshot


async def run(sizes: Sizes, output: Output) -> None:
    """Measure eight cases; the worst of all points counts."""
    jobs = sizes.asof_jobs
    near: list[float] = []
    for key, what, windows in (
        ("asof/first", "jobs that end", _WINDOWS),
        ("asof/first/alive", "jobs that never end", 1),
    ):
        async with served("2m") as bench:
            output.say(f"asof: filling a log with {4 * jobs:,} events of {what}")
            filler = JobLog(bench.log, jobs)
            for start in range(0, jobs, max(1, jobs // windows)):
                window = range(start, min(jobs, start + max(1, jobs // windows)))
                await filler.create(window)
                for state in AFTER_CREATION:
                    await filler.change(window, state)
            events = filler.last_sequence
            path = bench.directory / "view.db"
            output.say("asof: catching up")
            started = time.perf_counter()
            async with Projector(bench.log, path) as projector:
                await projector.wait_for(events, CATCH_UP_TIMEOUT_SECONDS)
            whole = time.perf_counter() - started
            async with await View.open(path) as view:
                if windows > 1:
                    await _one_job(sizes, output, bench, view, events)
                lists = [await _lists(bench, view, share, near, output) for share in _SHARES]
        first, created, built = zip(*lists, strict=True)
        case = f"as of a new point of {events:,} events, {what} (projecting all: {whole:.1f} s)"
        output.report(judge(key, f"first page {case}", max(first), "s"))
        output.report(
            judge(key.replace("first", "created"), f"first page by creation {case}", max(created), "s")
        )
        built_case = f"first page of the jobs modified first {case}"
        output.report(judge(key.replace("first", "built"), built_case, max(built), "s"))
    distance = _distance(events)
    case = f"first page as of a point up to {distance:,} events before or after an earlier one"
    output.report(judge("asof/near", f"{case}, of {events:,}", max(near) * 1_000, "ms"))


async def _one_job(sizes: Sizes, output: Output, bench: Bench, view: View, events: int) -> None:
    """Measure any job as of any point since its creation."""
    chance = random.Random(1)
    times: list[float] = []
    async with await AsOf.open(bench.log, view, bench.directory / "unused") as asof:
        for _ in range(sizes.asof_calls):
            present = await view.get_by_id(job_key(chance.randrange(sizes.asof_jobs)).job_id)
            point = chance.randint(present.status.created_sequence, events)
            started = time.perf_counter()
            await asof.job(present, point)
            times.append(time.perf_counter() - started)
    case = f"one job as of any point of {events:,} events, p50 (p99 {percentile(times, 0.99) * 1_000:.1f} ms)"
    output.report(judge("asof/job", case, percentile(times, 0.5) * 1_000, "ms"))


async def _lists(
    bench: Bench, view: View, share: float, near: list[float], output: Output
) -> tuple[float, float, float]:
    """Return the seconds of the first lists as of a point: modified last, by creation, with a snapshot.

    `near` gets the seconds of lists of points near the snapshot.
    """
    events = (await view.checkpoint()).sequence
    point = round(share * events)
    async with await AsOf.open(bench.log, view, bench.directory / f"asof-{point}") as asof:
        first = await _seconds(asof, _PAGE, point)
        created = await _seconds(asof, _CREATED_PAGE, point)
        built = await _seconds(asof, _BUILT_PAGE, point)
        after = [await _seconds(asof, _BUILT_PAGE, each) for each in _nearby_points(point, _distance(events))]
    near += after
    times = f"{first:.2f} s, {created:.2f} s, {built:.1f} s, near it {max(after):.2f} s at most"
    output.say(f"asof: as of {point:,}: {times}")
    return first, created, built


async def _seconds(asof: AsOf, query: ListQuery, point: int) -> float:
    started = time.perf_counter()
    while True:
        try:
            page = await asof.list(query, point)
        except AsOfBusy:  # the build continues, and its time counts
            continue
        assert page.sequence == point
        return time.perf_counter() - started


def _distance(events: int) -> int:
    return min(ASOF_NEAR_EVENTS, events // 20)


def _nearby_points(point: int, distance: int) -> Iterable[int]:
    return (point - distance, point + distance, point - distance // 2, point - 1, point + 1)
