"""`project`, `tree`, `live`: catching up on a log, the cost of the Merkle tree, and the delay of a live view.

`project` has two baselines: reading without processing, and SQLite alone writing the same rows.
"""

import asyncio
import gc
import shutil
import sqlite3
import statistics
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from benchmarks.harness import Output, judge, percentile, take_turns
from benchmarks.live_writer import LiveTask
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, Child, JobLog, child, fill_log, read_whole, served
from jobledger.projections import writer as viewwriter
from jobledger.projections.batch import Batch, fold_batch, label_rows, read_events
from jobledger.projections.database import _pragmas, remove_view
from jobledger.projections.errors import WaitTimeout
from jobledger.projections.limits import PAGE_CACHE_BYTES
from jobledger.projections.projector import Projector
from jobledger.projections.rows import STATE_CHANGE_COLUMNS, job_row, state_change_row
from jobledger.projections.writer import ViewWriter
from jobledger.store.log import EventLog
from jobledger.store.model.events import Record, decode_event
from jobledger.store.model.job import JobStatus, StateType

CATCH_UP_TIMEOUT_SECONDS = 900.0
_FETCH_EVENTS = 1_000
_BASELINE_CHECKPOINT_PAGES = 4_000  # four times SQLite's default


async def run(sizes: Sizes, output: Output) -> None:
    """Measure four cases; the first figure is the baseline of one of them."""
    first = await _empty_view(sizes, output)
    await _large_view(sizes, output, first)


async def catch_up(projector: Projector, last_sequence: int) -> float:
    """Return the seconds from starting a projector to a view of the whole log."""
    started = time.perf_counter()
    await projector.start()
    try:
        await projector.wait_live(CATCH_UP_TIMEOUT_SECONDS)
        seconds = time.perf_counter() - started
        assert projector.sequence == last_sequence
    finally:
        await projector.stop()
    return seconds


