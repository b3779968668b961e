"""The command `jobledger`: which commands there are, and how errors leave.

Commands are named here and imported when asked for, so that `jobledger --help` and the quick ones stay quick.
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

_PIPE_CLOSED = 141  # as a shell reports a program that SIGPIPE ended: 128 + 13
_INTERRUPTED = 130  # as a shell tells of a program that SIGINT ended: 128 + 2


class Lazy(NamedTuple):
    """A command that is imported when it is asked for.

    Attributes:
        where: `module:attribute`.
        summary: the first sentence of its help, so that a list of commands need not import it.
    """

    where: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for.

    Attributes:
        lazy: the commands by name.
        aliases: other names of commands, which lists do not show.
    """

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
        """Refuse arguments that are not text, before any command uses them; file names may be any bytes."""
        for arg in args:
            if not _is_text(arg) and not os.path.exists(arg.rpartition("=")[2]):  # noqa: PTH110 - fast start
                shown = arg.encode("ascii", "backslashreplace").decode()
                raise click.UsageError(f"the argument {shown} is not UTF-8; write it in UTF-8", ctx)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, imported or not."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; this is where it is imported."""
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
        """Find the command; of one that there is not, say which was meant. click knows only imported ones."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx))
            if not near:
                raise
            meant = " or ".join(map(repr, near))
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {meant}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in a help text, without importing them."""
        rows = [(name, self._summary(ctx, name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Names of commands that begin so, without importing them; else what click knows."""
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
    """Whether an argument is text: Python reads bytes that are not UTF-8 as lone surrogates."""
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


_HELP_MAX_WIDTH = 100
_COMMANDS = "jobledger.service.cli"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _HELP_MAX_WIDTH},
    lazy={
        "completion": Lazy(f"{_COMMANDS}.completion:completion", "Print the script that completes commands."),
        "config": Lazy(f"{_COMMANDS}.config:config", "Look at the settings."),
        "demo": Lazy(
            f"{_COMMANDS}.demo:demo",
            "Show Jobledger at work on real job specs, and prove what it promises.",
        ),
        "diff": Lazy(f"{_COMMANDS}.logdiff:diff", "Show which jobs changed between two points, and how."),
        "nats": Lazy(
            f"{_COMMANDS}.nats:nats", "Connect to the nats-server that keeps the log, and configure it."
        ),
        "serve": Lazy(f"{_COMMANDS}.serve:serve", "Serve writes, reads and live feeds over HTTP."),
        "streams": Lazy(f"{_COMMANDS}.streams:streams", "Create, check and rewrite the streams of the log."),
        "subscriptions": Lazy(
            f"{_COMMANDS}.subscriptions:subscriptions", "Look at durable subscriptions, and mend them."
        ),
        "token": Lazy(f"{_COMMANDS}.token:token", "Make, list and revoke the tokens of a service."),
        "view": Lazy(f"{_COMMANDS}.view:view", "Look at what of the log could not be read."),
        "version": Lazy(f"{_COMMANDS}.version:version", "Show the versions of client and service."),
        "webhook": Lazy(f"{_COMMANDS}.webhook:webhook", "Send events to a URL, signed."),
    },
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
    lazy={
        "accept-unreadable": Lazy(
            f"{_COMMANDS}.accept:accept_unreadable", "Accept that an event of a job can't be read."
        ),
        "create": Lazy(f"{_COMMANDS}.run:create", "Submit new jobs: `job run --create-only`."),
        "blame": Lazy(f"{_COMMANDS}.blame:blame", "Show who last set each field of a job, when, and why."),
        "describe": Lazy(f"{_COMMANDS}.describe:describe", "Show a job and its timeline."),
        "diff": Lazy(
            f"{_COMMANDS}.diff:diff",
            "Show how a spec differs from the one that its job has, or how two versions of a job differ.",
        ),
        "history": Lazy(f"{_COMMANDS}.history:history", "Show what happened to a job, oldest first."),
        "list": Lazy(f"{_COMMANDS}.listing:list_jobs", "List jobs, newest first."),
        "rerun": Lazy(f"{_COMMANDS}.change:rerun", "Run a job again, as a new version."),
        "revert": Lazy(
            f"{_COMMANDS}.versioning:revert", "Give a job the spec of an earlier version, as a new version."
        ),
        "run": Lazy(f"{_COMMANDS}.run:run", "Submit jobs: create them, or give them a new spec."),
        "set-state": Lazy(f"{_COMMANDS}.change:set_state", "Say which state a job has come to."),
        "stop": Lazy(f"{_COMMANDS}.change:stop", "Stop a job."),
        "tag": Lazy(f"{_COMMANDS}.versioning:tag", "Give a version of a job a name, or take the name away."),
        "update": Lazy(f"{_COMMANDS}.change:update", "Give a job a new spec."),
        "validate": Lazy(f"{_COMMANDS}.validate:validate", "Check job specs in YAML, JSON or TOML, offline."),
        "versions": Lazy(f"{_COMMANDS}.history:versions", "List the versions of a job's spec."),
        "wait": Lazy(f"{_COMMANDS}.wait:wait", "Wait until a job has come to a state."),
    },
    epilog=examples(
        "jobledger job validate job.yaml",
        "jobledger job run job.yaml --wait",
        "jobledger job describe my-job",
        "jobledger job stop my-job --reason 'no longer needed'",
    ),
)
def job() -> None:
    """Work with jobs and their specs."""


@cli.group(
    cls=LazyGroup,
    lazy={
        "replay": Lazy(f"{_COMMANDS}.replay:replay", "Tell the log's events again, from point to point."),
        "tail": Lazy(f"{_COMMANDS}.tail:tail", "Follow the events of all jobs."),
    },
    epilog=examples("jobledger events tail --after 0", "jobledger events replay --since 2h -o ndjson"),
)
def events() -> None:
    """Follow what happens, and tell again what happened."""


@cli.group(
    cls=LazyGroup,
    lazy={
        "accept-log": Lazy(
            f"{_COMMANDS}.audit_accept:accept_log", "Confirm that a log replaces one that was sealed before."
        ),
        "check": Lazy(f"{_COMMANDS}.audit_check:check", "Check a proof bundle, offline."),
        "consistency": Lazy(
            f"{_COMMANDS}.audit_consistency:consistency", "Prove that one seal extends another."
        ),
        "key": Lazy(
            f"{_COMMANDS}.audit_keys:key", "Show, make and rotate the keys that seals are signed with."
        ),
        "prove": Lazy(f"{_COMMANDS}.audit_prove:prove", "Write the proof of a job's events into a file."),
        "scrub": Lazy(
            f"{_COMMANDS}.audit_scrub:scrub", "Compare every replica of the log with the Merkle tree."
        ),
        "seal": Lazy(f"{_COMMANDS}.audit_seals:seal", "Seal the log as it is now; needs an admin's token."),
        "seals": Lazy(f"{_COMMANDS}.audit_seals:seals", "List the seals, newest first."),
        "verify": Lazy(f"{_COMMANDS}.audit_verify:verify", "Hold log, seals and view against each other."),
        "watch": Lazy(
            f"{_COMMANDS}.audit_watch:watch", "Watch a log, and raise an alarm if its past changes."
        ),
    },
    epilog=examples(
        "jobledger audit seal",
        "jobledger audit prove my-job --output-file my-job.proof",
        "jobledger audit check my-job.proof --key KEY",
    ),
)
def audit() -> None:
    """Seal the log, and prove what is in it."""


def _color() -> bool | None:
    """Whether output has colors: NO_COLOR counts more than FORCE_COLOR; None: a terminal has them."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR", "0") not in {"", "0"} else None


def _end_on_closed_pipe() -> None:
    """End quietly, with the exit code of a program that SIGPIPE ended, as other tools do."""
    # The interpreter flushes once more at its end; what is left must have somewhere to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(_PIPE_CLOSED)


class _SafeStream:
    """Standard output or error, through which nobody's text can speak to the terminal.

    Commands escape what they did not make (`text.plain`); this is the second lock, for file names in errors
    of the system, ids of a hostile service, and whatever is forgotten. Colors pass, and only to terminals.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, with what is not printable as escapes."""
        if not text.isprintable():
            kept = _STYLED if self._stream.isatty() or _color() else _LAID_OUT
            text = kept.sub(_passed, text)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _passed(found: re.Match[str]) -> str:
    return found[0] if found[1] or found[0].isprintable() else repr(found[0])[1:-1]


# What passes is group 1; every other character is one that may not be printable.
_LAYOUT = r"[\n\t\r]|[ -~\xa0-\u00ac\u00ae-\u034f]+"
_LAID_OUT = re.compile(rf"({_LAYOUT})|.", re.DOTALL)
_STYLED = re.compile(rf"(\x1b\[[0-9;]*m|\x1b\[\?25[hl]|{_LAYOUT})|.", re.DOTALL)


def main() -> None:
    """Run the command line; the errors that Jobledger raises on purpose become a message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name in a spec may hold what the terminal's encoding can't write; that is no reason to fail.
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
        if sys.stdout is not stdout:  # click replaces it when the pipe is closed, and would end with 1
            _end_on_closed_pipe()
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except Exception as error:
        from jobledger.service.errors import exit_code  # the store is imported only when something is wrong
        from jobledger.store.model.errors import JobledgerError

        if not isinstance(error, JobledgerError):
            raise
        from jobledger.service.cli.errors import tell_error

        tell_error(error)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
