"""Small disks and disk images, which need root on Linux.

A power loss is simulated with a file system (ext4) in an image file on a loop device. The image, copied at
the moment of the kill, has what was handed to the device: not the pages that were written and not synced,
but everything that the server acknowledged after its fsync. It does not show what a disk loses whose cache
ignores flushes.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

_MEGABYTE: Final = 1024 * 1024
_FILLER: Final = "filler"


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


@cache
def can_mount() -> bool:
    """Whether this process may mount file systems."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mount"):
        return False
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return done.returncode == 0


@cache
def can_loop() -> bool:
    """Whether this process may mount an image of ext4."""
    return can_mount() and Path("/dev/loop-control").exists() and shutil.which("mkfs.ext4") is not None


class SmallDisk:
    """A tmpfs of a few megabytes at a folder, until `remove`; it can be filled."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", folder)
        self.folder = folder

    def fill(self) -> None:
        """Use all remaining space."""
        with (self.folder / _FILLER).open("ab", buffering=0) as file:
            size = _MEGABYTE
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Free the space."""
        (self.folder / _FILLER).unlink(missing_ok=True)

    def make_read_only(self) -> bool:
        """Make it read-only; returns False, and changes nothing, if a file is open for writing."""
        try:
            _run("mount", "-o", "remount,ro", self.folder)
        except OSError:
            return False
        return True

    def make_writable(self) -> None:
        """End that."""
        _run("mount", "-o", "remount,rw", self.folder)

    def remove(self) -> None:
        """Unmount it, which removes its files."""
        _run("umount", "--lazy", self.folder)


class DiskImage:
    """An ext4 file system in an image file, whose state at the moment of a kill can be copied."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._image = folder.with_name(f"{folder.name}.img")
        with self._image.open("wb") as file:
            file.truncate(megabytes * _MEGABYTE)
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)
        self._mount()

    def snapshot(self) -> Path:
        """Copy what the device has received; unsynced pages are missing, as after a power loss."""
        copy = self._image.with_suffix(".snapshot")
        # Not frozen: that would write the dirty pages. All writers are dead, so nothing changes meanwhile.
        _run("cp", "--sparse=always", self._image, copy)
        return copy

    def restore(self, snapshot: Path) -> None:
        """Mount the copy instead of the current image: the machine restarts after the power loss."""
        _run("umount", self.folder)
        snapshot.replace(self._image)
        self._mount()

    def remove(self) -> None:
        """Unmount it and delete the image."""
        _run("umount", "--lazy", self.folder)
        self._image.unlink(missing_ok=True)

    def _mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self.folder)
