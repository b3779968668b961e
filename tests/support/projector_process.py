"""A projector in its own process, for tests that kill it.

`NATS_URL=… python -m tests.support.projector_process VIEW` prints the sequence each time it has advanced.
"""

import asyncio
import os
import sys
from pathlib import Path

from jobledger import JetStreamLog, Projector


async def main(path: Path) -> None:
    """Project until killed."""
    log = await JetStreamLog.connect(os.environ["NATS_URL"])
    async with Projector(log, path) as running:
        sequence = running.sequence
        while True:
            print(sequence, flush=True)  # noqa: T201 - the test reads it
            sequence = max(sequence + 1, running.sequence)
            await running.wait_for(sequence, timeout_seconds=3_600)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
