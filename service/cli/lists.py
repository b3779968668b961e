"""A list in every format of `-o`, and `--watch`: it is shown again whenever it changed.

People get tables, scripts names and comma-separated values, programs documents.
"""

import csv
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import click

from jobledger.service.cli.output import FORMATS, Output, output_option
from jobledger.service.cli.shared import end_on_sigterm
from jobledger.service.cli.text import BOLD, Cell, plain, say, styled
from jobledger.service.cli.times import exact
from jobledger.service.limits import WATCH_SECONDS
from jobledger.store.timestamps import format_rfc3339

if TYPE_CHECKING:
    from jobledger.service.client.client import Client

_NANOSECOND_KEYS: Final = frozenset({"CreateTime", "ModifyTime"})  # Bacalhau's fields
_WORD_END: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
T = TypeVar("T")

list_output_option = output_option(*FORMATS, "wide", "name", "csv")
watch_option = click.option(
    "-w", "--watch", "watched", is_flag=True, help="Show it again whenever it changed, until Ctrl-C."
)


class Shape(NamedTuple):
    """What the formats other than tables and documents show of each item.

    Attributes:
        id: the key of what `--quiet` prints.
        name: the key of what `-o name` prints.
        columns: the keys of comma-separated values; `State.StateType` is a key of the object `State`.
    """

    id: str
    name: str
    columns: tuple[str, ...]


def print_list(
    output: Output,
    items: Sequence[Mapping[str, Any]],
    shape: Shape,
    table: Callable[[bool], None],
    *,
    empty: str,
    documents: Sequence[Any] | None = None,
    **more: object,
) -> None:
    """Print a list in the format that is wanted.

    Args:
        output: how.
        items: as on the wire.
        shape: what is shown of them.
        table: prints the table for people; whole, for `-o wide`, if true.
        empty: what is said to people of a list without items.
        documents: what programs get, if that is not the items.
        more: beside the items, for programs.
    """
    if output.quiet or output.form == "name":
        for item in items:
            click.echo(plain(_text(item, shape.id if output.quiet else shape.name)))
    elif output.form == "csv":
        print_csv(items, shape.columns)
    elif output.for_machines:
        output.page(list(items if documents is None else documents), **more)
    elif items:
        table(output.form == "wide")
    else:
        say(empty)


def print_csv(items: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print comma-separated values: a head line, and a line for each item; times are RFC 3339."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow([_heading(column) for column in columns])
    for item in items:
        rows.writerow([plain(_text(item, column)) for column in columns])


def watch(
    client: "Client",
    read: Callable[[], T],
    show: Callable[[T], None],
    *,
    for_people: bool,
    facts: Callable[[T], object] = lambda found: found,
) -> NoReturn:
    """Show something, and again whenever it changed, until the command is interrupted.

    Args:
        client: whom `read` asks; its interruptions are waited for.
        read: gets it.
        show: prints it.
        for_people: with the time before each but the first.
        facts: of an answer, what is shown again when it is not equal to that of the last answer.
    """
    end_on_sigterm()
    last = client.through_interruptions(read)
    show(last)
    while True:
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
        found = client.through_interruptions(read)
        if facts(found) != facts(last):
            if for_people:
                click.echo("\n" + styled(Cell(exact(time.time_ns()), BOLD)))
            show(found)
            last = found


def _heading(column: str) -> str:
    name = column.removesuffix(".StateType").replace(".", "")
    return _WORD_END.sub("_", name).lower()


def _text(item: Mapping[str, Any], key: str) -> str:
    value: Any = item
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, int) and key in _NANOSECOND_KEYS:
        return format_rfc3339(value)
    return str(value)
