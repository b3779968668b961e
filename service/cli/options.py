"""Options, arguments and parameter types that several commands share, and the session they lead to."""

import getpass
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from jobledger.service.client.admin import AdminClient
    from jobledger.service.client.client import Client
    from jobledger.service.settings import LoadedSettings, Setting, Settings

# Constants of the store, repeated so that help texts import none of it; a test compares them.
STATES: Final = ("Pending", "Queued", "Running", "Completed", "Failed", "Stopped")
TYPES: Final = ("batch", "service", "daemon", "ops")
EVENT_WORDS: Final = ("created", "updated", "state", "tagged", "accepted")
INTERRUPTED_CODE: Final = 130  # as a shell reports a program ended by SIGINT: 128 + 2
F = TypeVar("F", bound=Callable[..., Any])
OptionDecorator = Callable[[Any], Any]


def event_word(event_type: str) -> str:
    """The short name of an event type: `created` for `jobledger.job.created.v1`; unknown types unchanged."""
    word = event_type.removeprefix("jobledger.job.").partition(".")[0]
    return word if word in EVENT_WORDS else event_type


def end_on_sigterm() -> None:
    """Make SIGTERM end the command like Ctrl-C."""
    # A shell starts background commands with SIGINT ignored; then raising it would not end anything.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def confirm(yes: bool, question: str) -> None:
    """Ask before a destructive command, unless `--yes` was given."""
    from jobledger.service.cli.text import plain

    if not yes:
        click.confirm(plain(question), abort=True, err=True)


# --- parameter types --------------------------------------------------------------------------------------


class WholeNumber(click.IntRange):
    """A positive integer, optionally with a maximum."""

    def __init__(self, max_value: int | None = None) -> None:
        super().__init__(min=1, max=max_value)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            wanted = f"an integer from 1 to {self.max}" if self.max is not None else "a positive integer"
            self.fail(f"invalid number {value!r}: use {wanted}", param, ctx)


