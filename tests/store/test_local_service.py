"""Programs find the log of the service on this machine."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobledger import JetStreamLog, LogUnavailable
from jobledger.store.local_service import find_local_log
from tests.support.command_line import Operator
from tests.support.service_process import RunningService, clean_env, running_service

DATA_DIR = Path(".local/state/jobledger")  # the default, at home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home directory of the user who runs the service."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[RunningService]:
    """A service on the default data directory, as `make run` starts it."""
    with running_service(home, "--data-dir", str(home / DATA_DIR)) as running:
        yield running


def test_nats_url_prints_one_url_its_parts_and_variables(service: RunningService, home: Path) -> None:
    """All three are the same server, user and password; the parts have no credentials in `servers`."""
    operator = Operator(service, home)
    url = operator("nats", "url").stdout.strip()
    parts = operator.json("nats", "url")
    (server,) = parts["servers"]
    assert parts["url"] == url
    assert "@" not in server
    assert url == server.replace("://", f"://{parts['user']}:{parts['password']}@")
    script = operator("nats", "url", "-o", "env").stdout + 'echo "$NATS_URL $NATS_USER $NATS_PASSWORD"\n'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [server, parts["user"], parts["password"]]


async def test_a_program_connects_with_each_way_of_naming_the_log(
    service: RunningService, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the data directory, by the printed URL, and by the printed variables."""
    variables = Operator(service, home)("nats", "url", "-o", "env").stdout
    printed = dict(word.split("=", 1) for word in shlex.split(variables) if "=" in word)
    for env in (
        {"JOBLEDGER_DATA_DIR": str(service.data_dir)},
        {"JOBLEDGER_NATS_URL": Operator(service, home)("nats", "url").stdout.strip()},
        {f"JOBLEDGER_{name}": value for name, value in printed.items()},
    ):
        with monkeypatch.context() as patched:
            for name in [name for name in os.environ if name.startswith("JOBLEDGER_")]:
                patched.delenv(name)
            for name, value in env.items():
                patched.setenv(name, value)
            log = await JetStreamLog.connect()
            assert (await log.info()).first_sequence <= 1
            await log.close()


def test_the_banner_names_the_command_that_prints_how_to_connect(service: RunningService) -> None:
    """With the data directory if it is not the default one."""
    assert any(f"nats url --data-dir {service.data_dir}`" in line for line in service.output)


def test_without_a_service_the_error_has_the_remedies(tmp_path: Path) -> None:
    """The command exits with 6; the library raises `LogUnavailable`."""
    with pytest.raises(LogUnavailable, match=r"jobledger serve.*JOBLEDGER_DATA_DIR or JOBLEDGER_NATS_URL"):
        find_local_log({"JOBLEDGER_DATA_DIR": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", "nats", "url", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=clean_env(tmp_path),
    )
    assert done.returncode == 6
    assert "jobledger serve" in done.stderr


def test_nats_url_takes_servers_and_credentials_from_the_settings(tmp_path: Path) -> None:
    """Special characters are percent-encoded in the URL, and unchanged in the parts."""
    (tmp_path / "password").write_text("a/b@c\n")
    command = [sys.executable, "-m", "jobledger.service.cli.main", "nats", "url", "-o", "json"]
    env = {
        "JOBLEDGER_NATS_URL": "nats://one:4222, two:4222",
        "JOBLEDGER_NATS_USER": "ann",
        "JOBLEDGER_NATS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=clean_env(tmp_path, env), timeout=60
    )
    assert json.loads(done.stdout) == {
        "url": "nats://ann:a%2Fb%40c@one:4222,nats://ann:a%2Fb%40c@two:4222",
        "servers": ["nats://one:4222", "nats://two:4222"],
        "user": "ann",
        "password": "a/b@c",
    }