class _RecordingProjector(Projector):
    """A projector that records where its transactions end, so that the baseline uses the same sizes."""

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
        events = await fill_log(bench, jobs, output, "project")
        recording = _RecordingProjector(bench.log, view)
        await catch_up(recording, events)  # warm-up
        rows = prepare(await read_whole(bench.log, events), recording.ends)
        gc.freeze()  # the prepared rows of the baseline must not slow down the collector

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
        output.compare(
            key,
            f"{what} {name}",
            of_ours,
            baseline,
            "events/s",
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
        filler = JobLog(bench.log, jobs + (sizes.rounds + 1) * sizes.new_jobs)
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
            # A new projector has an empty cache, as after a restart.
            seconds = await catch_up(Projector(bench.log, view), filler.last_sequence)
            if number > 0:  # the first is the warm-up
                figures.append((filler.last_sequence - before) / seconds)
        await _new_jobs(sizes, output, bench, filler)
    value = statistics.median(figures)
    case = f"updates to the newest {hot:,} of {jobs:,} jobs ({3 * hot:,} events), against the first figure"
    output.report(judge("project/large", case, value, "events/s", baseline=first, ratio=value / first))


async def _new_jobs(sizes: Sizes, output: Output, large: Bench, filler: JobLog) -> None:
    """Compare new jobs on the large view, which grows, with the same number on copies of a small view."""
    jobs, count, small_jobs = sizes.large_jobs, sizes.new_jobs, sizes.read_small_jobs
    starts = iter(range(jobs, jobs + (sizes.rounds + 1) * count, count))
    async with served("2m") as small:
        small_filler = JobLog(small.log, small_jobs + count)
        await small_filler.create(range(small_jobs))
        small_view, copy = small.directory / "view.db", small.directory / "copy.db"
        await catch_up(Projector(small.log, small_view), small_filler.last_sequence)
        await small_filler.create(range(small_jobs, small_jobs + count))

        async def on_large() -> float:
            start = next(starts)
            await filler.create(range(start, start + count))
            gc.collect()
            projector = Projector(large.log, large.directory / "view.db")
            return count / await catch_up(projector, filler.last_sequence)

        async def on_small() -> float:
            remove_view(copy)
            shutil.copyfile(small_view, copy)
            gc.collect()
            return count / await catch_up(Projector(small.log, copy), small_filler.last_sequence)

        await take_turns(1, on_large, on_small)  # warm-up
        of_large, of_small = await take_turns(sizes.rounds, on_large, on_small)
    case = f"{count:,} new jobs on a view of {jobs:,} jobs, against the same on one of {small_jobs:,}"
    output.compare("project/new", case, of_large, of_small, "events/s")


# An UPDATE of one row in its plainest form; the projector's own updates many rows at once.
_KEY, *_CHANGED = STATE_CHANGE_COLUMNS
_UPDATE_ONE = f"UPDATE jobs SET {', '.join(f'{column} = ?' for column in _CHANGED)} WHERE {_KEY} = ?"
_MOVE_CHECKPOINT = "UPDATE checkpoint SET sequence = ?"


class Statement(NamedTuple):
    """SQL, and the rows of parameters that `executemany` runs it with."""

    sql: str
    rows: Sequence[Sequence[Any]]


Rows = list[list[Statement]]
"""Everything to write, by transaction."""


def prepare(records: Sequence[Record], ends: Sequence[int]) -> Rows:
    """Return the writes of these records, for `executemany`.

    Args:
        records: the whole log, in order, without a gap.
        ends: the last sequence of each transaction.
    """
    known: dict[str, JobStatus] = {}
    transactions: Rows = []
    start = 0
    for end in ends:
        batch = fold_batch(read_events(records[start:end]), known)
        known.update(batch.statuses)
        start = end
        assert not batch.spec_changed
        assert not batch.anomalies
        state_changed = [state_change_row(status) for status in batch.state_changed.values()]
        work: list[tuple[str, Sequence[Sequence[Any]]]] = [
            (_UPDATE_ONE, [(*row[1:], row[0]) for row in state_changed]),
            (viewwriter._INSERT_JOB, [job_row(status, head) for status, head in batch.created.values()]),
            (viewwriter._INSERT_SPEC, batch.specs),
            (viewwriter._INSERT_LABEL, label_rows(batch.created.values())),
        ]
        statements = [Statement(_MOVE_CHECKPOINT, [(batch.last_sequence,)])]
        for sql, rows in work:
            if rows:
                values = f"({', '.join('?' * len(rows[0]))})"
                statements.append(Statement(sql.format(values=values), rows))
        transactions.append(statements)
    return transactions


async def fresh_file(path: Path) -> None:
    """Create an empty view of the current schema with the projector's own writer."""
    remove_view(path)
    writer = await ViewWriter.open(path)
    await writer.close()


def write_rows(path: Path, rows: Rows) -> float:
    """Return the seconds from the first BEGIN to the last COMMIT, with the view's pragmas, on one thread."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in _pragmas(PAGE_CACHE_BYTES):
            connection.execute(pragma)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_BASELINE_CHECKPOINT_PAGES}")
        started = time.perf_counter()
        for statements in rows:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.executemany(statement.sql, statement.rows)
            connection.execute("COMMIT")
        return time.perf_counter() - started
    finally:
        connection.close()


async def run_tree(sizes: Sizes, output: Output) -> None:
    """Measure catching up with the Merkle tree against the same without it."""
    jobs = sizes.project_jobs
    async with served("2m") as bench:
        view = bench.directory / "view.db"
        events = await fill_log(bench, jobs, output, "tree")

        async def rate(*, tree: bool) -> float:
            remove_view(view)
            gc.collect()
            return events / await catch_up(Projector(bench.log, view, tree=tree), events)

        await rate(tree=True)  # warm-up
        without, with_tree = await take_turns(sizes.rounds, lambda: rate(tree=False), lambda: rate(tree=True))
    output.compare(
        "tree/project",
        f"catch up on {events:,} events ({jobs:,} jobs x 4) with the Merkle tree, against without",
        with_tree,
        without,
        "events/s",
    )


_SHARE_ON_TIME = 0.95


async def run_live(sizes: Sizes, output: Output) -> None:
    """Append at a steady rate and measure the time from each acknowledgement to the event in the view.

    The writers are another process. Both use the machine's monotonic clock.
    """
    seconds = sizes.live_round_seconds
    async with (
        served("always") as bench,
        Projector(bench.log, bench.directory / "view.db") as projector,
        child("benchmarks.live_writer") as writer,
    ):
        rounds_and_warm_up = sizes.rounds + 1
        await writer.send(LiveTask(bench.url, sizes.live_rate, seconds, rounds_and_warm_up, _SHARE_ON_TIME))
        await projector.wait_for(int(await writer.stdout.readline()), CATCH_UP_TIMEOUT_SECONDS)
        visible: list[tuple[int, int]] = []  # positions of the view, and when a waiting reader saw them
        watching = asyncio.create_task(_watch(projector, visible))
        try:
            await _round(writer, projector, visible)  # warm-up
            rounds = [await _round(writer, projector, visible) for _ in range(sizes.rounds)]
        finally:
            watching.cancel()
    figures = [(1e3 * percentile(waits, 0.5), 1e3 * percentile(waits, 0.99)) for waits in rounds]
    output.say("live: p50/p99 ms by round: " + ", ".join(f"{p50:.2f}/{p99:.1f}" for p50, p99 in figures))
    what = f"acknowledged to visible at {sizes.live_rate:,} events/s, {sizes.rounds} rounds of {seconds:g} s"
    for key, column in (("live/p50", 0), ("live/p99", 1)):
        value = statistics.median(figure[column] for figure in figures)
        output.report(judge(key, f"{what}, {key.rpartition('/')[2]}", value, "ms"))


async def _watch(projector: Projector, visible: list[tuple[int, int]]) -> None:
    """Wait for the next event, over and over."""
    while True:
        with suppress(WaitTimeout):
            await projector.wait_for(projector.sequence + 1)
            visible.append((projector.sequence, time.monotonic_ns()))


async def _round(writer: Child, projector: Projector, visible: list[tuple[int, int]]) -> list[float]:
    """Seconds from each acknowledgement of a round to the event in the view; 0 if it was visible before."""
    visible.clear()
    await writer.send("round")
    acknowledged: list[tuple[int, int]] = []
    while pairs := msgspec.json.decode(await writer.stdout.readline(), type=list[tuple[int, int]]):
        acknowledged += pairs
    await projector.wait_for(max(sequence for sequence, _ in acknowledged))
    await asyncio.sleep(0)  # for `_watch`, which was woken at the same time
    return [
        max(0, visible[bisect_left(visible, (sequence, 0))][1] - at) / 1e9 for sequence, at in acknowledged
    ]
