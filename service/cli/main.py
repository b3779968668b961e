"""The command `jobledger`: its groups of commands, and the exit codes of errors.

Commands are listed here and imported only when they run, so that the command line starts fast.
"""

import os
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

import click

from jobledger import __version__
from jobledger.service.cli.examples import examples

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_PIPE_CLOSED = 141  # as a shell reports a program ended by SIGPIPE: 128 + 13
_INTERRUPTED = 130  # as a shell reports a program ended by SIGINT: 128 + 2


class Lazy(NamedTuple):
    """A command that is imported when it runs.

    Attributes:
        where: `module:attribute`.
        summary: the first sentence of its help, so that a list of commands does not import it.
    """

    where: str
    summary: str


class LazyGroup(click.Group):
    """A group of lazy commands; lists do not show the aliases."""

    def __init__(
        self,
        *args: Any,
        lazy: dict[str, Lazy] | None = None,
        aliases: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}
        self.aliases = aliases or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reject arguments that are not text; file names may be any bytes."""
        for arg in args:
            if not _is_text(arg) and not os.path.exists(arg.rpartition("=")[2]):  # noqa: PTH110 - fast start
                shown = arg.encode("ascii", "backslashreplace").decode()
                raise click.UsageError(f"the argument {shown} is not UTF-8", ctx)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, imported or not."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command with this name or alias."""
        cmd_name = self.aliases.get(cmd_name, cmd_name)
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name].where.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest similar names, since click knows only imported commands."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx))
            if not near:
                raise
            similar = " or ".join(map(repr, near))
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {similar}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in a help text, without importing them."""
        rows = [(name, self._summary(ctx, name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Names of commands with this prefix; for options, the completions of click."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [CompletionItem(name, help=self._summary(ctx, name)) for name in names]

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        command = super().get_command(ctx, name)
        return command.get_short_help_str(limit=100) if command else ""


def _is_text(arg: str) -> bool:
    """Whether an argument is UTF-8; Python reads other bytes as lone surrogates."""
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


_HELP_MAX_WIDTH = 100


def _lazy(**commands: tuple[str, str]) -> dict[str, Lazy]:
    """Commands by name (`_` for `-`): `module:attribute` in this package, and the summary."""
    return {
        name.replace("_", "-"): Lazy(f"jobledger.service.cli.{where}", summary)
        for name, (where, summary) in commands.items()
    }


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _HELP_MAX_WIDTH},
    lazy=_lazy(
        completion=("completion:completion", "Print a shell completion script."),
        config=("serve:config", "Show the settings."),
        demo=("demo:demo", "Run a demonstration on real job specs, and check its results."),
        diff=("diff:diff_log", "Show which jobs changed between two points, and how."),
        nats=("nats:nats", "Print addresses and configuration of nats-server."),
        serve=("serve:serve", "Run the HTTP service."),
        streams=("streams:streams", "Create, check and rewrite the streams of the log."),
        subscriptions=("subscriptions:subscriptions", "Manage durable subscriptions."),
        token=("token:token", "Create, list and revoke tokens."),
        view=("view:view", "Show the parts of the log that the view could not read."),
        version=("version:version", "Show the versions of the client and the service."),
        webhook=("webhook:webhook", "Manage webhooks, which send signed events to a URL."),
    ),
    epilog=examples(
        "jobledger serve",
        "jobledger job run job.yaml --reason 'first try'",
        "jobledger job list --state Running",
        "jobledger events tail --namespace prod",
    ),
)
@click.version_option(__version__, prog_name="jobledger")
def cli() -> None:
    """An event-sourced store for the state of jobs."""


@cli.group(
    cls=LazyGroup,
    aliases={"get": "describe", "show": "describe"},
    lazy=_lazy(
        accept_unreadable=("job_change:accept_unreadable", "Accept an event that cannot be read."),
        blame=("job_history:blame", "Show who last set each field of a job, and why."),
        create=("job_submit:create", "Submit new jobs: `job run --create-only`."),
        describe=("job_history:describe", "Show a job and its timeline."),
        diff=("diff:diff_job", "Compare a spec with its job, or two versions of a job."),
        history=("job_history:history", "Show the events of a job, oldest first."),
        list=("job_list:list_jobs", "List jobs, newest first."),
        rerun=("job_change:rerun", "Run a job again, as a new version."),
        revert=("job_change:revert", "Restore the spec of an earlier version, as a new version."),
        run=("job_submit:run", "Submit jobs: create them, or update their specs."),
        set_state=("job_change:set_state", "Set the state of a job."),
        stop=("job_change:stop", "Stop a job."),
        tag=("job_change:tag", "Tag a version of a job, or remove a tag."),
        update=("job_submit:update", "Update the spec of a job."),
        validate=("job_submit:validate", "Check job specs offline."),
        versions=("job_history:versions", "List the versions of a job's spec."),
        wait=("job_change:wait", "Wait until a job reaches a state."),
    ),
    epilog=examples(
        "jobledger job validate job.yaml",
        "jobledger job run job.yaml --wait",
        "jobledger job describe my-job",
        "jobledger job stop my-job --reason 'no longer needed'",
    ),
)
def job() -> None:
    """Manage jobs and their specs."""


@cli.group(
    cls=LazyGroup,
    lazy=_lazy(
        replay=("events:replay", "Export past events of the log."),
        tail=("events:tail", "Follow the events of all jobs."),
    ),
    epilog=examples("jobledger events tail --after 0", "jobledger events replay --since 2h -o ndjson"),
)
def events() -> None:
    """Follow events, and export past ones."""


@cli.group(
    cls=LazyGroup,
    lazy=_lazy(
        accept_log=("audit_keys:accept_log", "Confirm that a log replaces one that was sealed before."),
        check=("audit_proofs:check", "Check a proof bundle offline."),
        consistency=("audit_proofs:consistency", "Prove that one seal extends another."),
        key=("audit_keys:key", "Show, create and rotate the keys that sign seals."),
        prove=("audit_proofs:prove", "Write a proof of a job's events to a file."),
        scrub=("audit_log:scrub", "Compare every replica of the log with the Merkle tree."),
        seal=("audit_keys:seal", "Seal the log now; requires an admin token."),
        seals=("audit_keys:seals", "List the seals, newest first."),
        verify=("audit_log:verify", "Check the log, the seals and the view against each other."),
        watch=("audit_log:watch", "Watch a log, and raise an alarm if its past changes."),
    ),
    epilog=examples(
        "jobledger audit seal",
        "jobledger audit prove my-job --output-file my-job.proof",
        "jobledger audit check my-job.proof --key KEY",
    ),
)
def audit() -> None:
    """Seal the log, and prove what it contains."""


def _color() -> bool | None:
    """Whether to use colors: NO_COLOR overrides FORCE_COLOR; None: on terminals only."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR", "0") not in {"", "0"} else None


