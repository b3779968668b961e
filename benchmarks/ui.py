"""`ui`: pages of the web UI over HTTP, of a large service against a small one, and the first of a start."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.harness import Output, judge, take_turns
from benchmarks.http import fill, p50
from benchmarks.http_load import fetch, request
from benchmarks.http_server import serving
from benchmarks.sizes import Sizes
from jobledger.service.wire import paths

_PAGES: Final = {
    "ui/list/large": ("the first page", paths.UI_JOBS),
    "ui/filter/large": (
        "a page by namespace and label",
        f"{paths.UI_JOBS}?namespace=team3&labels=env%3Dprod&order_by=modified_at",
    ),
}


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
            for key, (what, path) in _PAGES.items():
                sides = [
                    p50(port, [request("GET", path, port=port)] * sizes.http_pages)
                    for port in (small_port, large_port)
                ]
                await take_turns(1, *sides)
                of_small, of_large = await take_turns(sizes.rounds, *sides)
                case = f"{what}, at {jobs}, against {sizes.http_small_jobs:,}, p50"
                output.compare(key, case, of_large, of_small, "ms")
