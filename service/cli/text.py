"""Text for terminals: escaping, colors, the status line, and tables.

Text written by others must not control the terminal, so it is escaped. On a terminal, tables are rendered by
rich and fitted to the width; elsewhere (a pipe, a file) they are plain columns of whole values for `grep`,
`awk` and `cut`, and rich is not imported.
"""

import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import click

STATE_STYLES: Final = {
    "Pending": "bright_black",
    "Queued": "yellow",
    "Running": "cyan",
    "Completed": "green",
    "Failed": "red",
    "Stopped": "magenta",
}
BOLD: Final = "bold"
FLEXIBLE_MIN_WIDTH: Final = 8
_GAP: Final = 2


class Cell(NamedTuple):
    """A value and its style: a color or `BOLD`."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: the heading.
        right: whether it is right-aligned.
        flexible: whether its values are shortened on a narrow terminal; other columns are shown whole.
        short: the heading on a narrow terminal.
        least: the minimum width of its values, as long as other columns can be omitted instead.
        middle: whether its values are shortened in the middle, such as paths.
        leaves: the order in which columns are omitted if the table is still too wide: 1 first; 0: never.
    """

    name: str
    right: bool = False
    flexible: bool = False
    short: str = ""
    least: int = FLEXIBLE_MIN_WIDTH
    middle: bool = False
    leaves: int = 0


Row = Sequence[str | Cell]


def plain(text: str) -> str:
    """Text on one line, with control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def plain_lines(text: str) -> str:
    """Text on several lines, with control characters escaped and tabs expanded."""
    return "\n".join(plain(line.expandtabs(4)) for line in text.split("\n"))


def state_cell(state: str) -> Cell:
    """A state in its color."""
    return Cell(state, STATE_STYLES.get(state, ""))


def styled(cell: str | Cell) -> str:
    """A cell as text for `click.echo`, which removes colors where the output has none."""
    if isinstance(cell, str) or not cell.style:
        return plain(cell if isinstance(cell, str) else cell.text)
    if cell.style == BOLD:
        return click.style(plain(cell.text), bold=True)
    return click.style(plain(cell.text), fg=cell.style)


def cut(text: str, width: int) -> str:
    """A text in at most `width` terminal columns; an ellipsis replaces the rest."""
    if text_width(text) <= width:
        return text
    kept = text
    while kept and text_width(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept.rstrip()}…" if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """The beginning and the end of a text in at most `width` terminal columns, with an ellipsis between."""
    if text_width(text) <= width:
        return text
    head = cut(text, max(width // 2, 1))
    tail, left = "", width - text_width(head)
    for character in reversed(text):
        if text_width(character + tail) > left:
            break
        tail = character + tail
    return head + tail


def say(message: str) -> None:
    """Print a line on standard error: progress, warnings, hints."""
    click.echo(plain_lines(message), err=True)


class StatusLine:
    """A line on standard error that is overwritten.

    Args:
        is_shown: None: if standard error is a terminal.
        interval_seconds: the time between updates, for `is_due`.
    """

    def __init__(self, *, is_shown: bool | None = None, interval_seconds: float = 0.0) -> None:
        self._is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._interval_seconds = interval_seconds
        self._updated = 0.0
        self._width = 0

    def is_due(self, *, force: bool = False) -> bool:
        """Whether to update the line: it is shown, and the interval has passed; `force`: regardless of it."""
        return self._is_shown and (force or time.monotonic() - self._updated >= self._interval_seconds)

    def show(self, text: str) -> None:
        """Write the text over the previous one."""
        self._updated = time.monotonic()
        click.echo(f"\r{plain(text):<{self._width}}", nl=False, err=True)
        self._width = len(text)

    def clear(self) -> None:
        """Remove the line."""
        if self._width:
            self.show("")
            click.echo("\r", nl=False, err=True)


def print_table(columns: Sequence[Column], rows: Iterable[Row], *, whole: bool = False) -> None:
    """Print a table; on a terminal it is fitted to the width, unless `whole`."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and not whole:
        _print_fitted(columns, texts)
        return
    widths = _full_widths(columns, texts)
    head = [Cell(column.name) for column in columns]
    for row in (head, *texts):
        padded = (
            _padded(cell.text, width, right=column.right)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        click.echo((" " * _GAP).join(padded).rstrip())


def _cell(cell: str | Cell) -> Cell:
    return Cell(plain(cell)) if isinstance(cell, str) else Cell(plain(cell.text), cell.style)


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - text_width(text))
    return space + text if right else text + space


def text_width(text: str) -> int:
    """The number of terminal columns of a text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _print_fitted(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.console import Console  # slow to import
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    columns, rows = fitted(columns, rows, console.width)
    limits = _limits(columns, rows, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style=BOLD)
    for column, limit in zip(columns, limits, strict=True):
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=limit,
        )
    for row in rows:
        table.add_row(
            *(
                Text(cut_middle(cell.text, limit) if column.middle and limit else cell.text, cell.style)
                for cell, column, limit in zip(row, columns, limits, strict=True)
            )
        )
    console.print(table)


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]]]:
    """Omit columns until those that are not flexible fit the width."""
    if _table_width(_full_widths(columns, rows)) > width:
        columns = [column._replace(name=column.short or column.name) for column in columns]
    for leaver in sorted((each for each in columns if each.leaves), key=lambda each: each.leaves):
        if _min_width(columns, rows) <= width:
            break
        gone = columns.index(leaver)
        columns = [*columns[:gone], *columns[gone + 1 :]]
        rows = [[*row[:gone], *row[gone + 1 :]] for row in rows]
    return columns, rows


def _full_widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """The width of each column with whole values."""
    return [
        max([text_width(column.name), *(text_width(row[at].text) for row in rows)])
        for at, column in enumerate(columns)
    ]


def _min_width(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> int:
    widths = zip(columns, _full_widths(columns, rows), strict=True)
    return _table_width(
        [min(wanted, column.least) if column.flexible else wanted for column, wanted in widths]
    )


def _table_width(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _limits(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[int | None]:
    """The maximum widths of the flexible columns, which share the space of the others."""
    wanted = _full_widths(columns, rows)
    flexible = [at for at, column in enumerate(columns) if column.flexible]
    left = width - _table_width(wanted) + sum(wanted[at] for at in flexible)
    limits: list[int | None] = [None] * len(columns)
    # The narrowest first: what it does not need remains for the others.
    order = sorted(flexible, key=lambda each: wanted[each])
    for done, at in enumerate(order):
        kept = sum(min(wanted[other], columns[other].least) for other in order[done + 1 :])
        share = max(FLEXIBLE_MIN_WIDTH, min(left // (len(order) - done), left - kept))
        limits[at] = min(wanted[at], share)
        left -= min(wanted[at], share)
    return limits
