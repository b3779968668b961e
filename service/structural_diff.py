"""The structural difference of two JSON documents, used by the HTTP API and the command line. Pure.

Objects are compared key by key. In lists, the elements that kept their order are matched first (by name if
all have a distinct one, otherwise equal elements), then those that moved; only the rest is compared by
position. An inserted task therefore does not make all later ones look changed, and a moved one stays the
same.

Equality is that of JSON: `1`, `1.0` and `true` are three values.
"""

import json
import re
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from jobledger.service.limits import DIFF_MAX_PAIRS

Step = str | int
Path = tuple[Step, ...]
Verb = Literal["add", "remove", "replace"]

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# The fields that identify the elements of a spec's lists.
_NAMES: Final = ("Name", "Key", "Alias", "Target")
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Edit(NamedTuple):
    """One step from the old document to the new one; the steps are applied in order.

    Attributes:
        verb: as in RFC 6902.
        place: path in the document after the preceding edits.
        path: path for display: in the new document; for an element removed from a list, its old index.
        before: the old value; None if there was none.
        after: the new value; None if there is none.
        moved: the index in the old list; a move is a `remove` and an `add`, both with this index.
    """

    verb: Verb
    place: Path
    path: Path
    before: Any
    after: Any
    moved: int | None = None


def edits(old: Any, new: Any) -> list[Edit]:
    """Return the edits from one JSON document to another."""
    return list(_edits(old, new, ()))


def patch_of(changes: Iterable[Edit]) -> list[dict[str, Any]]:
    """Return edits as an RFC 6902 patch."""
    return [
        {"op": each.verb, "path": pointer(each.place)}
        | ({} if each.verb == "remove" else {"value": each.after})
        for each in changes
    ]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every leaf of a document with its path: texts, numbers, and empty lists and objects."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from leaves(item, (*path, at))
    else:
        yield path, value


def path_text(path: Path, text: str = "") -> str:
    """Return a path for display: `Tasks[0].Env.HOME`, or `Meta["a.b"]` for a key that is not a plain word.

    Args:
        path: to format.
        text: a prefix: the formatted path of the parent.
    """
    for step in path:
        if isinstance(step, str) and _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step if isinstance(step, int) else json.dumps(step, ensure_ascii=False)}]"
    return text


def pointer(path: Path) -> str:
    """Return a path as a JSON pointer (RFC 6901): `/Tasks/0/Env/HOME`."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _edits(old: Any, new: Any, path: Path) -> Iterator[Edit]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            there = (*path, key)
            if key not in new:
                yield Edit("remove", there, there, old[key], None)
            elif key not in old:
                yield Edit("add", there, there, None, new[key])
            else:
                yield from _edits(old[key], new[key], there)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_edits(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield Edit("replace", path, path, old, new)


def _list_edits(old: list[Any], new: list[Any], path: Path) -> Iterator[Edit]:
    alignment = aligned(old, new)
    stayed = {to: at for at, to in alignment.stayed}
    moved = {to: at for at, to in alignment.moved}
    movers = set(moved.values())
    kept = set(stayed.values())
    gone = 0
    for at, item in enumerate(old):
        if at not in kept:
            yield Edit("remove", (*path, at - gone), (*path, at), item, None, at if at in movers else None)
            gone += 1
    # Element by element: those before `at` are already final.
    for at, item in enumerate(new):
        there = (*path, at)
        if at in moved:
            yield Edit("add", there, there, None, old[moved[at]], moved[at])
        if at in moved or at in stayed:
            yield from _edits(old[moved[at] if at in moved else stayed[at]], item, there)
        else:
            yield Edit("add", there, there, None, item)


class Alignment(NamedTuple):
    """The matching elements of two lists, as pairs of positions.

    Attributes:
        stayed: in the same order in both lists, ascending.
        moved: in another order.
    """

    stayed: list[tuple[int, int]]
    moved: list[tuple[int, int]]


def aligned(old: Sequence[Any], new: Sequence[Any]) -> Alignment:
    """Match two lists: elements in the same order, then moved ones, then the rest by position."""
    ours, theirs = _marks(old, new)
    common = _common(ours, theirs)
    moved = _moved(ours, theirs, common)
    from_moved, to_moved = {at for at, _ in moved}, {to for _, to in moved}
    stayed: list[tuple[int, int]] = []
    at = to = 0
    for found in (*common, (len(old), len(new))):
        # Between two matches: by position, so that a changed element is described by its parts.
        before = (index for index in range(at, found[0]) if index not in from_moved)
        after = (index for index in range(to, found[1]) if index not in to_moved)
        stayed += zip(before, after, strict=False)
        if found[0] < len(old):
            stayed.append(found)
        at, to = found[0] + 1, found[1] + 1
    return Alignment(stayed, moved)


def _moved(
    ours: list[Hashable], theirs: list[Hashable], common: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Match equal elements outside the common subsequence, first to first."""
    stayed, arrived = {at for at, _ in common}, {to for _, to in common}
    free: dict[Hashable, deque[int]] = {}
    for at, mark in enumerate(ours):
        if at not in stayed:
            free.setdefault(mark, deque()).append(at)
    return [
        (free[mark].popleft(), to) for to, mark in enumerate(theirs) if to not in arrived and free.get(mark)
    ]


def _marks(old: Sequence[Any], new: Sequence[Any]) -> tuple[list[Hashable], list[Hashable]]:
    """Return what identifies the elements of two lists: a name if all are distinct, otherwise the content."""
    for name in _NAMES:
        ours, theirs = _named(old, name), _named(new, name)
        if ours is not None and theirs is not None:
            return ours, theirs
    return [_encode(item) for item in old], [_encode(item) for item in new]


def _named(items: Sequence[Any], name: str) -> list[Hashable] | None:
    names = [item.get(name) if isinstance(item, dict) else None for item in items]
    own = all(isinstance(each, str) and each for each in names) and len(set(names)) == len(names)
    return [*names] if own else None


def _common(ours: list[Hashable], theirs: list[Hashable]) -> list[tuple[int, int]]:
    """Return a longest common subsequence as pairs of positions; for very long lists only common ends."""
    least = min(len(ours), len(theirs))
    head = next((at for at in range(least) if ours[at] != theirs[at]), least)
    tail = next((at for at in range(least - head) if ours[-1 - at] != theirs[-1 - at]), least - head)
    rows, columns = ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    pairs = [(at, at) for at in range(head)]
    if len(rows) * len(columns) <= DIFF_MAX_PAIRS:
        pairs += [(head + at, head + to) for at, to in _longest(rows, columns)]
    ends = zip(range(len(ours) - tail, len(ours)), range(len(theirs) - tail, len(theirs)), strict=True)
    return [*pairs, *ends]


def _longest(rows: list[Hashable], columns: list[Hashable]) -> list[tuple[int, int]]:
    """Dynamic programming; `lengths[at][to]` is that of the longest common subsequence from there."""
    lengths = [[0] * (len(columns) + 1) for _ in range(len(rows) + 1)]
    for at in range(len(rows) - 1, -1, -1):
        row, below, own = lengths[at], lengths[at + 1], rows[at]
        for to in range(len(columns) - 1, -1, -1):
            row[to] = below[to + 1] + 1 if own == columns[to] else max(below[to], row[to + 1])
    pairs = []
    at = to = 0
    while at < len(rows) and to < len(columns):
        if rows[at] == columns[to]:
            pairs.append((at, to))
            at, to = at + 1, to + 1
        elif lengths[at + 1][to] >= lengths[at][to + 1]:
            at += 1
        else:
            to += 1
    return pairs
