"""The command line starts fast: each command imports only what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from jobledger.service.cli.main import LazyGroup, cli
from tests.support.service_process import clean_env

HEAVY = ("httpx", "rich", "nats", "aiosqlite", "granian", "yaml", "msgspec", "asyncio")
_PROGRAM = f"""
import sys
from jobledger.service.cli.main import main
sys.argv[0] = "jobledger"
try:
    main()
finally:
    print("imported:", *sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)
""".replace(repr(HEAVY), repr(set(HEAVY)))


def imported(home: Path, *words: str) -> set[str]:
    """The heavy packages that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words],
        capture_output=True,
        text=True,
        check=False,
        env=clean_env(home),
        timeout=60,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imported:"), done.stderr
    return set(last.split()[1:])


@pytest.mark.parametrize("words", ["--help", "--version", "job --help", "events -h", "version --client"])
def test_help_and_version_import_nothing_heavy(tmp_path: Path, words: str) -> None:
    """Lists of commands come from the table of lazy commands, not from the commands."""
    assert imported(tmp_path, *words.split()) == set()


def test_client_command_imports_no_server_and_no_rich(tmp_path: Path) -> None:
    """Before the request, only the client and the settings; rich is imported later, for terminals only."""
    assert imported(tmp_path, "job", "list", "--url", "http://127.0.0.1:9") == {"httpx", "msgspec"}


def test_summaries_match_the_help_of_the_commands() -> None:
    """Lists show the first sentence of a command's help."""

    def check(group: LazyGroup) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if name in group.lazy:
                help_text = " ".join((command.help or "").split("\n\n")[0].split())
                assert group.lazy[name].summary == help_text, name
            if isinstance(command, LazyGroup):
                check(command)

    assert isinstance(cli, LazyGroup)
    check(cli)


def test_names_are_completed_without_importing_the_commands(tmp_path: Path) -> None:
    """The shell gets the matching commands with their summaries."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env=clean_env(
            tmp_path,
            {"_JOBLEDGER_COMPLETE": "zsh_complete", "COMP_WORDS": "jobledger job", "COMP_CWORD": "1"},
        ),
    )
    assert "job\nManage jobs and their specs." in done.stdout
    assert done.stderr.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion_script(tmp_path: Path, shell: str) -> None:
    """The script runs `jobledger`."""
    done = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
        env=clean_env(tmp_path),
    )
    assert "_JOBLEDGER_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["job", "tag", "J", b"v\xe9"],
        ["job", "describe", b"\xff"],
        ["job", "list", "-l", b"a=\xe9"],
        ["job", "stop", "J", b"--reason=\xe9"],
        ["job", "run", b"missing-\xe9.yaml"],
        ["events", "tail", "--after", b"\xc3"],
        [b"\xe9"],
        ["webhook", "add", b"http://\xe9/"],
        ["token", "create", "--name", b"\xe9"],
    ],
)
def test_argument_that_is_not_text_is_rejected(tmp_path: Path, words: list[str | bytes]) -> None:
    """In every command: a message and the exit code of a usage error, no traceback."""
    command: list[str | bytes] = [sys.executable, "-m", "jobledger.service.cli.main", *words]
    done = subprocess.run(command, capture_output=True, check=False, env=clean_env(tmp_path), timeout=60)
    assert done.returncode == 2, done.stderr
    assert b"is not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_existing_file_may_have_a_name_that_is_not_text(tmp_path: Path) -> None:
    """File names are bytes."""
    path = os.fsencode(tmp_path) + b"/\xe9.yaml"
    with open(path, "w") as file:  # noqa: PTH123 - a path of bytes
        file.write("Type: batch\nTasks: [{Name: main, Engine: {Type: noop}}]\n")
    command: list[str | bytes] = [sys.executable, "-m", "jobledger.service.cli.main", "job", "validate", path]
    done = subprocess.run(command, capture_output=True, check=False, env=clean_env(tmp_path), timeout=60)
    assert done.returncode == 0, done.stderr
