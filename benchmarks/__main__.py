"""`python -m benchmarks [NAME…] [--json] [--quick]`: run benchmarks.

`python -m benchmarks peers [NAME…]` compares with other software, where it is installed.

Exits with 0 if every bound holds, 1 if one does not, 2 for invalid arguments, 3 if a peer is not installed,
130 if interrupted.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
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
    ui,
)
from benchmarks.harness import Output
from benchmarks.peers import run as peers
from benchmarks.peers.compare import NAME as PEERS
from benchmarks.peers.peer import NotInstalled
from benchmarks.sizes import FULL, QUICK, Sizes

Run = Callable[[Sizes, Output], Awaitable[None]]

BENCHMARKS: Final[dict[str, Run]] = {
    "append": append.run,
    "create": append.run_create,
    "set_state": append.run_set_state,
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
    "ui": ui.run,
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
        help=f"one of {', '.join(BENCHMARKS)} (default: all of these); or {' or '.join(EXPERIMENTS)}; or"
        f" {PEERS}, alone or followed by {', '.join(peers.NAMES)} (default: those that are installed)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per case and line")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes: each NAME takes less than 45 seconds"
    )
    options = parser.parse_args(arguments)
    runs = _runs(parser, options.names)
    output = Output(as_json=options.json)
    try:
        for name, run in runs.items():
            started = time.perf_counter()
            output.say(f"{name}: started")
            asyncio.run(_run(run, QUICK if options.quick else FULL, output))
            output.say(f"{name}: took {time.perf_counter() - started:.0f} s")
    except NotInstalled as error:
        output.say(f"{PEERS}: {error}")
        return 3
    except (KeyboardInterrupt, asyncio.CancelledError):
        output.say("interrupted; servers and temporary files were removed")
        return 130
    output.finish()
    return 0 if all(case.ok for case in output.cases) else 1


def _runs(parser: argparse.ArgumentParser, names: list[str]) -> dict[str, Run]:
    """What the names on the command line stand for."""
    if names[:1] == [PEERS]:
        chosen = names[1:]
        unknown = [name for name in chosen if name not in peers.NAMES]
        if unknown:
            parser.error(f"unknown peer {unknown[0]!r}: use {', '.join(peers.NAMES)}")
        return {PEERS: partial(peers.run, chosen)}
    known = BENCHMARKS | EXPERIMENTS
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: use {', '.join((*known, PEERS))}")
    return {name: known[name] for name in names or BENCHMARKS}


async def _run(run: Run, sizes: Sizes, output: Output) -> None:
    task = asyncio.current_task()
    assert task is not None
    # SIGTERM cleans up like Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run(sizes, output)


if __name__ == "__main__":
    sys.exit(main())
