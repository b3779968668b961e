"""`jobledger job validate` tells people and machines what is wrong with spec files, without a server."""

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
def test_a_good_file_is_one_line_and_code_0() -> None:
    """A valid file is named and called valid."""
    result = run("good.yaml")
    assert (result.exit_code, result.stdout) == (0, "good.yaml: valid\n")


@pytest.mark.usefixtures("files")
def test_every_problem_of_a_bad_file_is_a_line_and_code_1() -> None:
    """Each line says the file, the place, what is wrong and the remedy."""
    result = run("bad.yaml")
    assert result.exit_code == 1
    first, *others = result.stdout.splitlines()
    assert first.startswith("bad.yaml: error: Foo: not a field of Job; remove it")
    assert others == ['bad.yaml: error: Tasks[0].Env.foo: "foo" is not all upper case; write "FOO"']


@pytest.mark.usefixtures("files")
def test_several_files_end_with_a_summary() -> None:
    """Good and bad files are counted, and one bad file makes code 1."""
    result = run("good.yaml", "bad.yaml", "good.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "3 files: 2 valid, 1 invalid"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_a_bad_file(name: str, reason: str) -> None:
    """A missing file does not keep the others from being checked."""
    result = run(name, "good.yaml")
    assert result.exit_code == 1
    assert reason in result.stdout.splitlines()[0]
    assert "good.yaml: valid" in result.stdout


def test_a_dash_is_standard_input() -> None:
    """`-` reads the spec from stdin and guesses its format."""
    assert run("-", stdin=GOOD).stdout == "stdin: valid\n"
    assert run("-", stdin='{"Type": "batch"}').exit_code == 1


def test_the_extension_tells_the_format(files: Path) -> None:
    """The same YAML in a file called .json is not JSON, and TOML is read."""
    (files / "a.json").write_text(GOOD)
    (files / "a.toml").write_text('Type = "batch"\n[[Tasks]]\nName = "main"\nEngine = {Type = "noop"}\n')
    assert "not JSON" in run("a.json").stdout
    assert run("a.toml").exit_code == 0


@pytest.mark.usefixtures("files")
def test_machines_get_one_json_object_per_file() -> None:
    """--json writes file, valid, problems and warnings for every file, and nothing else."""
    result = run("--json", "good.yaml", "bad.yaml", "none.yaml")
    good, bad, none = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 1
    assert good == {"file": "good.yaml", "valid": True, "problems": [], "warnings": []}
    assert [problem["path"] for problem in bad["problems"]] == ["Foo", "Tasks[0].Env.foo"]
    assert set(bad["problems"][0]) == {"path", "message", "remedy"}
    assert not none["valid"]


def test_a_warning_is_told_and_the_file_is_valid(files: Path) -> None:
    """Braces that look like a template are worth a line, not a failure."""
    (files / "w.yaml").write_text(GOOD + "Meta: {a: '{{x}}'}\n")
    result = run("w.yaml")
    assert result.exit_code == 0
    assert "w.yaml: warning: the spec holds {{ … }}" in result.stdout
    assert json.loads(run("--json", "w.yaml").stdout)["warnings"][0]["path"] == ""


@pytest.mark.usefixtures("files")
def test_a_file_that_is_too_long_is_refused_without_being_read_whole() -> None:
    """No more than the limit is read, so that an endless file ends."""
    assert str(SPEC_FILE_MAX_BYTES) in run("/dev/zero").stdout


def test_no_file_is_wrong_usage() -> None:
    """Called without a file, it exits with click's 2."""
    assert run().exit_code == 2


def test_commands_are_listed_and_the_version_told() -> None:
    """--help shows the lazy commands; --version is the package's."""
    assert "validate" in CliRunner().invoke(cli, ["job", "--help"]).stdout
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"jobledger, version {__version__}\n"
    assert CliRunner().invoke(cli, ["job", "nonsense"]).exit_code == 2


def test_every_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that Jobledger raises on purpose becomes a message on stderr and the code of the table."""
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


def test_errors_that_are_not_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback."""

    def fail(**_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_module, "cli", fail)
    with pytest.raises(ZeroDivisionError):
        cli_module.main()


def test_a_lazy_group_imports_a_command_when_it_is_asked_for() -> None:
    """Listing names needs no import; asking for the command does."""
    group = LazyGroup("g", lazy={"x": Lazy("no.such.module:command", "")})
    assert CliRunner().invoke(group, ["y"]).exit_code == 2
    with pytest.raises(ModuleNotFoundError):
        CliRunner().invoke(group, ["x"], catch_exceptions=False)


@pytest.mark.usefixtures("files")
def test_the_real_command_works_and_its_start_is_lean() -> None:
    """The process exits with the code; asking for the version imports nothing of the store."""
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
