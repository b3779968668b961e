"""`jobledger completion`: shell completion of commands, options and jobs."""

import re
from typing import Final

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from jobledger.service.cli.examples import examples

_PROGRAM = "jobledger"
_VARIABLE = "_JOBLEDGER_COMPLETE"  # click's convention: the script sets it and runs the program


_PLAIN_WORD: Final = re.compile(r"[\w@%+=:,./-]+")
_SPECIAL: Final = re.compile(r"[^\w@%+=:,./-]")


@add_completion_class
class QuotingBashComplete(BashComplete):
    """Quotes completions: bash inserts them unchanged, while zsh and fish quote them."""

    name = "bash"
    source_template = BashComplete.source_template.replace("read type value", "read -r type value").replace(
        "+=($value)", '+=("$value")'
    )

    def format_completion(self, item: CompletionItem) -> str:
        """The kind and the value, with a backslash before each special character."""
        value = str(item.value)
        if item.type == "plain" and not _PLAIN_WORD.fullmatch(value):
            value = _SPECIAL.sub(lambda found: f"\\{found[0]}", value)
        return f"{item.type},{value}"


@click.command(epilog=examples("jobledger completion bash > /etc/bash_completion.d/jobledger"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell completion script.

    For bash, put `eval "$(jobledger completion bash)"` into ~/.bashrc; for zsh, the same with `zsh` into
    ~/.zshrc; for fish, run `jobledger completion fish > ~/.config/fish/completions/jobledger.fish`. Names and
    IDs of jobs are completed if the service can be reached.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())
