"""The examples in docs/CLI.md that need a service match its output."""

import re
import shlex
from pathlib import Path

import click
import pytest

from jobledger.service.cli.main import cli
from tests.support.service_process import jobledger, running_service

PAGE = Path(__file__).parents[3] / "docs" / "CLI.md"
# Ages and times depend on the clock; so does the space before an age.
_AGE = re.compile(r"(?:^| +)\d+[smh]\b", re.MULTILINE)
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}")


def examples() -> list[list[tuple[str, str]]]:
    """Blocks of commands with their output."""
    blocks = re.findall(r"```console service\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [re.findall(r"\$ jobledger (.*)\n((?:(?!\$ ).*\n)*)", block) for block in blocks]


@pytest.mark.slow
def test_examples_of_the_page_match_the_output(tmp_path: Path) -> None:
    """All blocks run in order against one new service; only ages and times may differ."""
    assert examples()
    with running_service(tmp_path) as service:
        for words, shown in (example for block in examples() for example in block):
            done = jobledger(tmp_path, *shlex.split(words), url=service.url, env={"LOGNAME": "alice"})
            assert done.returncode == 0, done.stderr
            assert without_times(done.stdout) == without_times(shown), done.stdout


def without_times(text: str) -> str:
    return _TIME.sub("TIME", _AGE.sub(" AGE", text))


def test_page_lists_the_job_commands_without_quiet() -> None:
    """The table of common options names exactly those."""
    without = [
        f"{group} {name}"
        for group in ("job", "events")
        for name, command in sorted(members(group).items())
        if not any(option.name == "quiet" for option in command.params)
    ]
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith("| `-q`"))
    named = re.findall(r"`(\w+ [\w-]+)`", row)
    assert sorted(named) == sorted(without)


def members(group: str) -> dict[str, click.Command]:
    """The imported commands of a group."""
    found = cli.commands[group]
    assert isinstance(found, click.Group)
    context = click.Context(found)
    named = {name: found.get_command(context, name) for name in found.list_commands(context)}
    return {name: command for name, command in named.items() if command is not None}
