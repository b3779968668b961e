"""Fetch the libraries of the web UI at their pinned versions (`make vendor`).

`service/web/static/vendor/manifest.json` names each package with its version, its license, the SHA-256 of its
archive, and the files that are kept. `npm pack` downloads an archive and runs nothing of it. The files are
committed, so neither users nor builds need npm.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "service" / "web" / "static" / "vendor"
MANIFEST = FOLDER / "manifest.json"


def main() -> int:
    """Fetch everything again; fails if an archive is not the pinned one."""
    for package in json.loads(MANIFEST.read_text())["packages"]:
        with tempfile.TemporaryDirectory() as folder:
            take(package, Path(folder))
    return 0


def take(package: dict[str, Any], folder: Path) -> None:
    """Write the files of a package."""
    wanted = f"{package['name']}@{package['version']}"
    command = ["npm", "pack", "--silent", "--ignore-scripts", wanted]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    archive = folder / done.stdout.strip()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package["sha256"]:
        sys.exit(f"{wanted} has the SHA-256 {digest}, but the manifest pins {package['sha256']}")
    with tarfile.open(archive) as opened:
        for inside, name in package["files"].items():
            content = opened.extractfile(f"package/{inside}")
            assert content is not None, inside
            (FOLDER / name).write_bytes(content.read())
    sys.stdout.write(f"{wanted} ({package['license']}): {', '.join(package['files'].values())}\n")


if __name__ == "__main__":
    sys.exit(main())
