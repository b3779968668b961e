"""The code blocks of README.md and docs/ run as printed.

A shell block that needs more than a clone and the service of `make run` starts with the comment `# needs
…`; these are counted below instead of run. `make` lines are not run either: CI runs those targets.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.service_process import RunningService, clean_env, default_signals, running_service

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:1234"
DATA_DIR = Path(".local/state/jobledger")  # the default, at home
MARK = "# needs "
LINKED = (".venv", "docs", "examples", "tests")  # what the commands use of a clone

# Pages whose shell blocks are run, on one service each. docs/API.md has its own test, which also compares
# the responses (tests/service/api/test_api_page.py).
PAGES = ("docs/CLI.md", "docs/SUBSCRIBE.md", "docs/AUDIT.md", "docs/OPERATIONS.md", "docs/SECURITY.md")
# Number of blocks of each page that start with the mark.
NEEDS = {
    "docs/AUDIT.md": 3,
    "docs/CLI.md": 1,
    "docs/DEPLOY.md": 5,
    "docs/OPERATIONS.md": 7,
    "docs/SUBSCRIBE.md": 6,
}


class Block(NamedTuple):
    """A fenced block: the text before it, its language, and its lines."""

    before: str
    language: str
    text: str


def blocks_of(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = (ROOT / page).read_text()
    for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)^```$", text, re.MULTILINE):
        yield Block(text[: found.start()], found[1], found[2])


def all_pages() -> list[str]:
    return ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


class Reader:
    """A user in a clone, with a service that runs on the default data directory."""

    def __init__(self, home: Path, folder: Path, service: RunningService) -> None:
        self.folder = folder
        self._service = service
        self._env = clean_env(home, {"JOBLEDGER_URL": service.url, "CURL_HOME": str(folder), "USER": "alice"})
        for name in LINKED:
            (folder / name).symlink_to(Path(sys.prefix) if name == ".venv" else ROOT / name)
        (folder / ".curlrc").write_text("fail-with-body\n")  # an error of the service is a failure here

    def run(self, script: str) -> str:
        """Run shell lines up to the first failure; returns the standard output."""
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script.replace(ADDRESS, self._service.url)],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
            env=self._env,
            cwd=self.folder,
            preexec_fn=default_signals,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, program: str) -> subprocess.Popen[str]:
        """Start a saved Python program."""
        return subprocess.Popen(
            [sys.executable, program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._env,
            cwd=self.folder,
            preexec_fn=default_signals,  # noqa: PLW1509 - plain calls only
        )


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    home, folder = tmp_path / "home", tmp_path / "clone"
    home.mkdir()
    folder.mkdir()
    with running_service(home, "--data-dir", str(home / DATA_DIR)) as service:
        yield Reader(home, folder, service)


def runnable(block: Block) -> str:
    """Return the lines of a shell block to run; empty if there are none."""
    if block.language != "sh" or block.text.startswith(MARK):
        return ""
    return "".join(line for line in block.text.splitlines(keepends=True) if not line.startswith("make "))


@pytest.mark.timeout(300)  # about twenty processes, one after the other
@pytest.mark.slow
def test_the_readme_runs_as_copied(reader: Reader) -> None:
    """Shell blocks and programs run in order on a new service; a subscriber gets an event, Ctrl-C ends it."""
    script = ""
    for block in blocks_of("README.md"):
        script += runnable(block)
        if block.language == "python":
            name = re.findall(r"[Ss]ave this as\s+`([\w.]+)`", block.before)[-1]
            (reader.folder / name).write_text(block.text)
            assert f"`python {name}`" in " ".join(block.before.split())
            if name == "library.py":
                script += f"python {name}\n"
    output = reader.run(script)
    assert "[('nightly-report', 1, 2)]" in output
    assert "proven: job hello" in output
    billing = reader.start("billing.py")
    try:
        assert billing.stdout is not None
        assert billing.stdout.readline().split()[:3] == ["charge", "for", "nightly-report"]
        billing.send_signal(signal.SIGINT)
        assert billing.communicate(timeout=60) == ("", "")
        assert billing.returncode == 0
    finally:
        billing.kill()
        billing.wait()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_shell_blocks_of_a_page_run_as_copied(page: str, reader: Reader) -> None:
    """The blocks run in order on a service with the README's first job."""
    script = "".join(filter(None, map(runnable, blocks_of(page))))
    assert script
    reader.run(_first_job() + script)


def _first_job() -> str:
    """Return the README's block that submits `hello`."""
    return next(text for block in blocks_of("README.md") if "/jobs/hello/state" in (text := runnable(block)))


def test_blocks_that_are_not_run_state_what_they_need() -> None:
    """Each such block is marked, and their number is pinned."""
    found = {
        page: count
        for page in all_pages()
        if (count := sum(block.text.startswith(MARK) for block in blocks_of(page)))
    }
    assert found == NEEDS
    for page in all_pages():
        for block in blocks_of(page):
            if "…" in block.text and block.language == "sh":
                assert block.text.startswith(MARK), f"{page}: cannot be copied: {block.text}"
            if page not in (*PAGES, "README.md", "docs/API.md"):
                assert not runnable(block), f"{page}: no test runs {block.text}"
