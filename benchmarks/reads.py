"""`read`: the query layer against plain SQLite, and a large view against a small one."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiosqlite

from benchmarks.harness import Output, percentile, take_turns
from benchmarks.sizes import Sizes
from benchmarks.workload import STATES, SWEEP_JOBS, job_key, labels_of, namespace_of, records
from jobledger.projections.batch import fold_batch, read_events
from jobledger.projections.database import Row, reader_pragmas
from jobledger.projections.limits import COMMIT_MAX_EVENTS
from jobledger.projections.query.query import ListQuery
from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.rows import job_of
from jobledger.projections.view import View
from jobledger.projections.writer import ViewWriter
from jobledger.store.model.job import JobStatus

_PAGE_JOBS = 50


async def run(sizes: Sizes, output: Output) -> None:
    """Measure three reads, on files created without a log; the rows are the same."""
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        small, large = Path(directory) / "small.db", Path(directory) / "large.db"
        for path, jobs in ((small, sizes.read_small_jobs), (large, sizes.read_large_jobs)):
            output.say(f"read: creating a view of {jobs:,} jobs")
            await make_view(path, jobs)
        await _against_raw(small, sizes, output)
        await _large_against_small(small, large, sizes, output)


async def make_view(path: Path, jobs: int) -> None:
    """Create a view of this many jobs, each in a random state, with the projector's writer."""
    chance = random.Random(7)
    waiting = records(jobs, lambda _: chance.choice(STATES))
    writer = await ViewWriter.open(path)
    try:
        await writer.adopt("benchmark")
        # A chunk may end between the two events of a job: the next one needs only the last statuses.
        known: dict[str, JobStatus] = {}
        while chunk := list(islice(waiting, COMMIT_MAX_EVENTS)):
            batch = fold_batch(read_events(chunk), known)
            known = batch.statuses
            await writer.write(batch)
    finally:
        await writer.close()


async def _against_raw(path: Path, sizes: Sizes, output: Output) -> None:
    chance = random.Random(1)
    ids = [job_key(chance.randrange(sizes.read_small_jobs)).job_id for _ in range(sizes.read_calls)]
    connection = await aiosqlite.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        for pragma in reader_pragmas():
            await connection.execute(pragma)
        async with await View.open(path) as view:
            statements = [await _statement_of_get(view, job_id) for job_id in ids]

            async def raw() -> float:
                started = time.perf_counter()
                for sql, parameters in statements:
                    rows = list(await connection.execute_fetchall(sql, parameters))
                    job_of(rows[0])
                return len(statements) / (time.perf_counter() - started)

            async def ours() -> float:
                started = time.perf_counter()
                for job_id in ids:
                    await view.get_by_id(job_id)
                return len(ids) / (time.perf_counter() - started)

            await take_turns(1, raw, ours)
            of_raw, of_ours = await take_turns(sizes.rounds, raw, ours)
    finally:
        await connection.close()
    case = (
        f"get by id at {sizes.read_small_jobs:,} jobs, one after the other, {sizes.read_calls:,} a round,"
        " against aiosqlite with the same select and decode"
    )
    output.compare("read/get", case, of_ours, of_raw, "gets/s")


async def _statement_of_get(view: View, job_id: str) -> tuple[str, Sequence[Any]]:
    """The select that `get` makes, taken down as it passes: the baseline can't drift from it."""
    seen: list[tuple[str, Sequence[Any]]] = []
    rows = view._point_rows

    async def note(sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        seen.append((sql, parameters))
        return await rows(sql, parameters)

    view._point_rows = note
    try:
        await view.get_by_id(job_id)
    finally:
        view._point_rows = rows
    [statement] = seen  # with more than one the comparison would not be fair
    return statement


async def _large_against_small(small: Path, large: Path, sizes: Sizes, output: Output) -> None:
    at = f"at {sizes.read_large_jobs:,} jobs, against {sizes.read_small_jobs:,}"
    page = f"page of {_PAGE_JOBS} by namespace, state and"
    async with await View.open(small) as little, await View.open(large) as big:
        for key, what, calls_of in (
            ("read/get/large", "get by id", _gets),
            ("read/page/common/large", f"{page} a label of every other job", _common_pages),
            ("read/page/rare/large", f"{page} a label of {SWEEP_JOBS} jobs", _rare_pages),
        ):
            sides = [
                _p50(calls_of(view, jobs, sizes.read_calls))
                for view, jobs in ((little, sizes.read_small_jobs), (big, sizes.read_large_jobs))
            ]
            await take_turns(1, *sides)
            of_small, of_large = await take_turns(sizes.rounds, *sides)
            case = f"{what}, {at}, p50"
            output.compare(key, case, of_large, of_small, "us")


_Call = Callable[[], Awaitable[object]]


def _gets(view: View, jobs: int, calls: int) -> Sequence[_Call]:
    chance = random.Random(2)
    ids = [job_key(chance.randrange(jobs)).job_id for _ in range(calls)]
    return [partial(view.get_by_id, job_id) for job_id in ids]


def _common_pages(view: View, jobs: int, calls: int) -> Sequence[_Call]:
    return _pages(view, jobs, calls, "env")


def _rare_pages(view: View, jobs: int, calls: int) -> Sequence[_Call]:
    return _pages(view, jobs, calls, "sweep")


def _pages(view: View, jobs: int, calls: int, label: str) -> Sequence[_Call]:
    """Return calls of lists that match a random job of the view."""
    chance = random.Random(3)
    queries = []
    for _ in range(calls):
        number = chance.randrange(jobs)
        queries.append(
            ListQuery(
                namespace=namespace_of(number),
                states=(chance.choice(STATES),),
                selector=parse_selector(f"{label}={labels_of(number)[label]}"),
                limit=_PAGE_JOBS,
            )
        )
    return [partial(view.list, query) for query in queries]


def _p50(calls: Sequence[_Call]) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        took = []
        for call in calls:
            started = time.perf_counter()
            await call()
            took.append(time.perf_counter() - started)
        return 1e6 * percentile(took, 0.5)

    return measure
