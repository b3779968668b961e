"""Rules for every command: its help has working examples, and lists support every format."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from jobledger.service.cli.main import cli


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Every command and group, with its words."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


COMMANDS = dict(walk(cli, ("jobledger",)))
LISTS = [
    path for path, each in COMMANDS.items() if path.endswith((" list", " seals", " versions", " history"))
]
LISTS += ["jobledger subscriptions parked", "jobledger view quarantine", "jobledger view damage"]
LISTS += ["jobledger audit key show"]


def examples(path: str) -> list[str]:
    """The examples of a help text."""
    command = COMMANDS[path]
    text = command.get_help(click.Context(command, info_name=path, max_content_width=100))
    _, _, after = text.partition("\n  Examples:\n")
    return [line.strip() for line in after.splitlines()]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_help_ends_with_examples_that_the_command_line_accepts(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is of that command, or of one of the group; only names and files are placeholders."""
    monkeypatch.chdir(tmp_path)
    lines = examples(path)
    assert lines, f"`{path} --help` has no examples"
    for line in lines:
        assert line.startswith(path), line
        words = shlex.split(re.split(r" [<>|] ", line)[0])[1:]
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        command.make_context(line, words)


@pytest.mark.parametrize("path", LISTS)
def test_every_list_supports_wide_name_and_csv(path: str) -> None:
    """In addition to the formats of every command."""
    [output] = [each for each in COMMANDS[path].params if each.name == "form"]
    assert isinstance(output.type, click.Choice)
    assert {"table", "json", "yaml", "ndjson", "wide", "name", "csv"} <= set(output.type.choices)


@pytest.mark.parametrize("path", ["list", "describe", "history"])
def test_lists_of_changing_data_can_be_watched(path: str) -> None:
    """With the same option."""
    assert any("--watch" in each.opts for each in COMMANDS[f"jobledger job {path}"].params)
