"""`jobledger completion`: the script that makes a shell complete commands, options and jobs."""

import click
from click.shell_completion import get_completion_class

_PROGRAM = "jobledger"
_VARIABLE = "_JOBLEDGER_COMPLETE"  # click's convention: the script sets it and calls the program


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands.

    For bash: `eval "$(jobledger completion bash)"` in ~/.bashrc; zsh the same with zsh in ~/.zshrc; for fish:
    `jobledger completion fish > ~/.config/fish/completions/jobledger.fish`. Names and ids of jobs are
    completed, too, if the service answers.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())
