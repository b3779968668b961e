"""Damage to the files of the log is repaired, refused or reported, never ignored."""

import os
from pathlib import Path

import pytest

from tests.chaos.__main__ import DEFAULT_SEED
from tests.chaos.damage import run_case

SEED = int(os.environ.get("JOBLEDGER_CHAOS_SEED", DEFAULT_SEED))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]


@pytest.mark.parametrize(
    ("topology", "case"),
    [
        ("single", "cut-last-block"),
        ("single", "flip-in-the-middle"),
        ("single", "flip-meta-inf"),
        ("cluster", "flip-in-the-middle"),
    ],
)
async def test_damage_to_the_log_is_never_ignored(topology: str, case: str, tmp_path: Path) -> None:
    """The service repairs it, refuses to start, or names the damage."""
    result = await run_case(topology, case, SEED, tmp_path / "run")
    assert not result.problem, result
    assert result.outcome
