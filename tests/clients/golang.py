"""Go programs of this folder, built with pinned modules; tests are skipped without Go or the modules."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

GO_FOLDER: Final = Path(__file__).parent / "go"
BUILD_TIMEOUT_SECONDS: Final = 600  # a fresh machine downloads and compiles every dependency
# What the machine lacks says nothing of the program; the reason is shown at the end of the run.
_AWAY: Final = re.compile(
    r"dial tcp|no such host|i/o timeout|TLS handshake|connection re(?:fused|set)"
    r"|\b(?:403|404|407|410|50\d) \w+"
    r"|module lookup disabled|requires go >= [\d.]+"
)


def go(*words: str, cwd: Path) -> str:
    """What a `go` command printed; skips the test if Go or a module can't be had.

    Raises:
        AssertionError: if the command failed for another reason.
    """
    program = shutil.which("go")
    if program is None:
        pytest.skip("Go is not installed")
    env = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(
        [program, *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_SECONDS,
    )
    away = _AWAY.search(done.stderr) if done.returncode else None
    if away:
        pytest.skip(f"`go {words[0]}` can't get a module, or Go is too old ({away[0]})")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied(name: str, to: Path) -> Path:
    """A copy of a module of this folder to generate and build in."""
    return Path(shutil.copytree(GO_FOLDER / name, to / name))
