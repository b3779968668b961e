"""`ui`: pages of the web UI over HTTP, of a large service against a small one, and the first of a start."""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.harness import Measure, Output, judge, take_turns
from benchmarks.http import fill, p50
from benchmarks.http_load import fetch, request
from benchmarks.http_server import serving
from benchmarks.sizes import Sizes
from jobledger.service.wire import paths

_FILTERED: Final = f"{paths.UI_JOBS}?namespace=team3&labels=env%3Dprod&order_by=modified_at"


async def run(sizes: Sizes, output: Output) -> None:
    """Measure pages of real services in their own processes."""
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        small, large = (Path(directory) / name for name in ("small", "large"))
        for folder, count in ((small, sizes.http_small_jobs), (large, sizes.http_large_jobs)):
            output.say(f"ui: filling a service with {count:,} jobs")
            await fill(folder, count)
        async with serving(data_dir=str(small)) as small_port, serving(data_dir=str(large)) as large_port:
            started = time.perf_counter()
            await fetch(large_port, paths.UI_JOBS)
            first = 1e3 * (time.perf_counter() - started)
            jobs = f"{sizes.http_large_jobs:,} jobs"
            output.report(
                judge("ui/first", f"the first {paths.UI_JOBS} after a start with {jobs}", first, "ms")
            )
            of_small, of_large = await take_turns(
                sizes.rounds,
                *(_pages(port, paths.UI_JOBS, sizes) for port in (small_port, large_port)),
            )
            case = f"the first page, at {jobs}, against {sizes.http_small_jobs:,}, p50"
            output.compare("ui/list/large", case, of_large, of_small, "ms")
            # Counting by a common label ends at a limit that a small service does not reach: no ratio.
            (filtered,) = await take_turns(sizes.rounds, _pages(large_port, _FILTERED, sizes))
            case = f"a page by namespace and label, with its counts, at {jobs}, p50"
            output.report(judge("ui/filter/large", case, statistics.median(filtered), "ms"))


def _pages(port: int, path: str, sizes: Sizes) -> Measure:
    return p50(port, [request("GET", path, port=port)] * sizes.http_pages)
