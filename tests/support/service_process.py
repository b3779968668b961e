"""A real service in its own process, on a free port, ready when it is yielded.

    with running_service(tmp_path) as service:
        httpx.get(f"{service.url}/readyz")

It is stopped by SIGTERM, and a service that does not exit by itself fails the test.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.support.api import PREFIX, job_body

COMMAND = [sys.executable, "-m", "jobledger.service.cli.main", "serve"]
TIMEOUT_SECONDS = 30.0
START_TIMEOUT_SECONDS = 60.0  # two cores, shared with other tests
STOP_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.05
_SHOWING = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}  # the terminal settings of the caller
_URL = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[\w.-]+):\d+")


class RunningService(NamedTuple):
    """A running service.

    Attributes:
        url: its URL, without a trailing slash.
        process: its process; a test may kill it.
        data_dir: the directory of its log and view.
        output: its lines so far, from standard output and error.
    """

    url: str
    process: subprocess.Popen[str]
    data_dir: Path
    output: Sequence[str]


def clean_env(home: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without Jobledger's variables, with another home directory."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JOBLEDGER_", "XDG_")) and name not in _SHOWING
    }
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", **(env or {})}


def default_signals() -> None:
    """Reset ignored signals, which children would inherit (`nohup` ignores SIGHUP)."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def running_service(
    tmp_path: Path, *flags: str, env: Mapping[str, str] | None = None, ready: bool = True
) -> Iterator[RunningService]:
    """Run `jobledger serve` until the block ends.

    Args:
        tmp_path: the home of the process; its data is in `tmp_path / "data"` unless a flag says otherwise.
        flags: more flags of `serve`, in addition to `--port` and `--data-dir`.
        env: more environment variables; `JOBLEDGER_*` of the caller are not passed on.
        ready: wait until it is ready; False: only until it prints its URL.
    """
    data_dir = Path(flags[flags.index("--data-dir") + 1]) if "--data-dir" in flags else tmp_path / "data"
    chosen = [*flags]
    if "--data-dir" not in flags:
        chosen += ["--data-dir", str(data_dir)]
    if "--port" not in flags:
        chosen += ["--port", "0"]
    command = [sys.executable, "-m", "jobledger.service.cli.main", "serve", *chosen]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_env(tmp_path, env),
        cwd=Path(__file__).parents[2],
        preexec_fn=default_signals,  # noqa: PLW1509 - plain calls only
    )
    output = _Output(process)
    try:
        service = RunningService(output.wait_for_url(), process, data_dir, output.lines)
        if ready:
            _wait_until_ready(service)
        yield service
    finally:
        _stop(process, output)


class _Output:
    """Reads the output of a process, so that it never blocks, and finds its URL."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._url = ""
        self._seen = threading.Event()  # the URL, or the end
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            found = _URL.search(line)
            if found and not self._url:
                self._url = found[0]
                self._seen.set()
        self._seen.set()

    def wait_for_url(self) -> str:
        """Return the first URL that the process prints."""
        self._seen.wait(START_TIMEOUT_SECONDS)
        if not self._url:
            raise AssertionError(f"the service did not say where it listens:\n{self.text()}")
        return self._url

    def close(self) -> None:
        """Wait until the output of the exited process is read."""
        self._thread.join(STOP_TIMEOUT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def text(self) -> str:
        return "\n".join(self.lines)


def _wait_until_ready(service: RunningService) -> None:
    """Poll `/readyz` until the service is ready."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    answer = "no answer"
    with httpx.Client(base_url=service.url, verify=False, trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline and service.process.poll() is None:
            try:
                response = client.get("/readyz")
            except httpx.TransportError as error:
                answer = repr(error)
            else:
                if response.status_code == httpx.codes.OK:
                    return
                answer = response.text
            time.sleep(POLL_SECONDS)
    raise AssertionError(f"the service is not ready: {answer}\n" + "\n".join(service.output))


def _stop(process: subprocess.Popen[str], output: _Output) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"the service did not end in time:\n{output.text()}") from None
    finally:
        output.close()


def jobledger(
    home: Path, *words: str, url: str = "", stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user with this home directory.

    Args:
        home: the home directory.
        words: the command, its arguments and options.
        url: of the service; empty: the default.
        stdin: its standard input.
        env: more environment variables.
    """
    more = {"JOBLEDGER_URL": url} if url else {}
    return subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT_SECONDS,
        env=clean_env(home, {**more, **(env or {})}),
        cwd=Path(__file__).parents[2],
    )


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stops a process (SIGSTOP)."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def wait_line(service: RunningService, text: str) -> str:
    """Wait for an output line that contains a text."""
    for _ in range(int(TIMEOUT_SECONDS / 0.01)):
        for line in tuple(service.output):
            if text in line:
                return line
        assert service.process.poll() is None or text in "\n".join(service.output), service.output
        time.sleep(0.01)
    raise AssertionError(f"{text!r} was not said: {service.output}")


def put_job(service: RunningService, name: str) -> httpx.Response:
    """Submit a job."""
    return httpx.put(f"{service.url}{PREFIX}/jobs", json=job_body(name), timeout=TIMEOUT_SECONDS)


def server_pid(service: RunningService) -> int:
    """The process of its embedded nats-server."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    found = [pid for pid in map(int, children) if Path(f"/proc/{pid}/comm").read_text().startswith("nats")]
    assert len(found) == 1
    return found[0]
