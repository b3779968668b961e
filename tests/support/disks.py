"""A small file system that a test can fill."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, *, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size; the test is skipped where mounting is not permitted."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        mounted = (
            os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
        )
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs is not permitted here: run the tests as root to fill a disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Fill a disk except for some bytes; returns the file to remove to free the space."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        while True:
            stats = os.statvfs(disk)
            more = stats.f_bavail * stats.f_frsize - leave_bytes
            if more <= 0:
                return filler
            end = file.seek(0, os.SEEK_END)
            with suppress(OSError):  # another process used some of it meanwhile
                os.posix_fallocate(file.fileno(), end, more)
