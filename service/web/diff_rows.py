"""A unified diff as rows of a table: the old line and the new one next to each other. Pure."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from jobledger.service.limits import UI_SHOWN_LINES

_HUNK: Final = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class Side(NamedTuple):
    """One line of one document; `start`, `middle` and `end` are its text, of which `middle` differs."""

    number: int
    start: str
    middle: str = ""
    end: str = ""


class Row(NamedTuple):
    """Two lines that belong together: equal ones, a changed one, or one that only one document has."""

    old: Side | None
    new: Side | None

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.old is not None and self.new is not None and not (self.old.middle or self.new.middle)


class Hunk(NamedTuple):
    """Neighboring rows; `skipped` equal lines before them are not shown, or none of those after them."""

    skipped: int
    rows: list[Row]
    is_cut: bool = False


def hunks_of(diff: str, most: int = UI_SHOWN_LINES) -> list[Hunk]:
    """The hunks of a unified diff, without its header; of a long one at most this many lines."""
    found: list[Hunk] = []
    lines: list[str] = []
    old_start = new_start = old_end = 1
    text = diff.split("\n", most + 2)[2:]
    is_cut = len(text) > most and bool(text[most])
    for line in text[:most]:
        if at := _HUNK.fullmatch(line):
            if lines:
                found[-1].rows.extend(_rows(lines, old_start, new_start))
            lines = []
            old_start, new_start = int(at[1]), int(at[3])
            found.append(Hunk(max(0, old_start - old_end), []))
            old_end = old_start + int(at[2] or 1)
        elif line:
            lines.append(line)
    if lines:
        found[-1].rows.extend(_rows(lines, old_start, new_start))
    if found and is_cut:
        found[-1] = found[-1]._replace(is_cut=True)
    return found


def _rows(lines: list[str], old: int, new: int) -> Iterator[Row]:
    removed: list[str] = []
    added: list[str] = []
    for line in [*lines, " "]:  # the last one ends a change
        if line[0] == "-":
            removed.append(line[1:])
        elif line[0] == "+":
            added.append(line[1:])
        else:
            yield from _changed(removed, added, old, new)
            old, new = old + len(removed), new + len(added)
            removed, added = [], []
            if line != " ":
                yield Row(Side(old, line[1:]), Side(new, line[1:]))
                old, new = old + 1, new + 1


def _changed(removed: list[str], added: list[str], old: int, new: int) -> Iterator[Row]:
    for index in range(max(len(removed), len(added))):
        before = removed[index] if index < len(removed) else None
        after = added[index] if index < len(added) else None
        if before is not None and after is not None:
            yield _pair(before, after, old + index, new + index)
        elif before is not None:
            yield Row(Side(old + index, "", before), None)
        elif after is not None:
            yield Row(None, Side(new + index, "", after))


def _pair(before: str, after: str, old: int, new: int) -> Row:
    most = min(len(before), len(after))
    start = next((at for at in range(most) if before[at] != after[at]), most)
    end = next((at for at in range(most - start) if before[-1 - at] != after[-1 - at]), most - start)
    return Row(_side(before, start, end, old), _side(after, start, end, new))


def _side(text: str, start: int, end: int, number: int) -> Side:
    stop = len(text) - end
    return Side(number, text[:start], text[start:stop], text[stop:])
