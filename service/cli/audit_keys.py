"""`jobledger audit key`, `seal`, `seals` and `accept-log`: make seals, and manage the keys that sign them."""

from base64 import b64decode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.options import Session, all_option, connected, limit_option, with_settings
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import Column, plain, plain_lines, say
from jobledger.service.cli.times import Duration, exact_of

if TYPE_CHECKING:
    from jobledger.service.audit.keys import KeyFile

_OVERLAP_DEFAULT: Final = "7d"
_SEALS_DEFAULT_LIMIT: Final = 20
_ROOT_DIGITS: Final = 16
_KEYS: Final = Shape(id="Key", name="Key", columns=("Key", "Signs", "Trusted", "Created", "Retires"))
_SEALS: Final = Shape(id="Size", name="Size", columns=("Sequence", "Size", "Time", "Root", "Keys", "Problem"))

_service_files = with_settings("data_dir", "audit_keys_file")


@click.group(epilog=examples("jobledger audit key show", "jobledger audit key rotate"))
def key() -> None:
    """Show, create and rotate the keys that sign seals.

    The service creates its first key. Give the public keys to everyone who checks proofs, by a way that does
    not depend on the service.
    """


@key.command(epilog=examples("jobledger audit key show"))
@list_output_option()
@connected
def show(*, output: Output, session: Session) -> None:
    """Show the public keys of a service.

    Includes retired keys and those of other replicas. Seals by keys that are not listed as trusted are not
    accepted.

    With --quiet, only the keys are printed, one per line, as the `--key` option of other commands takes them.
    """
    with session.admin() as admin:
        found = admin.keys()
    print_list(
        output,
        found,
        _KEYS,
        (
            Column("Signs"),
            Column("Trusted"),
            Column("Created", leaves=1),
            Column("Retires"),
            Column("Key", flexible=True),
        ),
        lambda: [
            (
                "yes" if each.get("Signs") is True else "no",
                "yes" if each.get("Trusted") is True else "no",
                exact_of(each.get("Created")),
                exact_of(each.get("Retires")),
                str(each.get("Key", "")),
            )
            for each in found
        ],
        empty="The service has no keys.",
    )


def _key_file(session: Session) -> "KeyFile":
    from jobledger.service.audit.keys import KeyFile

    return KeyFile(session.settings.audit_keys_file)


@key.command(epilog=examples("jobledger audit key create --name jobledger.example.com"))
@click.option(
    "--name", required=True, metavar="TEXT", help="Like a URL without its scheme: `example.com/jobs`."
)
@_service_files
def create(*, name: str, session: Session) -> None:
    """Create the first key, and print its public key.

    Otherwise the service creates it. Use this command to choose the name of the key, or to share one key
    between replicas: copy the file to each.
    """
    keys = _key_file(session)
    click.echo(keys.create(name).key)
    say(f"stored in {keys.path}, readable by you only")


@key.command(epilog=examples("jobledger audit key rotate --overlap 90d"))
@click.option(
    "--overlap",
    type=Duration(),
    default=_OVERLAP_DEFAULT,
    show_default=True,
    metavar="DURATION",
    help="How long the old key signs together with the new one.",
)
@click.option("--name", default="", metavar="TEXT", help="Of the new key; default: that of the old one.")
@click.option(
    "--distrust",
    is_flag=True,
    help="The old keys were stolen: they stop signing, and their seals are rejected; requires --overlap 0.",
)
@_service_files
def rotate(*, overlap: float, name: str, distrust: bool, session: Session) -> None:
    """Create a new key; for a while the old one signs as well.

    Standard output is the new public key. A running service uses it for its next seal.
    """
    keys = _key_file(session)
    click.echo(keys.rotate(overlap, name, distrust=distrust).key)
    for each in keys.records():
        if each.retires and each.seed is not None:
            say(f"{each.public.short} signs until {exact_of(each.retires)}")
    say(
        "Give the new key to everyone who checks proofs before the old one retires; keep the old one for"
        " old seals"
    )


