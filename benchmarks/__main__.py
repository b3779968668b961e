"""The command: `python -m benchmarks [NAME…] [--json] [--quick]`.

Exit code 0 if every bound holds, 1 if one does not, 2 for a wrong command line, 130 if interrupted.
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
    asof,
    audit,
    create,
    feed,
    http,
    live,
    memory,
    neighbor,
    project,
    read,
    replay,
    subscribe,
    tree,
)
from benchmarks.harness import Output
from benchmarks.sizes import FULL, QUICK, Sizes

BENCHMARKS: Final[dict[str, Callable[[Sizes, Output], Awaitable[None]]]] = {
    "append": append.run,
    "create": create.run,
    "project": project.run,
    "tree": tree.run,
    "live": live.run,
    "read": read.run,
    "memory": memory.run,
    "http": http.run,
    "neighbor": neighbor.run,
    "feed": feed.run,
    "replay": replay.run,
    "subscribe": subscribe.run,
    "asof": asof.run,
    "audit": audit.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Jobledger, each case beside its baseline. Files go to the directory for"
        " temporary files: set TMPDIR to measure another disk.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per case and line")
    parser.add_argument(
        "--quick", action="store_true", help="smaller and shorter: each NAME under 45 seconds"
    )
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; use {', '.join(BENCHMARKS)}")
    output = Output(as_json=asked.json)
    try:
        for name in dict.fromkeys(asked.names or BENCHMARKS):
            started = time.perf_counter()
            output.say(f"{name}: begins")
            asyncio.run(_run(name, QUICK if asked.quick else FULL, output))
            output.say(f"{name}: took {time.perf_counter() - started:.0f} s")
    except (KeyboardInterrupt, asyncio.CancelledError):
        output.say("interrupted; servers and temporary files are gone")
        return 130
    output.finish()
    return 0 if all(case.ok for case in output.cases) else 1


async def _run(name: str, sizes: Sizes, output: Output) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Ended politely by whoever started us, we clean up as after Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await BENCHMARKS[name](sizes, output)


if __name__ == "__main__":
    sys.exit(main())
