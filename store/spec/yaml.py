"""YAML text to plain values.

    text ──► parser events ──► refuse deep nesting, multiplied aliases,     (constant memory)
                               duplicate keys, foreign tags
         └─► parser events ──► values

The values are those of Bacalhau (the Go package sigs.k8s.io/yaml): yes and no are booleans, `010` and `0o10`
are 8, `1e3` is a number; `22:22`, `2024-01-01`, `=` and `<<` as a value are text. Intended differences: `y`
and `n` are text, a key must not appear twice, a merged key never replaces an explicit one, and only the tags
of text, numbers, booleans, null, maps and lists are accepted.
"""

import math
import re
from typing import Any, Final, NoReturn

import yaml

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_MAX_DEPTH, SPEC_MAX_NODES
from jobledger.store.spec.values import shown

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = frozenset(
    {_CORE + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml may be missing
    """PyYAML's safe loader without timestamps and with Go's numbers; every error has line and column."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read an integer as Go does: `010` is octal, and `08`, which can't be, is decimal."""
        return self._number(lambda each: _integer(self.construct_scalar(each)), node)  # type: ignore[no-any-return]

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float | str:
        """Read a number; one that is too large for a float (`1e999`) stays text, as in Go."""
        value = self._number(super().construct_yaml_float, node)
        if math.isinf(value) and "inf" not in node.value.lower():
            return str(node.value)
        return value  # type: ignore[no-any-return]

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        """Read a boolean; PyYAML raises KeyError for `!!bool maybe`."""
        return self._number(super().construct_yaml_bool, node)  # type: ignore[no-any-return]

    @staticmethod
    def _number(construct: Any, node: yaml.ScalarNode) -> Any:
        try:
            return construct(node)
        except (ValueError, KeyError, IndexError):
            what = f"{shown(node.value)} can't be read as {node.tag.removeprefix(_CORE)}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None


for _kind in ("int", "float", "bool"):
    _Loader.add_constructor(_CORE + _kind, getattr(_Loader, f"construct_yaml_{_kind}"))


def _integer(text: str) -> int:
    """Return the integer of a text that `_INT` matched or that has the tag `!!int`."""
    plain = text.replace("_", "")
    digits = plain.lstrip("+-")
    if digits[:1] == "0" and digits.isdigit():
        return int(plain, 8 if set(digits) <= set("01234567") else 10)
    return int(plain, 0)


_INT = (
    r"^[-+]?_*(?:0_*[bB]_*[01][01_]*|0_*[oO]_*[0-7][0-7_]*|0_*[xX]_*[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)$"
)
_FLOAT = (
    r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?_*[0-9][0-9_]*)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
# `=` is text: PyYAML resolves it to the tag `value`, which has no constructor.
_REPLACED = {_CORE + kind for kind in ("timestamp", "int", "float", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# `<<` merges if it is a key; everywhere else it is text.
_Loader.add_constructor(_CORE + "merge", _Loader.construct_yaml_str)
_Loader.add_implicit_resolver(_CORE + "int", re.compile(_INT), list("-+0123456789"))
_Loader.add_implicit_resolver(_CORE + "float", re.compile(_FLOAT), list("-+0123456789."))


class _Open:
    """A mapping or list before its end."""

    __slots__ = ("anchor", "depth_below", "is_mapping", "keys", "nodes_before", "wants_key")

    def __init__(self, event: yaml.CollectionStartEvent, nodes_before: int) -> None:
        self.anchor = event.anchor
        self.is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.wants_key = self.is_mapping
        self.keys: set[str] = set()
        self.nodes_before = nodes_before
        self.depth_below = 0  # levels of collections inside it


class _Inspector:
    """The first pass: counts the values of the document, with aliases expanded."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.nodes = 0
        self.documents = 0
        self.anchors: dict[str, tuple[int, int]] = {}  # name -> nodes, levels

    def inspect(self, event: yaml.Event) -> None:
        """Check the next event.

        Raises:
            InvalidSpec: if the document is refused.
        """
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    _refuse_at(event, "a second document starts here", "put each job into a file of its own")
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.ScalarEvent():
                self._check_tag(event, event.tag)
                self._key_or_value(event, event.value)
                self._add(event, nodes=1, levels=0)
                if event.anchor:
                    self.anchors[event.anchor] = (1, 0)
            case yaml.CollectionStartEvent():
                self._check_tag(event, event.tag)
                self._key_or_value(event, None)
                self._add(event, nodes=1, levels=1)
                self.open.append(_Open(event, self.nodes - 1))
            case yaml.CollectionEndEvent():
                self._close()
            case _:
                pass

    def _alias(self, event: yaml.AliasEvent) -> None:
        if any(each.anchor == event.anchor for each in self.open):
            _refuse_at(event, f"the alias *{event.anchor} contains itself", "write the value out")
        self._key_or_value(event, None)
        # The second pass refuses an undefined alias.
        nodes, levels = self.anchors.get(event.anchor or "", (1, 0))
        self._add(event, nodes=nodes, levels=levels)

    def _key_or_value(self, event: yaml.Event, text: str | None) -> None:
        """Track keys and values of the open mapping; `text` is None unless the event is a scalar."""
        if not self.open or not self.open[-1].is_mapping:
            return
        parent = self.open[-1]
        if parent.wants_key:
            if text is None:
                _refuse_at(
                    event, "a key must be plain text", "write the key out as a word or a quoted string"
                )
            if text in parent.keys:
                _refuse_at(event, f"the key {shown(text)} appears twice in one mapping", "keep one of them")
            parent.keys.add(text)
        parent.wants_key = not parent.wants_key

    def _add(self, event: yaml.Event, *, nodes: int, levels: int) -> None:
        self.nodes += nodes
        if self.nodes > SPEC_MAX_NODES:
            what = f"more than {SPEC_MAX_NODES} values with aliases expanded"
            _refuse_at(event, what, "make the spec smaller")
        if len(self.open) + levels > SPEC_MAX_DEPTH:
            _refuse_at(event, f"nested deeper than {SPEC_MAX_DEPTH} levels", "flatten it")
        if self.open:
            self.open[-1].depth_below = max(self.open[-1].depth_below, levels)

    def _close(self) -> None:
        closed = self.open.pop()
        if self.open:
            self.open[-1].depth_below = max(self.open[-1].depth_below, closed.depth_below + 1)
        if closed.anchor:
            self.anchors[closed.anchor] = (self.nodes - closed.nodes_before, closed.depth_below + 1)

    @staticmethod
    def _check_tag(event: yaml.Event, tag: str | None) -> None:
        if tag is not None and tag not in _PLAIN_TAGS:
            _refuse_at(event, f"the tag {shown(tag)} is not accepted", "remove the tag")


def parse_yaml(text: str) -> object:
    """Return the plain values of a YAML document; None if it is empty.

    Raises:
        InvalidSpec: if it is not YAML, or not accepted for a spec; with line and column.
    """
    inspector = _Inspector()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            inspector.inspect(event)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise InvalidSpec(
            [Problem("", f"{where}not YAML: {what}", "correct it there or just before")]
        ) from None
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise InvalidSpec([Problem("", f"not YAML: {what}", "remove what is not text")]) from None
    except (RecursionError, ValueError, OverflowError) as error:
        what = f"the YAML can't be read: {type(error).__name__}"
        raise InvalidSpec([Problem("", what, "make it simpler")]) from None


def _refuse_at(event: yaml.Event, message: str, remedy: str) -> NoReturn:
    mark = event.start_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    raise InvalidSpec([Problem("", where + message, remedy)])
