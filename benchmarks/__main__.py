"""`python -m benchmarks [NAME…] [--json] [--quick]`: run benchmarks.

Exits with 0 if every bound holds, 1 if one does not, 2 for invalid arguments, 130 if interrupted.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from benchmarks import (
    append,
    as_of,
    audit,
    disk_space,
    export,
    feed,
    http,
    memory,
    neighbor,
    projection,
    projector_process,
    reads,
    subscription,
)
from benchmarks.harness import Output
from benchmarks.sizes import FULL, QUICK, Sizes

Run = Callable[[Sizes, Output], Awaitable[None]]

BENCHMARKS: Final[dict[str, Run]] = {
    "append": append.run,
    "create": append.run_create,
    "project": projection.run,
    "tree": projection.run_tree,
    "live": projection.run_live,
    "read": reads.run,
    "memory": memory.run,
    "http": http.run,
    "neighbor": neighbor.run,
    "feed": feed.run,
    "replay": export.run,
    "subscribe": subscription.run,
    "asof": as_of.run,
    "audit": audit.run,
}
EXPERIMENTS: Final[dict[str, Run]] = {"apart": projector_process.run, "diskspace": disk_space.run}
"""Measurements without a bound; they run only when they are named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Jobledger, each case with its baseline. Files are written to the directory for"
        " temporary files: set TMPDIR to measure another disk.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)} (default: all of these); or {' or '.join(EXPERIMENTS)}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per case and line")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes: each NAME takes less than 45 seconds"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS | EXPERIMENTS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: use {', '.join(BENCHMARKS | EXPERIMENTS)}")
    output = Output(as_json=options.json)
    try:
        for name in dict.fromkeys(options.names or BENCHMARKS):
            started = time.perf_counter()
            output.say(f"{name}: started")
            asyncio.run(_run(name, QUICK if options.quick else FULL, output))
            output.say(f"{name}: took {time.perf_counter() - started:.0f} s")
    except (KeyboardInterrupt, asyncio.CancelledError):
        output.say("interrupted; servers and temporary files were removed")
        return 130
    output.finish()
    return 0 if all(case.ok for case in output.cases) else 1


async def _run(name: str, sizes: Sizes, output: Output) -> None:
    task = asyncio.current_task()
    assert task is not None
    # SIGTERM cleans up like Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await (BENCHMARKS | EXPERIMENTS)[name](sizes, output)


if __name__ == "__main__":
    sys.exit(main())