@click.command(epilog=examples("jobledger audit seal"))
@output_option("table", "json", "yaml")
@connected
def seal(*, output: Output, session: Session) -> None:
    """Seal the log now; requires an admin token.

    Standard output is the seal, a signed note. If the last seal covers all events, it is printed.
    """
    with session.admin() as admin:
        sealed = admin.seal()
    if output.for_machines:
        output.document(sealed)
        return
    click.echo(_note(sealed), nl=False)
    say(f"{sealed.get('Size')} events are sealed; root {_short_root(sealed)}")


@click.command(epilog=examples("jobledger audit seals", "jobledger audit seals --all --notes"))
@limit_option(_SEALS_DEFAULT_LIMIT)
@all_option
@click.option("--notes", is_flag=True, help="Print the seals themselves, each followed by an empty line.")
@list_output_option()
@connected
def seals(*, limit: int, everything: bool, notes: bool, output: Output, session: Session) -> None:
    """List the seals, newest first.

    With --quiet, only the number of events that each covers is printed.
    """
    if notes and (output.quiet or output.form != "table"):
        raise click.UsageError("--notes contradicts --quiet and --output; use one of them")
    with session.admin() as admin:
        found = admin.seals(None if everything else limit)
        if notes or output.quiet:
            for each in found:
                click.echo(_note(each) if notes else str(each.get("Size")))
            return
        listed = list(found)
    print_list(
        output,
        listed,
        _SEALS,
        (
            Column("Seal", right=True),
            Column("Events", right=True),
            Column("Sealed"),
            Column("Root", leaves=1),
            Column("Keys", flexible=True),
        ),
        lambda: map(_seal_row, listed),
        empty="No seals yet. The service makes them at an interval; `jobledger audit seal` makes one now.",
    )


def _seal_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    number = str(each.get("Sequence", "-"))
    time = exact_of(each.get("Time"))
    if problem := str(each.get("Problem") or ""):
        return number, "-", time, "-", f"no seal: {problem}"
    keys = ", ".join(map(str, each.get("Keys") or ()))
    return number, str(each.get("Size")), time, _short_root(each), keys


def _short_root(each: Mapping[str, Any]) -> str:
    """The first digits of a root, for people to compare."""
    try:
        return b64decode(str(each.get("Root", "")), validate=True).hex()[:_ROOT_DIGITS]
    except ValueError:
        return plain(str(each.get("Root")))


def _note(each: Mapping[str, Any]) -> str:
    return plain_lines(str(each.get("Note", "")))


@click.command(
    epilog=examples("jobledger audit accept-log --old OLD --new NEW --reason 'restored from backup'")
)
@click.option("--old", required=True, metavar="ORIGIN", help="Of the log that was sealed before.")
@click.option("--new", required=True, metavar="ORIGIN", help="Of the log that replaces it.")
@click.option("--reason", required=True, metavar="TEXT", help="The reason; the next seal contains it.")
@_service_files
def accept_log(*, old: str, new: str, reason: str, session: Session) -> None:
    """Confirm that a log replaces one that was sealed before.

    A service that finds seals of another log stops sealing and raises an alarm that names both origins. First
    find out why the stream was created again: this command states that the seals of the old log prove nothing
    about the new one. It is recorded in audit/accepted.json of the data directory, and in the next seal, with
    your name, the time and the reason. A running service need not be restarted.
    """
    import getpass
    import os

    from jobledger.service.audit.accepted_logs import ACCEPTED_FILE, AcceptedFile

    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a user ID without a name, for example in a container
        actor = f"uid-{os.geteuid()}"
    file = AcceptedFile(session.settings.data_dir / ACCEPTED_FILE)
    made = file.add(old=old, new=new, actor=actor, reason=reason)
    click.echo(f"{plain(made.new)} replaces {plain(made.old)}: confirmed by {plain(made.actor)}, {made.time}")
    say(f"recorded in {file.path}; the next seal contains it")
