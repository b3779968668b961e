"""The demo works from end to end, and leaves nothing running or on disk."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobledger.service.cli import demo as command
from jobledger.service.cli.main import cli
from jobledger.service.demo.checks import Check
from jobledger.service.demo.environment import NamedSpec, example_files, plan_jobs
from jobledger.service.demo.show import age, plain
from jobledger.store.embedded import server as embedded
from jobledger.store.model.errors import EmbeddedServerError
from jobledger.store.spec.spec import JobSpec
from tests.support.service_process import default_signals

ROOT = Path(__file__).parents[3]
SPECS = ROOT / "tests" / "specs"
CHECKS = 7


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "80", "NO_COLOR": "1"}


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `jobledger demo` as a process, with its temporary directory under `tmp_path`."""
    return subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", "demo", *arguments],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )


def leftovers(tmp_path: Path) -> list[str]:
    """Files under `tmp_path`, and processes started with one of them."""
    marks = [str(path) for path in tmp_path.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(tmp_path) in words:
            marks.append(words)
    return marks


def assert_it_shows_all(output: str) -> None:
    """The table, the timeline and all checks passed, in 80 columns."""
    assert re.search(r"^Name +ID +Type +Version +Revision +State +Age$", output, re.MULTILINE)
    assert re.search(r"^ ?Seq +Time +What +Rev +Ver +Who +Why *$", output, re.MULTILINE)
    assert len(re.findall(r"^✓ ", output, re.MULTILINE)) == CHECKS
    assert "✗" not in output
    assert f"All {CHECKS} checks passed" in output
    assert "jobledger job validate FILE" in output
    assert max(map(len, output.splitlines())) <= 80


def test_the_demo_passes_on_the_examples(tmp_path: Path) -> None:
    """Without arguments it uses the examples, shows an update from a -v2 file, and cleans up."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_it_shows_all(done.stdout)
    assert re.search(r"basic-daemon-job +j-\w{8} +daemon +3 +9 +Running", done.stdout)
    assert re.search(r"spec → version 2 +4 +2 +alice +daemon-job-v2.yaml", done.stdout)
    for state in ("Completed", "Failed", "Stopped", "Running"):
        assert state in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert all(line.startswith("demo: ") for line in done.stderr.splitlines())
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_the_demo_passes_on_user_specs(tmp_path: Path) -> None:
    """A JSON spec and one without a name work as well; one job is still updated twice."""
    names = ("bacalhau-testdata-nameless.yaml", "bacalhau-testdata-docker-output.json")
    done = run(tmp_path, *(str(SPECS / name) for name in names))
    assert done.returncode == 0, done.stderr
    assert_it_shows_all(done.stdout)
    assert "spec → version 3" in done.stdout
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_keep_leaves_a_view_and_a_log(tmp_path: Path) -> None:
    """--keep leaves closed files; a directory that is not empty is refused."""
    kept = tmp_path / "kept"
    assert run(tmp_path, "--keep", str(kept), str(SPECS / "bacalhau-testdata-noop.yaml")).returncode == 0
    assert {"nats", "view.sqlite"} <= {path.name for path in kept.iterdir()}
    assert not (kept / "view.sqlite-wal").exists()
    again = run(tmp_path, "--keep", str(kept))
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_an_invalid_spec_ends_the_demo_before_it_starts(tmp_path: Path) -> None:
    """All problems of all files are reported as by `job validate`, and nothing else happens."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("Type: batch\nFoo: 1\nTasks: [{Name: main, Engine: {Type: noop}}]\n")
    workplace = tmp_path / "tmp"
    workplace.mkdir()
    done = run(workplace, str(SPECS / "bacalhau-testdata-noop.yaml"), str(bad), str(tmp_path / "none.yaml"))
    validated = CliRunner().invoke(cli, ["job", "validate", str(bad)]).stdout
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] + "\n" == validated
    assert "none.yaml: error: can't be read" in done.stderr
    assert done.stdout == ""
    assert "demo:" not in done.stderr
    assert leftovers(workplace) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["start a nats-server", "race "])
@pytest.mark.slow
def test_a_signal_leaves_no_process_or_file(
    tmp_path: Path, moment: str, number: signal.Signals, code: int
) -> None:
    """Signaled once or twice, it stops its processes and removes its directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobledger.service.cli.main", "demo"],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,  # noqa: PLW1509 - plain calls only
    )
    assert process.stderr is not None
    with process, process.stderr as lines:
        for line in lines:
            if line.startswith(f"demo: {moment}"):
                break
        process.send_signal(number)
        process.send_signal(number)
        assert "Aborted" in lines.read()
    assert process.returncode == code
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_failed_check_is_shown_and_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mark, the first problems, the number of others, and exit code 1."""
    checks = [Check("it holds", "1 job", ()), Check("it does not", "2 jobs", ("wrong [x]",) * 7)]
    monkeypatch.setattr(command, "check_all", lambda _: checks)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(cli, ["demo", str(SPECS / "bacalhau-testdata-noop.yaml")])
    assert result.exit_code == 1
    assert "✓ it holds" in result.stdout
    assert "✗ it does not" in result.stdout
    assert result.stdout.count("wrong [x]") == 5
    assert "and 2 more" in result.stdout
    assert "1 of 2 checks failed" in result.stdout


def test_a_missing_server_program_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error is that of the embedded server, and the temporary directory is gone."""

    def find_nothing() -> Path:
        raise EmbeddedServerError("no nats-server found: install it")

    monkeypatch.setattr(embedded, "find_program", find_nothing)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(cli, ["demo"])
    assert isinstance(result.exception, EmbeddedServerError)
    assert leftovers(tmp_path) == []


def test_every_example_is_a_valid_spec() -> None:
    """`job validate` accepts each of them, and a -v2 has the name of its -v1."""
    paths = [str(path) for path in example_files()]
    assert CliRunner().invoke(cli, ["job", "validate", *paths]).exit_code == 0
    assert len(paths) == 9


def test_specs_of_one_name_are_one_job() -> None:
    """A later spec of the same namespace and name is an update; unnamed ones are separate jobs."""

    def file(label: str, **fields: Any) -> NamedSpec:
        return NamedSpec(label, JobSpec(**fields))

    plan = plan_jobs(
        [
            file("a", name="n"),
            file("b"),
            file("c", name="n", namespace="default"),
            file("d", name="n", namespace="other"),
            file("e"),
        ]
    )
    labels = [(planned.first.label, [update.label for update in planned.updates]) for planned in plan]
    assert labels == [("a", ["c"]), ("b", []), ("d", []), ("e", [])]


def test_control_characters_in_names_are_escaped() -> None:
    """Markup is text."""
    assert plain("\x1b[31m[bold]x\ny\u202e é").plain == "\\x1b[31m[bold]x\\ny\\u202e é"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0.0 s"), (0.44, "0.4 s"), (12.3, "12 s"), (119, "119 s"), (180, "3 min")]
)
def test_an_age_is_short(seconds: float, shown: str) -> None:
    """Ages have a unit and few digits."""
    assert age(int(seconds * 1e9)) == shown
