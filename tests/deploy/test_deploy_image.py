"""The image without a container engine: the steps of the Dockerfile, on the files of the build context."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
NOBODY = 65_534
STEP_SECONDS = 300


def instructions(text: str) -> list[list[tuple[str, str]]]:
    """A Dockerfile's stages, each a list of (instruction, arguments)."""
    stages: list[list[tuple[str, str]]] = []
    without_comments = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in without_comments.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, arguments = line.strip().partition(" ")
            if word == "FROM":
                stages.append([])
            stages[-1].append((word, arguments.strip()))
    return stages


def send_context(target: Path) -> None:
    """Copy what `.dockerignore` lets through (it names each thing; caches are left out)."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line.startswith("!"):
            continue
        source, copy = ROOT / line[1:], target / line[1:]
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """What the first stage makes, where other users may read; `opt/jobledger` is the program."""
    place = Path(tempfile.mkdtemp(prefix="jobledger-image-"))
    try:
        place.chmod(0o755)
        context, source = place / "context", place / "src"
        send_context(context)
        source.mkdir()
        (place / "opt").mkdir()
        build, _ = instructions((ROOT / "Dockerfile").read_text())
        for word, arguments in build:
            if word == "COPY":
                *sources, target = arguments.split()
                for name in sources:
                    copy_into(context / name, source, target)
            elif word == "RUN":
                run_step(arguments, place, source)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_into(origin: Path, workdir: Path, target: str) -> None:
    """`COPY` of one source: a directory's content, or a file into a directory."""
    if origin.is_dir():
        shutil.copytree(origin, workdir / target, symlinks=True)
    else:
        shutil.copy(origin, workdir / target)


def run_step(command: str, place: Path, workdir: Path) -> None:
    """`RUN`, with the image's paths under `place` and this Python as the image's."""
    moved = command.replace("/opt/", f"{place}/opt/")
    moved = re.sub(r"(^|&& )python ", rf"\g<1>{shlex.quote(sys.executable)} ", moved)
    done = subprocess.run(
        ["/bin/sh", "-ec", moved],
        cwd=workdir,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{moved}\n{done.stdout}\n{done.stderr}"


def may_be_nobody() -> bool:
    """Whether we may change the user, and every user may run this Python (not one under /root)."""
    return os.getuid() == 0 and all(
        path.stat().st_mode & stat.S_IXOTH for path in Path(sys.executable).resolve().parents
    )


def run_as_nobody(
    image: Path, *command: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of the image with an empty environment, as `nobody` if possible."""
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if may_be_nobody() else {}
    environment = {"PATH": f"{image}/opt/jobledger/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command,
        env=environment | (env or {}),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **user,
    )


def test_the_program_starts_without_build_tools(image: Path) -> None:
    """The command runs for any user, without pip and without a server."""
    done = run_as_nobody(image, "jobledger", "version")
    assert done.returncode == 0, done.stderr
    inside = {path.name for path in (image / "opt" / "jobledger" / "bin").iterdir()}
    assert "jobledger" in inside
    assert not {"pip", "nats-server", "pytest"} & inside


def test_the_service_of_the_image_refuses_to_listen_without_a_token(image: Path) -> None:
    """The error has the remedy."""
    data = image / "data-closed"
    data.mkdir(mode=0o777)
    data.chmod(0o777)  # the user without rights shall write
    env = {"JOBLEDGER_HOST": "0.0.0.0", "JOBLEDGER_DATA_DIR": str(data)}
    done = run_as_nobody(image, "jobledger", "serve", env=env | {"JOBLEDGER_NATS_URL": "nats://127.0.0.1:9"})
    assert done.returncode != 0
    assert "token create" in done.stderr


def test_with_a_token_only_the_log_is_missing(image: Path) -> None:
    """The command of docs/DEPLOY.md works in the image, as an unprivileged user."""
    data = image / "data-open"
    data.mkdir(mode=0o777)
    data.chmod(0o777)  # the user without rights shall write
    (port,) = free_ports(1)
    env = {
        "JOBLEDGER_HOST": "0.0.0.0",
        "JOBLEDGER_PORT": "0",
        "JOBLEDGER_DATA_DIR": str(data),
        "JOBLEDGER_NATS_URL": f"nats://127.0.0.1:{port}",
    }
    made = run_as_nobody(image, "jobledger", "token", "create", "--name", "me", "--role", "admin", env=env)
    assert made.returncode == 0, made.stderr
    done = run_as_nobody(image, "jobledger", "serve", env=env)
    assert done.returncode != 0
    assert "no nats-server answers" in done.stderr


def test_the_health_check_fails_without_a_service(image: Path) -> None:
    """By its exit code."""
    _, final = instructions((ROOT / "Dockerfile").read_text())
    (check,) = [arguments for word, arguments in final if word == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    (port,) = free_ports(1)
    done = run_as_nobody(image, *command, env={"JOBLEDGER_PORT": str(port)})
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
