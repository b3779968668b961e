"""`project`: catching up on a log into a committed view, on an empty view and on a large one.

Two baselines say where the time goes: reading without doing anything, and SQLite alone on the same rows.
"""

import gc
import statistics
import time
from itertools import cycle
from pathlib import Path

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from benchmarks.harness import Output, compare, judge, take_turns
from benchmarks.rawsqlite import fresh_file, prepare, write_rows
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, JobLog, read_whole, served
from jobledger.projections.batch import Batch
from jobledger.projections.database import remove_view
from jobledger.projections.projector import Projector
from jobledger.store.log import EventLog
from jobledger.store.model.events import decode_event
from jobledger.store.model.job import StateType

CATCH_UP_TIMEOUT_SECONDS = 900.0
AFTER_CREATION = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)
_FETCH_EVENTS = 1_000


async def run(sizes: Sizes, output: Output) -> None:
    """The three cases; the first figure is the baseline of the last."""
    first = await _empty_view(sizes, output)
    await _large_view(sizes, output, first)


async def catch_up(projector: Projector, last_sequence: int) -> float:
    """Seconds from an unstarted projector to a view that holds the whole log."""
    started = time.perf_counter()
    await projector.start()
    try:
        await projector.wait_live(CATCH_UP_TIMEOUT_SECONDS)
        seconds = time.perf_counter() - started
        assert projector.sequence == last_sequence
    finally:
        await projector.stop()
    return seconds


class _Watched(Projector):
    """A projector that notes where its transactions end, so that the baseline's can be of the same size."""

    def __init__(self, log: EventLog, path: Path) -> None:
        super().__init__(log, path)
        self.ends: list[int] = []

    async def _write(self, batch: Batch) -> None:
        self.ends.append(batch.last_sequence)
        await super()._write(batch)


async def _empty_view(sizes: Sizes, output: Output) -> float:
    jobs = sizes.project_jobs
    async with served("2m") as bench:
        view = bench.directory / "view.db"
        raw = bench.directory / "raw.db"
        filler = JobLog(bench.log, jobs)
        output.say(f"project: filling a log with {4 * jobs:,} events")
        await filler.create(range(jobs))
        for state in AFTER_CREATION:  # one state after the other: the four events of a job are far apart
            await filler.change(range(jobs), state)
        events = filler.last_sequence
        watched = _Watched(bench.log, view)
        await catch_up(watched, events)  # warm
        rows = prepare(await read_whole(bench.log, events), watched.ends)
        gc.freeze()  # the rows that wait for their baseline are not for the others to collect

        async def fetch() -> float:
            return events / await _fetch_all(bench, events)

        async def sqlite3() -> float:
            await fresh_file(raw)
            return events / write_rows(raw, rows)

        async def ours() -> float:
            remove_view(view)
            return events / await catch_up(Projector(bench.log, view), events)

        of_fetch, of_sqlite3, of_ours = await take_turns(sizes.rounds, fetch, sqlite3, ours)
        gc.unfreeze()
    what = f"catch up on {events:,} events ({jobs:,} jobs x 4) into a committed view, against"
    for key, baseline, name in (
        ("project/fetch", of_fetch, f"fetch({_FETCH_EVENTS}) that only receives and decodes"),
        ("project/sqlite3", of_sqlite3, "sqlite3 writing the same rows by executemany"),
    ):
        found = compare(of_ours, baseline)
        output.report(
            judge(
                key,
                f"{what} {name}",
                found.value,
                "events/s",
                baseline=found.baseline,
                ratio=found.ratio,
            )
        )
    return statistics.median(of_ours)


async def _fetch_all(bench: Bench, events: int) -> float:
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
    subscription = await bench.jetstream.pull_subscribe("jobs.>", stream="JOBS", config=config)
    started = time.perf_counter()
    received = 0
    while received < events:
        for message in await subscription.fetch(_FETCH_EVENTS, timeout=10):
            decode_event(message.data)
            received += 1
    seconds = time.perf_counter() - started
    await subscription.unsubscribe()
    return seconds


async def _large_view(sizes: Sizes, output: Output, first: float) -> None:
    jobs, hot = sizes.large_jobs, sizes.hot_jobs
    newest = range(jobs - hot, jobs)
    figures: list[float] = []
    states = cycle((StateType.QUEUED, StateType.RUNNING))
    async with served("2m") as bench:
        view = bench.directory / "view.db"
        filler = JobLog(bench.log, jobs)
        output.say(f"project: filling a log with {jobs:,} jobs")
        await filler.create(range(jobs))
        output.say(f"project: catching up on {jobs:,} jobs")
        seconds = await catch_up(Projector(bench.log, view), filler.last_sequence)
        output.say(f"project: done, {jobs / seconds:,.0f} events/s")
        for number in range(sizes.rounds + 1):
            before = filler.last_sequence
            for _ in range(3):
                await filler.change(newest, next(states))
            gc.collect()
            # A new projector: it remembers nothing of these jobs, as after a restart.
            seconds = await catch_up(Projector(bench.log, view), filler.last_sequence)
            if number > 0:  # the first is to warm
                figures.append((filler.last_sequence - before) / seconds)
    value = statistics.median(figures)
    case = f"updates to the newest {hot:,} of {jobs:,} jobs ({3 * hot:,} events), against the first figure"
    output.report(judge("project/large", case, value, "events/s", baseline=first, ratio=value / first))
