"""Run a campaign: `make chaos CHAOS="--rounds 200 --seed 7 --topology cluster"`.

It prints its seed. Rounds are divided into segments, each a new system with its own seed, so that a failure
is repeated by running that segment alone. On a failure the printed directory has the history, the logs of
all processes and the command that repeats it, and the exit code is 1.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from tests.chaos import checks, damage
from tests.chaos.faults import Fault
from tests.chaos.machine import can_loop, can_mount
from tests.chaos.run import Options, Round, Run, faults_of
from tests.chaos.topology import NotRecovered, SeveralProcesses, Single, Storage, ThreeNodes, Topology
from tests.support.namespaces import why_no_namespaces

DEFAULT_SEED: Final = 1
SEGMENT_ROUNDS: Final = 20
TOPOLOGIES: Final[dict[str, Callable[[Path, Storage], Topology]]] = {
    "single": Single,
    "workers": SeveralProcesses,
    "cluster": ThreeNodes,
}
KILLS: Final = {
    "single": ("kill-server", "kill-server", "kill-server", "kill-both"),
    "workers": ("kill-worker", "kill-service", "kill-both"),
    "cluster": ("kill-several",),
}
"""The rounds that destroyed compressed streams."""


class Segment(msgspec.Struct, frozen=True):
    """Rounds on one system. No `faults` means all that the system supports."""

    topology: str
    storage: Storage
    seed: int
    rounds: int
    faults: tuple[str, ...]
    readers: bool
    workers: int = 0  # concurrent calls of each client, without pauses; 0: few, with pauses

    @property
    def repeat(self) -> str:
        """The command that repeats this segment."""
        faults = f" --faults {','.join(self.faults)}" if self.faults else ""
        return (
            f'make chaos CHAOS="--topology {self.topology} --storage {self.storage} --seed {self.seed}'
            f" --rounds {self.rounds}{faults}{f' --workers {self.workers}' * bool(self.workers)}"
            f'{"" if self.readers else " --no-readers"}"'
        )


class Report(msgspec.Struct):
    """The measurements of all segments."""

    machine: str
    seed: int
    rounds: list[tuple[str, Round]] = []
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    findings: list[str] = []
    damages: list[damage.Result] = []
    skipped: list[str] = []


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--topology", choices=(*TOPOLOGIES, "both"), default="both")
    parser.add_argument("--storage", choices=("plain", "small", "images", "all"), default="all")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("JOBLEDGER_CHAOS_SEED", DEFAULT_SEED)))
    parser.add_argument("--rounds", type=int, default=40, help="per topology and storage")
    parser.add_argument("--faults", default="", help="only these kinds (or cases of damage), comma-separated")
    parser.add_argument("--kills", action="store_true", help="only the kill rounds that destroyed s2 streams")
    parser.add_argument("--damage", action="store_true", help="only damage to the files of the log")
    parser.add_argument("--no-readers", action="store_true", help="without feeds, subscriptions and webhooks")
    parser.add_argument(
        "--workers", type=int, default=0, help="concurrent calls of each client, without pauses: batches"
    )
    parser.add_argument(
        "--directory", type=Path, default=None, help="directory of the runs; kept if one fails"
    )
    parser.add_argument("--report", type=Path, default=None, help="file for all measurements (JSON)")
    return parser.parse_args(words)


def segments(given: argparse.Namespace) -> Iterator[Segment]:
    """Yield the segments of the command line."""
    topologies = ("single", "cluster") if given.topology == "both" else (given.topology,)
    storages: tuple[Storage, ...] = (
        ("plain", "small", "images") if given.storage == "all" else (given.storage,)
    )
    if given.kills and given.storage == "all":
        storages = ("plain",)
    for topology in topologies:
        for storage in storages:
            faults = KILLS[topology] if given.kills else tuple(filter(None, given.faults.split(",")))
            seed = given.seed
            left = given.rounds
            while left > 0:
                rounds = min(left, SEGMENT_ROUNDS)
                yield Segment(
                    topology, storage, seed, rounds, faults, not given.no_readers, workers=given.workers
                )
                left -= rounds
                seed += 1


def make_topology(name: str, storage: Storage, directory: Path) -> Topology:
    """Return a system that is not started."""
    return TOPOLOGIES[name](directory, storage)


def chosen(segment: Segment, possible: dict[str, Fault]) -> Iterator[tuple[str, Fault]]:
    """Yield the faults of a segment: each kind about equally often, in an order determined by its seed."""
    rng = Random(segment.seed)
    names = [name for name in segment.faults if name in possible] or [*possible]
    left: list[str] = []
    for _ in range(segment.rounds):
        left = left or rng.sample(names, len(names))
        name = left.pop()
        yield name, possible[name]


async def run_segment(segment: Segment, directory: Path, report: Report) -> list[str]:
    """Run the rounds and checks of one system; returns the findings."""
    label = f"{segment.topology}/{segment.storage} seed {segment.seed}"
    topology = make_topology(segment.topology, segment.storage, directory)
    findings: list[str] = []
    directory.mkdir(parents=True, exist_ok=True)
    load = Options(readers=segment.readers)
    if segment.workers:
        load = msgspec.structs.replace(load, workers=segment.workers, pause_seconds=0.0)
    run = Run(topology, segment.seed, load)
    try:
        async with topology, run:
            try:
                for name, fault in chosen(segment, faults_of(topology)):
                    done = await run.round(name, fault)
                    report.rounds.append((segment.topology, done))
                    print(
                        f"{label} round {done.number} {name}: recovered in {done.recovery_seconds:.1f} s,"
                        f" outage {done.outage_seconds:.1f} s, {run.progress.acknowledged} acknowledged",
                        flush=True,
                    )
                findings = await run.finish()
            except (NotRecovered, AssertionError, TimeoutError, OSError) as error:
                findings = [*run.findings, f"{type(error).__name__}: {error}", traceback.format_exc()]
            if findings:
                for name, text in topology.logs().items():
                    (directory / f"{name}.final.log").write_text(text)
    except (NotRecovered, AssertionError, TimeoutError, OSError) as error:
        findings.append(f"{type(error).__name__}: {error}")
    calls = run.calls()
    report.acknowledged += sum(call.acknowledged for call in calls)
    report.unknown += sum(call.outcome == "unknown" for call in calls)
    report.refused += sum(call.outcome == "refused" for call in calls)
    return findings


async def main(given: argparse.Namespace) -> int:
    """Run the campaign; returns the exit code."""
    print(f"seed {given.seed}", flush=True)
    base = given.directory or Path(tempfile.mkdtemp(prefix="jobledger-chaos-"))
    report = Report(machine=_machine(), seed=given.seed)
    failed = False
    started = time.monotonic()
    names = tuple(filter(None, given.faults.split(",")))
    if given.damage:
        for result in await damage.run_all(given.topology, names, given.seed, base):
            report.damages.append(result)
            failed |= bool(result.problem)
    else:
        for number, segment in enumerate(segments(given)):
            missing = _missing(segment)
            if missing:
                report.skipped.append(f"{segment.topology}/{segment.storage}: {missing}")
                print(f"skipped {report.skipped[-1]}", flush=True)
                continue
            directory = base / f"{number}-{segment.topology}-{segment.storage}-{segment.seed}"
            findings = await run_segment(segment, directory, report)
            if findings:
                failed = True
                report.findings += findings
                path = checks.save_findings(directory, findings, segment.repeat)
                print(f"FAILED, see {path}; repeat with\n  {segment.repeat}", flush=True)
                for finding in findings[:10]:
                    print(f"  {finding[:1000]}", flush=True)
            else:
                shutil.rmtree(directory, ignore_errors=True)
    if given.report:
        given.report.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    print(json.dumps(summary(report), indent=1))
    print(f"{'FAILED' if failed else 'passed'} in {time.monotonic() - started:.0f} s, seed {given.seed}")
    if not failed and given.directory is None:
        shutil.rmtree(base, ignore_errors=True)
    return int(failed)


def summary(report: Report) -> dict[str, Any]:
    """Return rounds, recovery and outage by topology and kind, and the outcomes of the calls."""
    kinds: dict[str, list[Round]] = {}
    for topology, done in report.rounds:
        kinds.setdefault(f"{topology} {done.fault}", []).append(done)
    return {
        "machine": report.machine,
        "acknowledged": report.acknowledged,
        "unknown": report.unknown,
        "refused": report.refused,
        "findings": len(report.findings),
        "faults": {
            kind: {
                "rounds": len(rounds),
                "recovery": _median_and_max([done.recovery_seconds for done in rounds]),
                "outage": _median_and_max([done.outage_seconds for done in rounds]),
            }
            for kind, rounds in sorted(kinds.items())
        },
        "damages": {result.name: result.outcome or result.problem for result in report.damages},
        "skipped": report.skipped,
    }


def _median_and_max(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"median {ordered[len(ordered) // 2]:.1f} s, max {ordered[-1]:.1f} s"


def _missing(segment: Segment) -> str:
    if segment.storage == "small" and not can_mount():
        return "mounting a small disk needs root"
    if segment.storage == "images" and not can_loop():
        return "mounting a disk image needs root and loop devices"
    if segment.topology == "cluster" and why_no_namespaces():
        print(f"nodes are not isolated: {why_no_namespaces()}", flush=True)
    return ""


def _machine() -> str:
    return (
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
