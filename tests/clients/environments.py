"""Virtual environments for tools that must not share ours: made once, kept in pytest's cache folder.

The name of an environment holds a digest of its requirements and of the interpreter, so a changed pin makes a
new one and nothing is ever upgraded in place.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
INSTALL_TIMEOUT_SECONDS: Final = 600  # a fresh machine downloads everything


def python_of(requirements: str, folder: Path) -> Path:
    """The interpreter of an environment that holds exactly what a requirements file of this folder pins.

    Args:
        requirements: the file's name; every line pins a version and its hashes.
        folder: where environments are kept.

    Raises:
        subprocess.CalledProcessError: if it can't be installed; pip's words are on standard error.
    """
    pins = HERE / requirements
    mark = hashlib.sha256(pins.read_bytes() + sys.version.encode() + sys.prefix.encode()).hexdigest()[:12]
    home = folder / f"{pins.stem}-{mark}"
    python = home / "bin" / "python"
    with (folder / f"{pins.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs in one clone must not both make it
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(home))
            # Neither dependencies nor `requires-python`: what is pinned is all that is needed, and works on
            # a newer Python than its makers knew.
            _run(
                *(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--require-hashes", "--ignore-requires-python", "-r", str(pins)),
            )
            (home / "ready").touch()
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_SECONDS)
