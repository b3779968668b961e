"""A real service in a process of its own, for tests: started on a free port, ready when it is handed over.

    with running_service(tmp_path) as service:
        httpx.get(f"{service.url}/readyz")

It is stopped by SIGTERM, and a service that does not end by itself fails the test that used it.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

START_TIMEOUT_SECONDS = 60.0  # two cores, and other tests beside this one
STOP_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.05
_SHOWING = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}  # how the caller's own terminal is to be used
_URL = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[\w.-]+):\d+")


class RunningService(NamedTuple):
    """A service that answered `/readyz` with 200.

    Attributes:
        url: where it listens, without a slash at the end.
        process: its process; a test may kill it.
        data_dir: where it keeps log and view.
        output: the lines that it wrote so far, standard output and error as they came.
    """

    url: str
    process: subprocess.Popen[str]
    data_dir: Path
    output: Sequence[str]


def clean_env(home: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what would configure Jobledger, at home in a directory of the test's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JOBLEDGER_", "XDG_")) and name not in _SHOWING
    }
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", **(env or {})}


def default_signals() -> None:
    """Undo what the caller of the tests ignores (`nohup` ignores SIGHUP): children would inherit it."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def running_service(
    tmp_path: Path, *flags: str, env: Mapping[str, str] | None = None, ready: bool = True
) -> Iterator[RunningService]:
    """Run `jobledger serve` until the block ends.

    Args:
        tmp_path: the home of the process; its data goes to `tmp_path / "data"` unless a flag says otherwise.
        flags: more flags of `serve`. `--port` and `--data-dir` are given unless they are among them.
        env: more environment variables; those of the caller's own `JOBLEDGER_*` are not passed on.
        ready: wait until it is ready; False: only until it says where it listens.
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
    """Reads what a process writes, so that it never waits for a reader, and sees where it listens."""

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
        """The first URL that the process names."""
        self._seen.wait(START_TIMEOUT_SECONDS)
        if not self._url:
            raise AssertionError(f"the service did not say where it listens:\n{self.text()}")
        return self._url

    def close(self) -> None:
        """Wait until all was read; the process has ended."""
        self._thread.join(STOP_TIMEOUT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def text(self) -> str:
        return "\n".join(self.lines)


def _wait_until_ready(service: RunningService) -> None:
    """Ask `/readyz` until it says yes; there is nothing else to wait on from outside of the process."""
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
    """Run a command of the command line to its end, as a user would whose home is that directory.

    Args:
        home: where it finds no settings of anybody else.
        words: the command, its arguments and options.
        url: of the service; empty: the default one.
        stdin: what it can read.
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
