"""`jobledger audit seal` and `seals`: sign the log now, and look at what was signed."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.shared import Session, WholeNumber, connected
from jobledger.service.cli.text import Column, plain, plain_lines, print_table, say
from jobledger.service.cli.times import exact_of

_SHOWN = 20
_ROOT_DIGITS = 16
_SHAPE = Shape(id="Size", name="Size", columns=("Sequence", "Size", "Time", "Root", "Keys", "Problem"))


@click.command(epilog=examples("jobledger audit seal"))
@output_option("table", "json", "yaml")
@connected
def seal(*, form: str, session: Session) -> None:
    """Seal the log as it is now; needs an admin's token.

    Standard output is the seal itself, a signed note. If the last seal covers everything, it is that one.
    """
    from jobledger.service.client.seals import Seals

    with session.client() as client:
        sealed = Seals(client).seal()
    output = Output(form)
    if output.for_machines:
        output.document(sealed)
        return
    click.echo(_note(sealed), nl=False)
    say(f"{sealed.get('Size')} events are sealed; root {_root(sealed)}")


@click.command(epilog=examples("jobledger audit seals", "jobledger audit seals --all --notes"))
@click.option(
    "--limit",
    type=WholeNumber(),
    default=_SHOWN,
    show_default=True,
    metavar="NUMBER",
    help="How many at most.",
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--notes", is_flag=True, help="The seals themselves, each with an empty line behind it.")
@list_output_option
@quiet_option
@connected
def seals(*, limit: int, everything: bool, notes: bool, form: str, quiet: bool, session: Session) -> None:
    """List the seals, newest first.

    With --quiet, how many events each covers.
    """
    from jobledger.service.client.seals import Seals

    output = Output(form, quiet=quiet)
    if notes and (quiet or form != "table"):
        raise click.UsageError("--notes contradicts --quiet and --output; keep one of them")
    with session.client() as client:
        found = Seals(client).seals(None if everything else limit)
        if notes or quiet:
            for each in found:
                click.echo(_note(each) if notes else str(each.get("Size")))
            return
        listed = list(found)
    empty = "Nothing is sealed yet: the service does it by itself, and `jobledger audit seal` at once"
    print_list(output, listed, _SHAPE, lambda whole: _print(listed, whole), empty=empty)


def _print(listed: Sequence[Mapping[str, Any]], whole: bool) -> None:
    columns = [
        Column("Seal", right=True),
        Column("Events", right=True),
        Column("Sealed"),
        Column("Root", leaves=1),
        Column("Keys", flexible=True),
    ]
    print_table(columns, [_row(each) for each in listed], whole=whole)


def _row(each: Mapping[str, Any]) -> tuple[str, ...]:
    number = str(each.get("Sequence", "-"))
    problem = str(each.get("Problem") or "")
    time = exact_of(each.get("Time"))
    if problem:
        return number, "-", time, "-", f"no seal: {problem}"
    return number, str(each.get("Size")), time, _root(each), ", ".join(map(str, each.get("Keys") or ()))


def _root(each: Mapping[str, Any]) -> str:
    """The beginning of a root, as people compare it."""
    try:
        return b64decode(str(each.get("Root", "")), validate=True).hex()[:_ROOT_DIGITS]
    except ValueError:
        return plain(str(each.get("Root")))


def _note(each: Mapping[str, Any]) -> str:
    return plain_lines(str(each.get("Note", "")))
