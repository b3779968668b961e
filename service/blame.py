"""Blame: for every field of a job, the event that set its current value. Pure.

While the job's events are folded, a second tree of the same shape holds an event for each value of the job.
The structural diff determines what each event changed. A value that is restored is blamed on the event that
restored it; a value that an event repeats stays with the event that set it.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import BLAME_MAX_FIELDS, DIFF_MAX_BYTES
from jobledger.service.structural_diff import Edit, Path, Step, edits, leaves
from jobledger.store.model.events import Record, read_record
from jobledger.store.model.fold import fold_job_on
from jobledger.store.model.history import HistoryItem, build_history_item
from jobledger.store.model.job import Job, JobStatus

_NOT_OF_THE_SPEC: Final = frozenset({"ID", "State", "Version", "Revision", "CreateTime", "ModifyTime"})


class Blamed(msgspec.Struct, frozen=True):
    """A field, and the event that set its value.

    Attributes:
        path: in the job: a field of the spec, of `State`, or of `Tags`.
        value: a text, a number, or an empty list or object.
        event: that set it.
    """

    path: Path
    value: Any
    event: HistoryItem


class _Node:
    """A node of the tree of events.

    Attributes:
        sequence: of the event that set this value, or changed the content of this list or object.
        inside: the child nodes; None for a text or a number.
    """

    __slots__ = ("inside", "sequence")

    def __init__(self, sequence: int, inside: "dict[str, _Node] | list[_Node] | None") -> None:
        self.sequence = sequence
        self.inside = inside

    def at(self, step: Step) -> "_Node":
        return self.inside[step]  # type: ignore[index]  # the tree has the document's shape

    def sequences(self) -> Iterator[int]:
        yield self.sequence
        for node in self.inside.values() if isinstance(self.inside, dict) else self.inside or ():
            yield from node.sequences()


class Blame:
    """Blames the fields of a job on its events, which are passed to `add` in order."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._held: Job | None = None  # also a job whose creating event can't be read
        self._spec: dict[str, Any] = {}
        self._rest: dict[str, Any] = {}
        self._tree = _Node(0, {})
        self._events: dict[int, HistoryItem] = {}

    def add(self, record: Record) -> None:
        """Add the next record of the job's subject.

        Raises:
            PayloadTooLarge: the spec is too large.
        """
        before = self._held
        folded = self._held = fold_job_on(before, read_record(record))
        if folded is None or folded.status.is_lost:
            return
        if before is not None and before.status.is_lost:
            before = None
        self.job = folded
        if folded.status.sequence != record.sequence:
            return  # an anomaly, or an event of a frozen job
        item, _ = build_history_item(record, before.status if before is not None else None)
        if before is None or before.status.spec_sequence != folded.status.spec_sequence:
            self._enter(item, self._spec, spec := _spec_of(folded))
            self._spec = spec
        self._enter(item, self._rest, rest := _rest_of(folded.status))
        self._rest = rest
        if len(self._events) > 2 * BLAME_MAX_FIELDS:  # do not keep a long history in memory
            needed = set(self._tree.sequences())
            self._events = {sequence: item for sequence, item in self._events.items() if sequence in needed}

    def fields(self) -> Iterator[Blamed]:
        """Yield every field: of the spec, then of the state, then the tags; none before there is a job."""
        if self.job is None:
            return
        for path, value in leaves({**self._spec, **self._rest}):
            node = self._tree
            for step in path:
                node = node.at(step)
            yield Blamed(path, value, self._events[node.sequence])

    def _enter(self, item: HistoryItem, old: dict[str, Any], new: dict[str, Any]) -> None:
        moving: dict[tuple[Path, int], _Node] = {}  # by list and old index: removed, not yet inserted again
        for edit in edits(old, new):
            self._events[item.sequence] = item
            _apply(self._tree, edit, item.sequence, moving)


def _spec_of(job: Job) -> dict[str, Any]:
    """Return the fields of a job's spec.

    Raises:
        PayloadTooLarge: it exceeds DIFF_MAX_BYTES or BLAME_MAX_FIELDS.
    """
    if len(job.spec) > DIFF_MAX_BYTES:
        raise PayloadTooLarge(
            f"version {job.status.version} of the spec has {len(job.spec)} bytes; blame supports at most"
            f" {DIFF_MAX_BYTES}"
        )
    spec = {key: value for key, value in job.to_wire().items() if key not in _NOT_OF_THE_SPEC}
    count = sum(1 for _ in leaves(spec))
    if count > BLAME_MAX_FIELDS:
        raise PayloadTooLarge(
            f"version {job.status.version} of the spec has {count} fields; blame supports at most"
            f" {BLAME_MAX_FIELDS}"
        )
    return spec


def _rest_of(status: JobStatus) -> dict[str, Any]:
    tags = {"Tags": dict(status.tags)} if status.tags else {}
    return {"State": msgspec.to_builtins(status.state), **tags}


def _apply(tree: _Node, edit: Edit, sequence: int, moving: dict[tuple[Path, int], _Node]) -> None:
    """Apply an edit of the document to the tree of events; a moved element keeps its events."""
    *way, last = edit.place
    for step in way:
        tree = tree.at(step)
    tree.sequence = sequence  # the event of a container that becomes empty
    inside = tree.inside
    if isinstance(inside, list):
        assert isinstance(last, int)
        if edit.moved is not None:
            key = (tuple(way), edit.moved)
            if edit.verb == "remove":
                moving[key] = inside.pop(last)
            else:
                inside.insert(last, moving.pop(key))
        elif edit.verb == "add":
            inside.insert(last, _tree_of(edit.after, sequence))
        elif edit.verb == "remove":
            del inside[last]
        else:
            inside[last] = _tree_of(edit.after, sequence)
    else:
        assert isinstance(inside, dict)
        assert isinstance(last, str)
        if edit.verb == "remove":
            del inside[last]
        else:
            inside[last] = _tree_of(edit.after, sequence)


def _tree_of(value: Any, sequence: int) -> _Node:
    if isinstance(value, dict):
        return _Node(sequence, {key: _tree_of(item, sequence) for key, item in value.items()})
    if isinstance(value, list):
        return _Node(sequence, [_tree_of(item, sequence) for item in value])
    return _Node(sequence, None)
