"""On a real terminal: colors, width, and Ctrl-C."""

import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem

from jobledger.service.cli import main as cli_module
from jobledger.service.cli.completion import QuotingBashComplete
from jobledger.service.cli.main import _color, cli
from jobledger.service.cli.text import cut_middle, text_width
from tests.support.service_process import RunningService, clean_env, jobledger, running_service

ROOT = Path(__file__).parents[3]
SPEC = '{"Name": "%s", "Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}'
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|9\d)m")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two jobs; one has a name that would clear the screen."""
    home = tmp_path_factory.mktemp("service")
    with running_service(home) as running:
        for name in ("x" * 200, "\\u001b[2Jevil"):
            jobledger(home, "job", "run", "-", url=running.url, stdin=SPEC % name)
        yield running


def on_terminal(home: Path, url: str, *words: str, columns: int = 80, **env: str) -> str:
    """The output of a command on a terminal of this width."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (50, columns))
    process = subprocess.Popen(
        [sys.executable, "-m", "jobledger.service.cli.main", *words],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=clean_env(home, {"JOBLEDGER_URL": url, "TERM": "xterm-256color", **env}),
        cwd=ROOT,
    )
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 65_536):
            parts.append(part)
    except OSError:  # Linux says so when the other side is closed
        pass
    finally:
        os.close(master)
        process.wait(30)
    return b"".join(parts).decode()


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_table_fits_the_terminal_and_ids_stay_whole(
    service: RunningService, tmp_path: Path, columns: int
) -> None:
    """Long names are shortened, columns omitted; no line exceeds the width, and no ID is cut."""
    text = on_terminal(tmp_path, service.url, "job", "list", columns=columns)
    assert _COLOUR.search(text)
    assert "\x1b[2J" not in text
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in text.splitlines()]
    assert all(len(line) <= columns for line in lines)
    assert all(re.match(r"(?:ID|j-[0-9a-f]{8})  ", line) for line in lines)
    assert ("Ver" in lines[0]) == (columns >= 80)
    assert any(len(line) == columns for line in lines), lines


def test_tail_fits_the_terminal(service: RunningService, tmp_path: Path) -> None:
    """Short IDs, and the end is cut; each event is one line."""
    words = ("events", "tail", "--after", "0", "--limit", "2")
    lines = on_terminal(tmp_path, service.url, *words, NO_COLOR="1").splitlines()
    assert len(lines) == 2
    assert all(re.search(r"  default/j-[0-9a-f]{8}  created", line) for line in lines)
    assert 76 <= len(lines[0]) <= 80
    assert lines[0].endswith("…")


def test_no_color_disables_colors(service: RunningService, tmp_path: Path) -> None:
    """In tables and lines."""
    for words in (("job", "list"), ("job", "describe", "x" * 200)):
        assert not _COLOUR.search(on_terminal(tmp_path, service.url, *words, NO_COLOR="1"))


def test_interrupt_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with exit code 130."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_module, "cli", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli_module.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_closed_pipe_ends_a_command_like_sigpipe(tmp_path: Path) -> None:
    """Short or long output: exit code 141, and nothing on standard error."""
    for words in (["config", "show"], ["--help"], ["job", "list", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "jobledger.service.cli.main", *words]
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, check=False, env=clean_env(tmp_path), timeout=60
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b""), words


@pytest.mark.parametrize(
    ("env", "color"),
    [({}, None), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_force_color_keeps_colors(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], color: bool | None
) -> None:
    """NO_COLOR overrides FORCE_COLOR."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert _color() is color


def test_path_is_shortened_in_the_middle() -> None:
    """Both ends remain; the width is kept, also with wide characters."""
    path = "Tasks[0].Engine.Params.EnvironmentVariables[12]"
    assert cut_middle(path, 20) == "Tasks[0].…iables[12]"
    assert cut_middle(path, 100) == path
    assert all(text_width(cut_middle("日本語" * 9, width)) <= width for width in range(2, 30))


def test_bash_inserts_a_name_with_a_space_quoted() -> None:
    """As one word with any characters; bash reads the line of the completion raw."""
    shown = QuotingBashComplete(cli, {}, "jobledger", "_X").format_completion(CompletionItem("my job's"))
    assert shown == r"plain,my\ job\'s"
    read = f"IFS=',' read -r type value <<< {shlex.quote(shown)}"
    script = read + '; eval "words=($value)"; echo "${words[0]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "my job's\n"
    assert "read -r type value" in QuotingBashComplete.source_template
    assert '+=("$value")' in QuotingBashComplete.source_template
