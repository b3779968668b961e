"""`jobledger job validate` shows people and programs what is wrong with spec files, offline."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobledger import __version__
from jobledger.service.cli import main as cli_module
from jobledger.service.cli.main import Lazy, LazyGroup, cli
from jobledger.service.errors import exit_code
from jobledger.store.model import errors
from jobledger.store.model.limits import SPEC_FILE_MAX_BYTES

GOOD = "Type: batch\nTasks: [{Name: main, Engine: {Type: noop}}]\n"
BAD = "Type: batch\nFoo: 1\nTasks: [{Name: main, Engine: {Type: noop}, Env: {foo: x}}]\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["job", "validate", *arguments], input=stdin)


@pytest.mark.usefixtures("files")
def test_valid_file_is_one_line_and_code_0() -> None:
    """A valid file is named and called valid."""
    result = run("good.yaml")
    assert (result.exit_code, result.stdout) == (0, "good.yaml: valid\n")


@pytest.mark.usefixtures("files")
def test_every_problem_is_a_line_and_code_1() -> None:
    """Each line has the file, the path, the problem and the remedy."""
    result = run("bad.yaml")
    assert result.exit_code == 1
    first, *others = result.stdout.splitlines()
    assert first.startswith("bad.yaml: error: Foo: not a field of Job; remove it")
    assert others == ['bad.yaml: error: Tasks[0].Env.foo: "foo" is not all upper case; write "FOO"']


@pytest.mark.usefixtures("files")
def test_several_files_end_with_a_summary() -> None:
    """Valid and invalid files are counted; one invalid file is exit code 1."""
    result = run("good.yaml", "bad.yaml", "good.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "3 files: 2 valid, 1 invalid"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "No such file"), (".", "Is a directory")])
def test_unreadable_file_is_invalid(name: str, reason: str) -> None:
    """The other files are still checked."""
    result = run(name, "good.yaml")
    assert result.exit_code == 1
    assert reason in result.stdout.splitlines()[0]
    assert "good.yaml: valid" in result.stdout


def test_dash_is_standard_input() -> None:
    """`-` reads the spec from stdin and detects its format."""
    assert run("-", stdin=GOOD).stdout == "stdin: valid\n"
    assert run("-", stdin='{"Type": "batch"}').exit_code == 1


def test_extension_determines_the_format(files: Path) -> None:
    """YAML in a file called .json is not JSON, and TOML is read."""
    (files / "a.json").write_text(GOOD)
    (files / "a.toml").write_text('Type = "batch"\n[[Tasks]]\nName = "main"\nEngine = {Type = "noop"}\n')
    assert "not JSON" in run("a.json").stdout
    assert run("a.toml").exit_code == 0


@pytest.mark.usefixtures("files")
def test_json_has_one_object_per_file() -> None:
    """--json prints file, valid, problems and warnings for every file, and nothing else."""
    result = run("--json", "good.yaml", "bad.yaml", "none.yaml")
    good, bad, none = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 1
    assert good == {"file": "good.yaml", "valid": True, "problems": [], "warnings": []}
    assert [problem["path"] for problem in bad["problems"]] == ["Foo", "Tasks[0].Env.foo"]
    assert set(bad["problems"][0]) == {"path", "message", "remedy"}
    assert not none["valid"]


def test_warning_is_shown_and_the_file_is_valid(files: Path) -> None:
    """Braces that look like a template are a warning, not an error."""
    (files / "w.yaml").write_text(GOOD + "Meta: {a: '{{x}}'}\n")
    result = run("w.yaml")
    assert result.exit_code == 0
    assert "w.yaml: warning: the spec contains {{ … }}" in result.stdout
    assert json.loads(run("--json", "w.yaml").stdout)["warnings"][0]["path"] == ""


@pytest.mark.usefixtures("files")
def test_too_long_file_is_rejected_without_reading_it_all() -> None:
    """At most the limit is read, so that an endless file ends."""
    assert str(SPEC_FILE_MAX_BYTES) in run("/dev/zero").stdout


def test_missing_file_argument_is_a_usage_error() -> None:
    """Exit code 2."""
    assert run().exit_code == 2


def test_help_lists_commands_and_version_is_shown() -> None:
    """--help shows the lazy commands; --version is the package's."""
    assert "validate" in CliRunner().invoke(cli, ["job", "--help"]).stdout
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"jobledger, version {__version__}\n"
    assert CliRunner().invoke(cli, ["job", "nonsense"]).exit_code == 2


def test_every_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A JobledgerError becomes a message on stderr and the exit code of the table."""
    assert exit_code(errors.InvalidSpec([])) == 2
    assert exit_code(errors.JobNotFound()) == 3
    assert exit_code(errors.JobTerminal()) == 4
    assert exit_code(errors.Contention("", job_id="j", revision=1)) == 5
    assert exit_code(errors.LogBusy()) == 6
    assert exit_code(errors.EmbeddedServerError()) == 6
    assert exit_code(errors.JobledgerError()) == 1

    def fail(**_: Any) -> Any:
        raise errors.JobNotFound("no job x")

    monkeypatch.setattr(cli_module, "cli", fail)
    with pytest.raises(SystemExit) as caught:
        cli_module.main()
    assert caught.value.code == 3
    assert capsys.readouterr().err == "Error: no job x\n"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is not hidden."""

    def fail(**_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_module, "cli", fail)
    with pytest.raises(ZeroDivisionError):
        cli_module.main()


def test_lazy_group_imports_a_command_when_it_runs() -> None:
    """Listing names imports nothing."""
    group = LazyGroup("g", lazy={"x": Lazy("no.such.module:command", "")})
    assert CliRunner().invoke(group, ["y"]).exit_code == 2
    with pytest.raises(ModuleNotFoundError):
        CliRunner().invoke(group, ["x"], catch_exceptions=False)


@pytest.mark.usefixtures("files")
def test_installed_command_works_and_starts_fast() -> None:
    """The process exits with the code; --version imports nothing of the store."""
    done = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", "job", "validate", "good.yaml", "bad.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "bad.yaml: error: Foo" in done.stdout
    lean = (
        "import sys, jobledger.service.cli.main as cli; print({'yaml', 'msgspec', 'nats'} & {*sys.modules})"
    )
    assert (
        subprocess.run([sys.executable, "-c", lean], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )
