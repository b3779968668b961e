"""Shutdown of a service: requests in flight are answered, nothing blocks, and nothing is left running."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest

from jobledger.service.server import serve as serve_module
from jobledger.service.settings import Settings
from jobledger.store.model.errors import LogUnavailable
from tests.support.api import PREFIX, job_body
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


@contextlib.contextmanager
def write_in_flight(service: RunningService, name: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A submission whose headers the service has taken, and the body that it waits for."""
    body = json.dumps(job_body(name)).encode()
    place = urlsplit(service.url)
    with socket.create_connection((place.hostname or "", place.port or 0), TIMEOUT_SECONDS) as connection:
        head = (
            f"PUT {PREFIX}/jobs HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 100"), "the gate asks for the body"
        yield connection, body


def ended(service: RunningService) -> int:
    """Its exit code, once it has ended."""
    return service.process.wait(TIMEOUT_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_service(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, even with an idle connection; nothing is left running."""
    with running_service(tmp_path) as service, httpx.Client(base_url=service.url) as client:
        assert client.get("/livez").status_code == 200
        child = server_pid(service)
        service.process.send_signal(number)
        assert ended(service) == 0
        assert not Path(f"/proc/{child}").exists()
    assert "ended: exit code 0" in service.output[-1]


def test_a_write_in_flight_is_answered_and_kept(tmp_path: Path) -> None:
    """SIGTERM during a submission: it is answered, and the job exists after the next start."""
    with running_service(tmp_path) as service:
        with write_in_flight(service, "late") as (connection, body):
            service.process.terminate()
            wait_line(service, "draining: 1 requests")
            connection.sendall(body)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert ended(service) == 0
    with running_service(tmp_path) as service:
        assert httpx.get(f"{service.url}{PREFIX}/jobs/late").json()["Job"]["Revision"] == 1


@pytest.mark.slow
def test_a_draining_service_accepts_nothing_new(tmp_path: Path) -> None:
    """New connections are refused or get an error; existing ones get an error."""
    with running_service(tmp_path) as service, httpx.Client(base_url=service.url) as client:
        client.get("/livez")
        with write_in_flight(service, "late") as (connection, body):
            service.process.terminate()
            wait_line(service, "draining: ")
            with contextlib.suppress(httpx.TransportError):
                assert client.put(f"{PREFIX}/jobs", json=job_body("new")).status_code == 503
            with contextlib.suppress(httpx.TransportError):
                assert put_job(service, "new").status_code == 503
            connection.sendall(body)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert ended(service) == 0


@pytest.mark.slow
def test_a_wait_does_not_delay_the_drain(tmp_path: Path) -> None:
    """A request that waits for a state is answered immediately."""
    with running_service(tmp_path, "--drain-timeout-seconds", "60") as service:
        put_job(service, "slow")
        place = urlsplit(service.url)
        with socket.create_connection((place.hostname or "", place.port or 0), TIMEOUT_SECONDS) as waiting:
            path = f"{PREFIX}/jobs/slow/wait?state=Running&timeout=100"
            waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            for _ in range(3):  # answered after the request before it was taken
                httpx.get(f"{service.url}/livez")
            service.process.terminate()
            wait_line(service, "draining: 1 requests")
            assert waiting.recv(65_536).startswith(b"HTTP/1.1 503 ")
        assert ended(service) == 0


@pytest.mark.slow
def test_a_request_that_does_not_end_is_cut_off_at_the_timeout(tmp_path: Path) -> None:
    """The log has the number, and the exit code is 1."""
    with (
        running_service(tmp_path, "--drain-timeout-seconds", "0.3") as service,
        write_in_flight(service, "never"),
    ):
        service.process.terminate()
        assert ended(service) == 1
        assert "drain timed out: 1 requests" in "\n".join(service.output)


@pytest.mark.slow
def test_a_second_signal_ends_it_immediately(tmp_path: Path) -> None:
    """However long the drain may take; the embedded server ends with it."""
    with (
        running_service(tmp_path, "--drain-timeout-seconds", "600") as service,
        write_in_flight(service, "never"),
    ):
        child = server_pid(service)
        service.process.terminate()
        wait_line(service, "draining: ")
        service.process.terminate()
        assert ended(service) == 128 + signal.SIGTERM
    with running_service(tmp_path) as service:  # its directory is free again
        assert server_pid(service) != child


@pytest.mark.slow
def test_feeds_are_closed_with_their_cursor(tmp_path: Path) -> None:
    """The last event of a feed has its cursor, and nothing is missing after a restart."""
    with running_service(tmp_path) as service:
        cursor = put_job(service, "one").json()["Cursor"]
        with httpx.stream("GET", f"{service.url}/api/v1/events?after=0", timeout=TIMEOUT_SECONDS) as feed:
            lines = feed.iter_lines()
            assert next(line for line in lines if line == f"id: {cursor}")
            assert next(line == "" for line in lines if not line)  # the end of that event
            service.process.terminate()
            rest = list(lines)
        assert ended(service) == 0
    events = [event.splitlines() for event in "\n".join(rest).split("\n\n")]
    close = next(event for event in events if "event: close" in event)
    assert f"id: {cursor}" in close


@pytest.mark.slow
def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    """A service that is waiting for its log shuts down."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        flags = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--nats-url", url]
        with subprocess.Popen(
            [*COMMAND, *flags], stderr=subprocess.PIPE, text=True, env=clean_env(tmp_path)
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "starting" in line
            killer = threading.Timer(TIMEOUT_SECONDS, process.kill)
            killer.start()
            process.terminate()
            rest = process.stderr.read()
            killer.cancel()
        assert process.returncode == 0, rest
        assert "ended before it was ready" in rest


async def test_unread_responses_do_not_delay_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once no handler runs, the drain waits a limited time for readers."""
    monkeypatch.setattr(serve_module, "UNSENT_GRACE_SECONDS", 0.1)
    never = asyncio.Event()
    http = SimpleNamespace(in_flight=1, wait_ended=never.wait)
    ending = asyncio.create_task(serve_module._wait_ended(http))  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(ending), 0.4)  # a handler runs: it is waited for
    http.in_flight = 0
    await asyncio.wait_for(ending, 5)


async def test_a_start_that_swallows_its_cancellation_exits_normally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its later error is ignored after a signal, and raised without one."""
    waits = asyncio.Event()

    class Failing:
        """A service whose start does not hear that it is cancelled."""

        async def __aenter__(self) -> None:
            waits.set()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.5)
            raise LogUnavailable("no nats-server answers")

        async def __aexit__(self, *_: object) -> None:
            """It was never entered."""

    monkeypatch.setattr(serve_module, "open_service", lambda _: Failing())
    settings = Settings(data_dir=tmp_path, port=0, nats_url="nats://127.0.0.1:1")
    serving = asyncio.create_task(serve_module.serve(settings, lambda *_: None))
    await waits.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await serving == 0
    with pytest.raises(LogUnavailable):
        await serve_module.serve(settings, lambda *_: None)
