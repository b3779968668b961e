"""The short campaign of CI: some faults of each kind, in under three minutes. The long one is `make chaos`.

The kinds are listed here so that the time is bounded; `faults.py` has all of them. Most of the time is
spent on starting processes, so there are few systems, and the readers (feed, subscriptions, webhook, audit)
run on two of them.
"""

import os
from pathlib import Path

import pytest

from tests.chaos.__main__ import DEFAULT_SEED, Report, Segment, run_segment
from tests.chaos.machine import can_loop
from tests.chaos.topology import Storage
from tests.support.namespaces import why_no_namespaces

SEED = int(os.environ.get("JOBLEDGER_CHAOS_SEED", DEFAULT_SEED))
SINGLE = (
    "kill-server",
    "kill-both",
    "kill-service",
    "pause-server",
    "pause-service",
    "lose-staging",
    "delete-view",
)
CLUSTER = ("kill-leader", "kill-several", "cut-connections", "kill-service", "pause-leader")
ISOLATION = ("isolate-leader", "isolate-follower")
POWER = ("power-loss",)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("topology", "storage", "faults"),
    [
        ("single", "plain", SINGLE),
        ("single", "images", POWER),
        ("cluster", "plain", CLUSTER + ISOLATION),
        ("cluster", "images", POWER),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
async def test_faults_under_load_break_no_guarantee(
    topology: str, storage: Storage, faults: tuple[str, ...], tmp_path: Path
) -> None:
    """Log, views, feeds, subscriptions, webhook and audit agree with the responses to the clients."""
    if storage == "images" and not can_loop():
        pytest.skip("mounting a disk image needs root and loop devices")
    if why_no_namespaces():
        faults = tuple(fault for fault in faults if fault not in ISOLATION)
    report = Report(machine="", seed=SEED)
    segment = Segment(topology, storage, SEED, len(faults), faults, readers=faults != POWER)
    assert await run_segment(segment, tmp_path / "run", report) == [], segment.repeat
    assert len(report.rounds) == len(faults)