class VersionName(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A version of a job: its number or a tag."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        from jobledger.service.versions import check_version_text
        from jobledger.store.model.errors import InvalidInput

        text = str(value)
        try:
            check_version_text(text, "")
        except InvalidInput:
            text = ""
        if not text.strip("0"):
            self.fail(f"invalid version {value!r}: use a positive integer or a tag name", param, ctx)
        return text


class StateChoice(click.Choice):  # type: ignore[type-arg]  # generic in newer releases only
    """A state, in upper or lower case."""

    def __init__(self) -> None:
        super().__init__(STATES, case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Find the state."""
        found = [state for state in STATES if state.lower() == str(value).lower()]
        if not found:
            self.fail(f"invalid state {value!r}: use one of {', '.join(STATES)}", param, ctx)
        return found[0]


class SharedOption(click.Option):
    """An option with the same meaning in every command; docs/CLI.md describes it once."""


# --- the session ------------------------------------------------------------------------------------------


class Session:
    """The settings of one command, and clients made from them.

    Args:
        flags: by the names of the settings; None: not given.
    """

    def __init__(self, flags: dict[str, object]) -> None:
        self._flags = flags

    @property
    def settings(self) -> "Settings":
        """All settings.

        Raises:
            InvalidSettings: names every setting that is unknown or invalid, or contradicts another.
        """
        return self.loaded.settings

    @cached_property
    def loaded(self) -> "LoadedSettings":
        """The settings with their origins."""
        from jobledger.service.settings import load_settings

        return load_settings(self._flags, os.environ)

    def namespaces(self, given: str | None, *, everything: bool) -> str:
        """The namespace to list; `*` for all.

        Raises:
            UsageError: both a namespace and all namespaces were requested.
        """
        if everything and given is not None:
            raise click.UsageError("--namespace and --all-namespaces contradict each other; use one of them")
        return "*" if everything else self.namespace(given)

    def namespace(self, given: str | None) -> str:
        """The namespace from the flag, else from the settings; empty if neither has one."""
        return given if given is not None else self.settings.namespace

    @contextmanager
    def client(self) -> Iterator["Client"]:
        """A client of the service.

        Raises:
            InvalidSettings: the settings are invalid, or the token file cannot be read.
        """
        from jobledger.service.client.client import Client, Target

        settings = self.settings
        with Client(Target(settings.url, _token(settings), _user(), settings.tls_ca)) as client:
            yield client

    @contextmanager
    def admin(self) -> Iterator["AdminClient"]:
        """A client for the operations of operators.

        Raises:
            InvalidSettings: as in `client`.
        """
        from jobledger.service.client.admin import AdminClient

        with self.client() as client:
            yield AdminClient(client)


def _token(settings: "Settings") -> str:
    from jobledger.service.access.secret_files import read_secret
    from jobledger.service.errors import InvalidSettings

    token, origin = settings.token, "token"
    if settings.token_file is not None:
        token = read_secret(settings.token_file, "token_file").decode("ascii", "replace").strip()
        origin = f"token_file {settings.token_file}"
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSettings(f"{origin} does not contain a token: use one word of ASCII text on one line")
    return token


def _user() -> str:
    """The actor of events where the service has no tokens; empty if the system does not know the user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _with_session(options: Mapping[str, OptionDecorator]) -> Callable[[F], F]:
    """A decorator that adds these options, by the names of their settings, and passes `session`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            flags = {name: kwargs.pop(name) for name in options}
            return function(*args, session=Session(flags), **kwargs)

        for option in reversed(tuple(options.values())):
            option(run)
        return run  # type: ignore[return-value]

    return decorate


def _file_option(flag: str, text: str) -> OptionDecorator:
    return click.option(flag, type=click.Path(dir_okay=False, path_type=Path), cls=SharedOption, help=text)


_CONNECTION: Final = {
    "url": click.option("--url", metavar="URL", cls=SharedOption, help="URL of the service."),
    "token_file": _file_option("--token-file", "File with the token."),
    "tls_ca": _file_option("--tls-ca", "CA certificates to verify the service with (PEM)."),
    "config": _file_option("--config", "File with settings (TOML)."),
}
_LOG: Final = {
    "nats_url": click.option(
        "--nats-url", metavar="URL", cls=SharedOption, help="NATS servers that keep the log."
    ),
    "data_dir": click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        cls=SharedOption,
        help="Data directory of the service, with its embedded log.",
    ),
}

connected: Final = _with_session(_CONNECTION)
"""For commands that call the service."""

reading_log: Final = _with_session({**_LOG, **_CONNECTION})
"""For commands that read the log itself."""


def with_settings(*names: str) -> Callable[[F], F]:
    """For commands that work on the service's files: `--config`, and a flag for each of these settings."""
    return _with_session(
        {
            "config": click.option(
                "--config",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="File with settings (TOML); default: config.toml in the XDG config directory.",
            ),
            **{name: _setting_option(name) for name in names},
        }
    )


def settings_in(*sections: str) -> list[str]:
    """The settings of these sections that have a flag.

    Secrets have none: every process on the machine can read a command line.
    """
    from jobledger.service.settings import SETTINGS

    return [each.name for each in SETTINGS.values() if each.section in sections and not each.secret]


def _setting_option(name: str) -> OptionDecorator:
    """The flag of a setting. `load_settings` checks its value, so that every origin gets the same message."""
    from jobledger.service.settings import SETTINGS

    setting: Setting = SETTINGS[name]
    kinds = {str: "TEXT", int: "NUMBER", float: "SECONDS", Path: "PATH", tuple: "TEXT,…"}
    default = f"  [default: {setting.default_text}]" if setting.default_text else ""
    return click.option(
        setting.flag,
        setting.name,
        multiple=setting.kind is tuple,
        type=click.Path(path_type=Path) if setting.kind is Path else None,
        metavar="|".join(setting.words) or kinds[setting.kind],
        help=f"{setting.description[0].upper()}{setting.description[1:]}.{default}",
    )


def prefers_service(loaded: "LoadedSettings") -> bool | None:
    """Whether the service, rather than the log, was named by the stronger origin; None: neither.

    Raises:
        UsageError: the command line names both.
    """
    from jobledger.service.settings import SETTINGS, strength_of

    service = strength_of(loaded.origins["url"])
    log = max(strength_of(loaded.origins[name]) for name in ("nats_url", "data_dir"))
    if service == log == strength_of("flag"):
        named = [SETTINGS[name].flag for name in ("nats_url", "data_dir") if loaded.origins[name] == "flag"]
        raise click.UsageError(f"--url and {named[0]} contradict each other; use one of them")
    return None if service == log else service > log


# --- options and arguments --------------------------------------------------------------------------------


def complete_jobs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[Any]:
    """Names and IDs of jobs with this prefix, for the shell; empty if anything fails."""
    from contextlib import suppress

    from click.shell_completion import CompletionItem

    from jobledger.service.limits import CLIENT_PROBE_TIMEOUT_SECONDS, COMPLETION_MAX_JOBS
    from jobledger.store.model.errors import JobledgerError

    found: list[Any] = []
    with suppress(JobledgerError, click.ClickException):
        session = Session({name: ctx.params.get(name) for name in _CONNECTION})
        namespace = session.namespace(ctx.params.get("namespace"))
        query = {
            "namespace": namespace or "default",
            "limit": COMPLETION_MAX_JOBS,
            "order_by": "modified_at",
            "reverse": "true",
        }
        with session.client() as client:
            page = client.jobs(query, timeout_seconds=CLIENT_PROBE_TIMEOUT_SECONDS)
        for job in page.items:
            word = job.id if incomplete.startswith("j-") else job.name
            if word.startswith(incomplete) and word.isprintable():
                found.append(CompletionItem(word, help=f"{job.state.state_type}, {job.type}"))
    return found


job_argument = click.argument("job", metavar="JOB", shell_complete=complete_jobs)
name_argument = click.argument("name", metavar="NAME")
namespace_option = click.option(
    "-n", "--namespace", metavar="NAME", cls=SharedOption, help="Namespace of the job."
)
namespace_filter = click.option(
    "-n", "--namespace", metavar="NAME", cls=SharedOption, help="Only this namespace."
)
all_namespaces_option = click.option(
    "-A", "--all-namespaces", is_flag=True, help="All namespaces, even if one is configured."
)
labels_filter = click.option(
    "-l",
    "--selector",
    "labels",
    multiple=True,
    metavar="TEXT",
    help="Only jobs with these labels: `env=prod,tier in (web, api)`.",
)
event_type_filter = click.option(
    "--type", "types", multiple=True, type=click.Choice(EVENT_WORDS), help="Only these types of events."
)
event_state_filter = click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    type=StateChoice(),
    help="Only changes to these states.",
)
reason_option = click.option("--reason", default="", help="The reason; it is kept in the log.")
if_revision_option = click.option(
    "--if-revision", type=WholeNumber(), metavar="N", help="Only if the job still has this revision."
)
force_option = click.option("--force", is_flag=True, help="Create a new version even if the spec is equal.")
all_option = click.option("--all", "everything", is_flag=True, help="All of them.")
next_token_option = click.option(
    "--next-token", metavar="TOKEN", default="", help="Continue where a previous list ended."
)
wait_for_option = click.option(
    "--wait-for", metavar="CURSOR", default="", help="Wait until the service has applied this position."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def limit_option(default: int | None, max_value: int | None = None) -> OptionDecorator:
    """`--limit`, the maximum number of items."""
    return click.option(
        "--limit",
        type=WholeNumber(max_value),
        metavar="N",
        default=default,
        show_default=default is not None,
        help="At most this many.",
    )
