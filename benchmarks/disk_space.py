"""`diskspace`: the disk space of a log without compression, compared with s2. It has no bound.

It writes the real specs of `tests/specs`, each job with its creation and three states, to an ordinary log,
copies the events to a stream with s2, and prints the bytes of the blocks of both.
"""

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness import Output
from benchmarks.sizes import Sizes
from benchmarks.workload import Bench, rate_of, read_whole, served
from jobledger import JobSpec, Ledger, State, StateType, load_spec

CALLERS: Final = 64
STATES: Final = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)
SPECS: Final = Path(__file__).parent.parent / "tests" / "specs"
COPY: Final = "COPY"


async def run(sizes: Sizes, output: Output) -> None:
    """Write, copy, and print both sizes."""
    jobs = sizes.disk_space_jobs
    specs = [load_spec(path.read_text()).spec for path in sorted(SPECS.glob("*.*")) if path.suffix != ".md"]
    async with served("2m") as bench:
        ledger = Ledger(bench.log)

        async def write(number: int) -> None:
            spec: JobSpec = msgspec.structs.replace(specs[number % len(specs)], name=f"job-{number:05d}")
            receipt = await ledger.create(spec, actor="alice", reason="nightly")
            for state in STATES:
                await ledger.set_state(receipt.job_id, State(state), actor="scheduler")

        await rate_of(range(jobs), CALLERS, write)
        events = jobs * (1 + len(STATES))
        await _copy(bench, events, output)


async def _copy(bench: Bench, events: int, output: Output) -> None:
    await bench.jetstream.add_stream(name=COPY, subjects=[f"{COPY}.>"], compression="s2")

    async def copy(item: tuple[str, bytes]) -> None:
        subject, payload = item
        await bench.jetstream.publish(f"{COPY}.{subject}", payload)

    records = [(each.subject, each.payload) for each in await read_whole(bench.log, events)]
    await rate_of(records, CALLERS, copy)
    whole, compressed = (_block_bytes(bench.directory, name) for name in ("JOBS", COPY))
    output.say(
        f"{events:,} events: {whole / 1e6:.1f} MB without compression ({whole / events:,.0f} B per event),"
        f" {compressed / 1e6:.1f} MB with s2 ({compressed / events:,.0f}),"
        f" a factor of {whole / compressed:.1f}"
    )


def _block_bytes(directory: Path, stream: str) -> int:
    return sum(
        path.stat().st_size for path in directory.glob(f"nats/jetstream/*/streams/{stream}/msgs/*.blk")
    )
