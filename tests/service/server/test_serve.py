"""`jobledger serve` as a process: its output, its preconditions, and what it survives."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from jobledger import JetStreamLog
from jobledger.service.errors import InvalidSettings, NotReady
from jobledger.service.server.http_server import check_tls, free_port, resolve
from jobledger.service.server.serve import locked
from jobledger.service.settings import Settings
from jobledger.store.log import PendingEvent
from jobledger.store.model.subjects import job_subject, named_job_id
from tests.support.service_process import (
    COMMAND,
    TIMEOUT_SECONDS,
    RunningService,
    clean_env,
    put_job,
    running_service,
    server_pid,
    wait_line,
)


def serve_refused(home: Path, *flags: str, code: str = "") -> tuple[int, str]:
    """The exit code and the message of a `serve` that does not begin."""
    command = COMMAND if not code else [sys.executable, "-c", code, "serve"]
    done = subprocess.run(
        [*command, *flags],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        env=clean_env(home),
    )
    return done.returncode, done.stderr


def ready_text(service: RunningService) -> httpx.Response:
    """The body of `/readyz?verbose`."""
    return httpx.get(f"{service.url}/readyz?verbose", timeout=10)


def test_the_banner_appears_when_the_service_is_ready_and_its_commands_work(tmp_path: Path) -> None:
    """It names every location, and its commands succeed immediately."""
    with running_service(tmp_path, ready=False) as service:
        assert httpx.get(f"{service.url}/livez").text == "ok\n"
        wait_line(service, "ready for requests")
        shown = "\n".join(service.output)
        for place in ("nats", "view.sqlite", "tokens.json"):
            assert str(service.data_dir / place) in shown
        assert f"{service.url}/docs" in shown
        lines = shown.partition("Try next")[2].splitlines()
        curl = "\n".join(line for line in lines if "curl" in line or "Content-Type" in line)
        describe = next(line for line in lines if "describe" in line)
        script = f"set -e\n{curl}\n{describe}"
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, env=clean_env(tmp_path)
        )
        assert done.returncode == 0, done.stderr
        assert '"Revision":1' in done.stdout
        assert "hello" in done.stdout


@pytest.mark.slow
def test_a_second_service_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    """The message names the directory and the process; the first service is not disturbed."""
    with running_service(tmp_path) as service:
        code, reported = serve_refused(tmp_path, "--data-dir", str(service.data_dir), "--port", "0")
        assert code == 6
        assert f"{service.data_dir} is in use" in reported
        assert f"process {service.process.pid}" in reported
        assert "Traceback" not in reported
        assert put_job(service, "still-there").status_code == 200


def test_a_data_directory_is_locked_by_one_process(tmp_path: Path) -> None:
    """Also without an embedded server; it is free again afterwards."""
    with locked(tmp_path / "data"), pytest.raises(NotReady, match="in use"), locked(tmp_path / "data"):
        pass
    with locked(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_data_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """The message names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match="file"), locked(tmp_path / "file" / "data"):
        pass


def test_a_busy_port_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    """Also one that is bound with SO_REUSEPORT."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, reported = serve_refused(tmp_path, "--data-dir", str(tmp_path / "data"), "--port", str(port))
        assert code == 6
        assert f"port {port} of 127.0.0.1 is in use" in reported
        assert not (tmp_path / "data").exists()
    assert free_port("127.0.0.1", port) == port


def test_an_address_that_others_can_reach_needs_a_token(tmp_path: Path) -> None:
    """Nothing is started; the message has the remedy."""
    code, reported = serve_refused(tmp_path, "--data-dir", str(tmp_path / "data"), "--host", "0.0.0.0")
    assert code == 2
    assert "jobledger token create" in reported
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "not an address", "192.0.2.1"])
def test_a_host_that_is_not_of_this_machine_is_refused(host: str) -> None:
    """With an error about the setting, not a traceback."""
    with pytest.raises(InvalidSettings):
        free_port(resolve(host), 0)


def test_an_invalid_certificate_is_rejected(tmp_path: Path) -> None:
    """Before anything is started."""
    (tmp_path / "cert").write_text("no certificate")
    with pytest.raises(InvalidSettings, match="tls_cert"):
        check_tls(Settings(tls_cert=tmp_path / "cert", tls_key=tmp_path / "cert"))


@pytest.mark.parametrize("package", ["granian", "prometheus_client"])
def test_missing_packages_are_named_with_the_install_command(tmp_path: Path, package: str) -> None:
    """For an installation without the extras."""
    code = f"import sys; sys.modules[{package!r}] = None; from jobledger.service.cli.main import main; main()"
    status, reported = serve_refused(tmp_path, "--data-dir", str(tmp_path / "data"), code=code)
    assert status == 2
    assert "pip install 'jobledger[server,embedded]'" in reported
    assert "Traceback" not in reported


@pytest.mark.slow
def test_an_unreachable_cluster_ends_the_start(tmp_path: Path) -> None:
    """Exit code 6, and the directory is free."""
    port = free_port("127.0.0.1", 0)
    flags = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--nats-url", f"nats://127.0.0.1:{port}")
    code, reported = serve_refused(tmp_path, *flags)
    assert code == 6
    assert f"127.0.0.1:{port}" in reported
    with locked(tmp_path / "data"):
        pass


@pytest.mark.slow
def test_the_service_survives_a_crash_of_the_embedded_server(tmp_path: Path) -> None:
    """It is restarted, a write sent meanwhile is answered, and the log has a line."""
    with running_service(tmp_path) as service:
        os.kill(server_pid(service), signal.SIGKILL)
        assert put_job(service, "meanwhile").status_code == 200
        wait_line(service, "restarting the embedded nats-server: it died")
        assert put_job(service, "after").status_code == 200
        assert ready_text(service).status_code == 200
        assert "jobledger_nats_restarts_total 1.0" in httpx.get(f"{service.url}/metrics").text


async def append_newer_event(service: RunningService) -> None:
    """What a newer release could write to the log."""
    config = json.loads((service.data_dir / "nats" / "nats.conf").read_text())
    ports = next((service.data_dir / "nats" / "ports").glob("*.ports"))
    port = json.loads(ports.read_text())["nats"][0].rpartition(":")[2]
    login = config["authorization"]
    log = await JetStreamLog.connect(f"nats://{login['user']}:{login['password']}@127.0.0.1:{port}")
    event = {"specversion": "1.0", "id": "x", "source": "/jobledger", "type": "jobledger.job.newer.v1"}
    subject = job_subject("default", named_job_id("default", "newer"))
    await log.append(
        PendingEvent(subject=subject, event_id="x", payload=json.dumps(event).encode()), expect=0
    )
    await log.close()


@pytest.mark.slow
def test_an_event_of_a_newer_release_stops_only_its_job(tmp_path: Path) -> None:
    """The service stays ready and names the quarantined job; other jobs accept writes."""
    with running_service(tmp_path) as service:
        assert put_job(service, "before").status_code == 200
        asyncio.run(append_newer_event(service))
        wait_line(service, "is quarantined: event 2 has the type 'jobledger.job.newer.v1'")
        assert put_job(service, "after").status_code == 200
        assert put_job(service, "newer").json()["Code"] == "JobQuarantined"
        assert ready_text(service).status_code == 200
        metrics = httpx.get(f"{service.url}/metrics").text
        assert 'jobledger_projector_state{state="stopped"} 0.0' in metrics
