"""What the commands that talk to a service share: the options that say which, and the way to it."""

import getpass
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from jobledger.service.client.admin import Operators
    from jobledger.service.client.client import Client
    from jobledger.service.settings import LoadedSettings, Settings

# Words of the store, said again so that a help text imports nothing of it; a test compares.
STATES: Final = ("Pending", "Queued", "Running", "Completed", "Failed", "Stopped")
TYPES: Final = ("batch", "service", "daemon", "ops")
EVENT_WORDS: Final = ("created", "updated", "state", "tagged", "accepted")
INTERRUPTED_CODE: Final = 130  # as a shell tells of a program that SIGINT ended: 128 + 2
F = TypeVar("F", bound=Callable[..., Any])


def event_word(event_type: str) -> str:
    """What is said of an event's type: `created` for `jobledger.job.created.v1`; of another, all of it."""
    word = event_type.removeprefix("jobledger.job.").partition(".")[0]
    return word if word in EVENT_WORDS else event_type


def end_on_sigterm() -> None:
    """From now on SIGTERM ends the command as Ctrl-C does: in order."""
    # A shell starts what it puts into the background with SIGINT ignored, and what is ignored ends nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


class WholeNumber(click.IntRange):
    """A whole number from 1, or up to a most, with a refusal that says so."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__(min=1, max=most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            most = f" to {self.max}" if self.max is not None else ""
            self.fail(f"invalid number {value!r}: use a whole number from 1{most}", param, ctx)


class VersionName(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A version of a job, by its number or by a tag; where it is looked up, the service does."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
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
    """A state in any case; a refusal lists them as tables show them."""

    def __init__(self) -> None:
        super().__init__(STATES, case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Find it."""
        found = [state for state in STATES if state.lower() == str(value).lower()]
        if not found:
            self.fail(f"{value!r} is no state; use one of {', '.join(STATES)}", param, ctx)
        return found[0]


class SharedOption(click.Option):
    """An option that means the same wherever it stands; docs/CLI.md tells it once."""


class Session:
    """The way to the service, as flags, environment and configuration file say.

    Args:
        flags: by the names of the settings; None: not given.
    """

    def __init__(self, flags: dict[str, object]) -> None:
        self._flags = flags

    @cached_property
    def settings(self) -> "Settings":
        """All settings, read when they are first needed.

        Raises:
            InvalidSettings: naming each that is unknown, wrong, or contradicts another.
        """
        return self.loaded.settings

    @cached_property
    def loaded(self) -> "LoadedSettings":
        """The same, with who said them."""
        from jobledger.service.settings import load_settings

        return load_settings(self._flags, os.environ)

    def namespaces(self, given: str | None, *, everything: bool) -> str:
        """The namespace that a list is asked of; `*` for all of them.

        Raises:
            UsageError: one is named, and all are asked for.
        """
        if everything and given is not None:
            raise click.UsageError("--namespace and --all-namespaces contradict each other; give one of them")
        return "*" if everything else self.namespace(given)

    def namespace(self, given: str | None) -> str:
        """The namespace that is meant: the flag's, else the settings'; empty if neither says one."""
        return given if given is not None else self.settings.namespace

    @contextmanager
    def client(self) -> Iterator["Client"]:
        """A client of the service.

        Raises:
            InvalidSettings: the settings are wrong, or the token's file can't be read.
        """
        from jobledger.service.client.client import Client, Target

        settings = self.settings
        token = _token(settings)
        with Client(Target(settings.url, token, _user(), settings.tls_ca)) as client:
            yield client

    @contextmanager
    def operators(self) -> Iterator["Operators"]:
        """What operators can ask of the service.

        Raises:
            InvalidSettings: as of `client`.
        """
        from jobledger.service.client.admin import Operators

        with self.client() as client:
            yield Operators(client)


def connected(function: F) -> F:
    """Give a command the options of the connection, and what they lead to as `session`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in ("url", "token_file", "tls_ca", "config")}
        return function(*args, session=Session(flags), **kwargs)

    for option in reversed(CONNECTION_OPTIONS):
        option(run)
    return run  # type: ignore[return-value]


def _path_option(flag: str, text: str) -> Callable[[F], F]:
    return click.option(flag, type=click.Path(dir_okay=False, path_type=Path), cls=SharedOption, help=text)


CONNECTION_OPTIONS: Final = (
    click.option("--url", metavar="URL", cls=SharedOption, help="The service to talk to."),
    _path_option("--token-file", "File with the token to show to it."),
    _path_option("--tls-ca", "CA certificates to check it with (PEM)."),
    _path_option("--config", "File with settings (TOML)."),
)

namespace_option = click.option(
    "-n", "--namespace", metavar="NAME", cls=SharedOption, help="The namespace of the job."
)

namespace_filter = click.option(
    "-n", "--namespace", metavar="NAME", cls=SharedOption, help="Only of this namespace."
)
all_namespaces_option = click.option(
    "-A", "--all-namespaces", is_flag=True, help="Of all namespaces, also if one is configured."
)


def complete_jobs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[Any]:
    """Names and ids of jobs that begin so, for the shell; whatever goes wrong, nothing is said."""
    from contextlib import suppress

    from click.shell_completion import CompletionItem

    from jobledger.service.limits import CLIENT_PROBE_TIMEOUT_SECONDS, COMPLETION_MAX_JOBS
    from jobledger.store.model.errors import JobledgerError

    found: list[Any] = []
    with suppress(JobledgerError, click.ClickException):
        session = Session({name: ctx.params.get(name) for name in ("url", "token_file", "tls_ca", "config")})
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


def _token(settings: "Settings") -> str:
    """The token to show; empty if there is none."""
    from jobledger.service.access.secret_files import read_secret
    from jobledger.service.errors import InvalidSettings

    token, where = settings.token, "token"
    if settings.token_file is not None:
        token = read_secret(settings.token_file, "token_file").decode("ascii", "replace").strip()
        where = f"token_file {settings.token_file}"
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSettings(f"{where} is no token: that is one word on one line")
    return token


def _user() -> str:
    """Who the log is told it was, where there are no tokens; empty if the system does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
