"""Repeated `kill -9` of every server under writes: the rounds that destroyed compressed streams.

With `compression: s2` on nats-server 2.15.1, the cluster's rounds found records appended after a compressed
block in round 7 (seed 1). A longer run: `make chaos CHAOS="--kills --rounds 60"`.
"""

import os
from pathlib import Path

import pytest

from tests.chaos.__main__ import DEFAULT_SEED, KILLS, Report, Segment, run_segment

SINGLE_ROUNDS = 28
CLUSTER_ROUNDS = 14
SEED = int(os.environ.get("JOBLEDGER_CHAOS_SEED", DEFAULT_SEED))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("topology", "rounds"), [("single", SINGLE_ROUNDS), ("cluster", CLUSTER_ROUNDS)])
async def test_kills_of_every_server_under_writes_lose_nothing(
    topology: str, rounds: int, tmp_path: Path
) -> None:
    """No block is corrupt after a kill, and every acknowledged write is in the log once, in order."""
    report = Report(machine="", seed=SEED)
    segment = Segment(topology, "plain", SEED, rounds, KILLS[topology], readers=False)
    assert await run_segment(segment, tmp_path / "run", report) == [], segment.repeat
    assert len(report.rounds) == rounds
    assert report.acknowledged > rounds
