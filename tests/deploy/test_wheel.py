"""The wheel contains exactly the package: the three folders that `jobledger/` links to, and the examples."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"store": "jobledger/store", "projections": "jobledger/projections", "service": "jobledger/service"}


def files_of(folder: str) -> list[str]:
    """The source files of a folder, without links and compiled files."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
    ]


def test_the_wheel_contains_every_source_file_and_no_other(tmp_path: Path) -> None:
    """A file hidden by the links, or a stray top-level directory, would be reported."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set(files_of("jobledger"))
    for folder, target in {**FOLDERS, "examples": "jobledger/examples"}.items():
        expected |= {target + name.removeprefix(folder) for name in files_of(folder)}
    expected |= {f"jobledger/guides/{each.name}" for each in (ROOT / "docs").glob("[A-Z]*.md")}
    assert packed == expected


def test_the_links_of_the_package_are_relative_and_point_to_the_folders() -> None:
    """An absolute link would work on one machine only."""
    for folder in FOLDERS:
        assert Path("..", folder) == (ROOT / "jobledger" / folder).readlink()
