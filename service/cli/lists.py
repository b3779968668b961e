"""Prints lists in every format of `-o` and single resources as labeled lines; implements `--watch`."""

import csv
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import click

from jobledger.service.cli.options import end_on_sigterm
from jobledger.service.cli.output import FORMATS, Output, output_option
from jobledger.service.cli.text import BOLD, Cell, Column, Row, plain, print_table, say, styled
from jobledger.service.cli.times import exact
from jobledger.service.limits import WATCH_SECONDS
from jobledger.store.timestamps import format_rfc3339

if TYPE_CHECKING:
    from jobledger.service.client.client import Client

UNKNOWN: Final = Cell("-", "bright_black")
_NANOSECOND_KEYS: Final = frozenset({"CreateTime", "ModifyTime"})  # Bacalhau's fields
_WORD_END: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def list_output_option(*, quiet: bool = True) -> Callable[[F], F]:
    """`-o/--output` with the formats of lists, and `-q/--quiet`; the command receives `output`."""
    return output_option(*FORMATS, "wide", "name", "csv", quiet=quiet)


watch_option = click.option(
    "-w", "--watch", "watched", is_flag=True, help="Show it again after each change, until Ctrl-C."
)


class Shape(NamedTuple):
    """The keys of an item that the formats `--quiet`, `name` and `csv` print.

    Attributes:
        id: printed by `--quiet`.
        name: printed by `-o name`.
        columns: printed by `-o csv`; `State.StateType` is a key of the object `State`.
    """

    id: str
    name: str
    columns: tuple[str, ...]


def print_list(
    output: Output,
    items: Sequence[Mapping[str, Any]],
    shape: Shape,
    columns: Sequence[Column],
    rows: Callable[[], Iterable[Row]],
    *,
    empty: str,
    documents: Sequence[Any] | None = None,
    **more: object,
) -> None:
    """Print a list in the requested format.

    Args:
        output: the format.
        items: as on the wire.
        shape: the keys that the short formats print.
        columns: of the table.
        rows: builds the rows of the table; called only if a table is printed.
        empty: the message if the list is empty; for people only.
        documents: what programs receive, if not `items`.
        more: further fields of the document.
    """
    if output.quiet or output.form == "name":
        for item in items:
            click.echo(plain(_value(item, shape.id if output.quiet else shape.name)))
    elif output.form == "csv":
        print_csv(items, shape.columns)
    elif output.for_machines:
        output.page(list(items if documents is None else documents), **more)
    elif items:
        print_table(columns, rows(), whole=output.form == "wide")
    else:
        say(empty)


def print_csv(items: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print comma-separated values: a header, and one line per item; times are RFC 3339."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow([_heading(column) for column in columns])
    for item in items:
        rows.writerow([plain(_value(item, column)) for column in columns])


def print_fields(fields: Iterable[tuple[str, str | Cell]], *, width: int) -> None:
    """Print labeled lines; the labels are padded to `width`."""
    for label, value in fields:
        click.echo(styled(Cell(f"{label:<{width}}", BOLD)) + styled(value))


def text_field(wire: Mapping[str, Any], name: str) -> str:
    """A text field of a response; empty if it is absent or not text."""
    value = wire.get(name)
    return value if isinstance(value, str) else ""


def watch(
    client: "Client",
    read: Callable[[], T],
    show: Callable[[T], None],
    *,
    for_people: bool,
    facts: Callable[[T], object] = lambda found: found,
) -> NoReturn:
    """Show a result, and again after each change, until the command is interrupted.

    Args:
        client: used by `read`; a lost connection is retried.
        read: reads the result.
        show: prints it.
        for_people: whether to print the time before each result but the first.
        facts: the part of a result that is compared.
    """
    end_on_sigterm()
    last = client.with_retries(read)
    show(last)
    while True:
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
        found = client.with_retries(read)
        if facts(found) != facts(last):
            if for_people:
                click.echo("\n" + styled(Cell(exact(time.time_ns()), BOLD)))
            show(found)
            last = found


def _heading(column: str) -> str:
    name = column.removesuffix(".StateType").replace(".", "")
    return _WORD_END.sub("_", name).lower()


def _value(item: Mapping[str, Any], key: str) -> str:
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
