"""Text on its way to a terminal: what others wrote must not speak to it. And tables of it.

On a terminal tables are rich's, fitted to its width. Elsewhere (a pipe, a file) they are plain columns of
whole values, which `grep`, `awk` and `cut` can use, and rich is not even imported.
"""

import sys
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
    """A value and its style, a colour or `BOLD`; a plain `str` has none."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: its head.
        right: whether it stands to the right, as numbers do.
        flexible: whether its values are cut where a terminal is narrow; those of others are shown whole.
        short: its head where a terminal is narrow.
        least: as how many columns of the terminal it keeps of its values, if others can leave for it.
        middle: whether its values are cut in the middle, as of paths, whose end says most.
        leaves: when it is left out where even that is too wide: 1 first; 0: never.
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
    """Somebody's text on one line: what would move the cursor or speak to the terminal is written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def plain_lines(text: str) -> str:
    """The same for a text of several lines, and tabs."""
    return "\n".join(plain(line.expandtabs(4)) for line in text.split("\n"))


def state_cell(state: str) -> Cell:
    """A state in its colour."""
    return Cell(state, STATE_STYLES.get(state, ""))


def styled(cell: str | Cell) -> str:
    """A cell as it can be echoed: click takes the colours away where they do not belong."""
    if isinstance(cell, str) or not cell.style:
        return plain(cell if isinstance(cell, str) else cell.text)
    if cell.style == BOLD:
        return click.style(plain(cell.text), bold=True)
    return click.style(plain(cell.text), fg=cell.style)


def cut(text: str, width: int) -> str:
    """A text in at most so many columns of a terminal; an ellipsis stands for what is cut."""
    if text_width(text) <= width:
        return text
    kept = text
    while kept and text_width(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept.rstrip()}…" if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """The beginning and the end of a text in at most so many columns, with an ellipsis between them."""
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
    """A line on standard error: progress, warnings, what to do next."""
    click.echo(plain_lines(message), err=True)


class StatusLine:
    """A line on standard error that is written over."""

    def __init__(self) -> None:
        self._width = 0

    def show(self, text: str) -> None:
        """Write it over what stood there."""
        click.echo(f"\r{plain(text):<{self._width}}", nl=False, err=True)
        self._width = len(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            self.show("")
            click.echo("\r", nl=False, err=True)


def print_table(columns: Sequence[Column], rows: Iterable[Row], *, whole: bool = False) -> None:
    """A table on standard output; on a terminal fitted to its width, unless it is to be shown whole."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and not whole:
        _print_fitted(columns, texts)
        return
    widths = _wanted(columns, texts)
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
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _print_fitted(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.console import Console  # slow to import, and only for terminals
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
    """As many of the columns as a terminal of this width can show without cutting what must be whole."""
    if _all(_wanted(columns, rows)) > width:
        columns = [column._replace(name=column.short or column.name) for column in columns]
    for leaver in sorted((each for each in columns if each.leaves), key=lambda each: each.leaves):
        if _least(columns, rows) <= width:
            break
        gone = columns.index(leaver)
        columns = [*columns[:gone], *columns[gone + 1 :]]
        rows = [[*row[:gone], *row[gone + 1 :]] for row in rows]
    return columns, rows


def _wanted(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """How wide each column is with all its values whole."""
    return [
        max([text_width(column.name), *(text_width(row[at].text) for row in rows)])
        for at, column in enumerate(columns)
    ]


def _least(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> int:
    widths = zip(columns, _wanted(columns, rows), strict=True)
    return _all([min(wanted, column.least) if column.flexible else wanted for column, wanted in widths])


def _all(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _limits(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[int | None]:
    """How wide the flexible columns may be: they share what the others leave."""
    wanted = _wanted(columns, rows)
    flexible = [at for at, column in enumerate(columns) if column.flexible]
    left = width - _all(wanted) + sum(wanted[at] for at in flexible)
    limits: list[int | None] = [None] * len(columns)
    # The narrowest first: what it does not need is for the others.
    order = sorted(flexible, key=lambda each: wanted[each])
    for done, at in enumerate(order):
        kept = sum(min(wanted[other], columns[other].least) for other in order[done + 1 :])
        share = max(FLEXIBLE_MIN_WIDTH, min(left // (len(order) - done), left - kept))
        limits[at] = min(wanted[at], share)
        left -= min(wanted[at], share)
    return limits
