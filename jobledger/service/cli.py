"""The command `jobledger`: which commands there are, and how errors leave.

Commands are named here and imported when asked for, so that `jobledger --help` and the quick ones stay quick.
"""

import sys
from importlib import import_module
from typing import Any

import click

from jobledger import __version__


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for.

    Attributes:
        lazy: from the name of a command to where it is, `module:attribute`.
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, imported or not."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; this is where it is imported."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, lazy={"demo": "jobledger.service.commands.demo:demo"})
@click.version_option(__version__, prog_name="jobledger")
def cli() -> None:
    """An event-sourced store for the state of jobs."""


@cli.group(cls=LazyGroup, lazy={"validate": "jobledger.service.commands.validate:validate"})
def job() -> None:
    """Work with jobs and their specs."""


def main() -> None:
    """Run the command line; the errors that Jobledger raises on purpose become a message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name in a spec may hold what the terminal's encoding can't write; that is no reason to fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cli(prog_name="jobledger")
    except Exception as error:
        from jobledger.service.errors import exit_code  # the store is imported only when something is wrong
        from jobledger.store.errors import JobledgerError

        if not isinstance(error, JobledgerError):
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