def _end_on_closed_pipe() -> None:
    """Exit without a message, like a program ended by SIGPIPE."""
    # The interpreter flushes at exit; the rest of the output needs a destination.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(_PIPE_CLOSED)


class _SafeStream:
    """Standard output or error without control characters.

    Commands escape the text of others (`text.plain`); this is the second defense, for file names in system
    errors, IDs of a hostile service, and omissions. Colors are passed on to terminals only.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not text.isprintable():
            kept = _STYLED if self._stream.isatty() or _color() else _LAID_OUT
            text = kept.sub(_passed, text)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _passed(found: re.Match[str]) -> str:
    return found[0] if found[1] or found[0].isprintable() else repr(found[0])[1:-1]


# Group 1 is passed on; any other character is escaped if it is not printable.
_LAYOUT = r"[\n\t\r]|[ -~\xa0-\u00ac\u00ae-\u034f]+"
_LAID_OUT = re.compile(rf"({_LAYOUT})|.", re.DOTALL)
_STYLED = re.compile(rf"(\x1b\[[0-9;]*m|\x1b\[\?25[hl]|{_LAYOUT})|.", re.DOTALL)


def main() -> None:
    """Run the command line; a `JobledgerError` becomes a message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Text that the terminal's encoding cannot represent is escaped rather than failing.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if "_JOBLEDGER_COMPLETE" in os.environ:
        import jobledger.service.cli.completion  # noqa: F401 - registers our completion for bash
    sys.stdout = cast("TextIO", _SafeStream(sys.stdout))
    sys.stderr = cast("TextIO", _SafeStream(sys.stderr))
    stdout = sys.stdout
    try:
        code = cli(prog_name="jobledger", standalone_mode=False, color=_color())
        sys.stdout.flush()
    except BrokenPipeError:
        _end_on_closed_pipe()
    except SystemExit:
        if sys.stdout is not stdout:  # click replaces it when the pipe is closed, and would exit with 1
            _end_on_closed_pipe()
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except Exception as error:
        from jobledger.service.errors import exit_code  # imports the store, only for errors
        from jobledger.store.model.errors import JobledgerError

        if not isinstance(error, JobledgerError):
            raise
        from jobledger.service.cli.errors import print_error

        print_error(error)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
