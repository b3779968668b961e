"""`jobledger audit key`: the keys that seals are signed with."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, quiet_option
from jobledger.service.cli.shared import Session, connected
from jobledger.service.cli.text import Column, print_table, say
from jobledger.service.cli.times import Duration, exact_of

if TYPE_CHECKING:
    from jobledger.service.audit.keys import KeyFile
    from jobledger.service.settings import Settings

OVERLAP_DEFAULT = "7d"
_SHAPE = Shape(id="Key", name="Key", columns=("Key", "Signs", "Trusted", "Created", "Retires"))
F = TypeVar("F", bound=Callable[..., Any])

_WHERE = (
    click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Directory of the service, with its keys."
    ),
    click.option("--audit-keys-file", type=click.Path(path_type=Path), help="The file of keys itself."),
    click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the service's settings (TOML).",
    ),
)


@click.group(epilog=examples("jobledger audit key show", "jobledger audit key rotate"))
def key() -> None:
    """Show, make and rotate the keys that seals are signed with.

    A service makes its first key by itself. Give the public keys to whoever is to check proofs, by a way that
    does not lead through the service.
    """


def with_settings(function: F) -> F:
    """Give a command the options that say where a service's keys are, and its settings as `settings`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from jobledger.service.settings import load_settings

        flags = {name: kwargs.pop(name) for name in ("data_dir", "audit_keys_file", "config")}
        return function(*args, settings=load_settings(flags, os.environ).settings, **kwargs)

    for option in reversed(_WHERE):
        option(run)
    return run  # type: ignore[return-value]


def with_key_file(function: F) -> F:
    """Give a command the options that say which file of keys, and what they lead to as `keys`."""

    @with_settings
    @wraps(function)
    def run(*args: Any, settings: "Settings", **kwargs: Any) -> Any:
        from jobledger.service.audit.keys import KeyFile

        return function(*args, keys=KeyFile(settings.audit_keys_file), **kwargs)

    return run  # type: ignore[return-value]


@key.command(epilog=examples("jobledger audit key show"))
@list_output_option
@quiet_option
@connected
def show(*, form: str, quiet: bool, session: Session) -> None:
    """Show the public keys of a service, also those that sign no more, and those of other replicas.

    Seals by keys that are not listed as trusted do not count.

    With --quiet, the keys alone, one on each line: as `--key` of the commands that check takes them.
    """
    from jobledger.service.client.seals import Seals

    output = Output(form, quiet=quiet)
    with session.client() as client:
        found = Seals(client).keys()
    print_list(output, found, _SHAPE, lambda whole: _print(found, whole), empty="The service has no key.")


def _print(found: Sequence[Mapping[str, Any]], whole: bool) -> None:
    columns = [
        Column("Signs"),
        Column("Trusted"),
        Column("Created", leaves=1),
        Column("Retires"),
        Column("Key", flexible=True),
    ]
    rows = [
        (
            "yes" if each.get("Signs") is True else "no",
            "yes" if each.get("Trusted") is True else "no",
            exact_of(each.get("Created")),
            exact_of(each.get("Retires")),
            str(each.get("Key", "")),
        )
        for each in found
    ]
    print_table(columns, rows, whole=whole)


@key.command(epilog=examples("jobledger audit key create --name jobledger.example.com"))
@click.option(
    "--name", required=True, metavar="TEXT", help="As a URL without its scheme: `example.com/jobs`."
)
@with_key_file
def create(*, name: str, keys: "KeyFile") -> None:
    """Make the first key, before the service does; show its public half.

    It is for a name of your own, or for one key on several replicas: copy the file to each.
    """
    made = keys.create(name)
    click.echo(made.key)
    say(f"kept in {keys.path}, readable by you alone")


@key.command(epilog=examples("jobledger audit key rotate --overlap 90d"))
@click.option(
    "--overlap",
    type=Duration(),
    default=OVERLAP_DEFAULT,
    show_default=True,
    metavar="DURATION",
    help="How long the old key still signs beside the new one.",
)
@click.option(
    "--name", default="", metavar="TEXT", help="Of the new key; that of the old one, if none is given."
)
@click.option(
    "--distrust",
    is_flag=True,
    help="The old keys were stolen: they sign no more, and their seals count no more; needs --overlap 0.",
)
@with_key_file
def rotate(*, overlap: float, name: str, distrust: bool, keys: "KeyFile") -> None:
    """Make a new key; for a while the old one signs as well, then never again.

    Standard output is the new public key. A running service uses it for its next seal.
    """
    made = keys.rotate(overlap, name, distrust=distrust)
    click.echo(made.key)
    for each in keys.records():
        if each.retires and each.seed is not None:
            say(f"{each.public.short} signs until {exact_of(each.retires)}")
    say("give the new key to whoever checks proofs before the old one ends; keep the old one for old seals")
