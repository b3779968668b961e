"""A document as lines of YAML or JSON, each with the JSON Pointer of its value. Pure.

The pointer connects a line to its blame. Texts that YAML could read as something else are quoted as in JSON,
which is valid YAML, too.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
_UNPRINTABLE: Final = re.compile(
    "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
)  # YAML refuses or breaks lines at them
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_encode: Final = msgspec.json.Encoder().encode


class Line(NamedTuple):
    """One line of a document; containers have the pointer of what they contain."""

    text: str
    pointer: str
    is_leaf: bool


def yaml_lines(document: dict[str, Any], *, most: int | None = None) -> list[Line]:
    """A document as block YAML; at most this many lines."""
    return list(islice(_yaml_map(document, 0, ""), most))


def json_lines(document: dict[str, Any], *, most: int | None = None) -> list[Line]:
    """A document as indented JSON; the same."""
    return list(islice(_json(document, 0, "", "", ""), most))


def text_of(lines: list[Line]) -> str:
    """The lines as one text."""
    return "".join(f"{line.text}\n" for line in lines)


def _yaml_map(value: dict[str, Any], depth: int, pointer: str) -> Iterator[Line]:
    for key, item in value.items():
        yield from _yaml_item(f"{'  ' * depth}{_scalar(key)}:", item, depth, f"{pointer}/{_step(key)}")


def _yaml_list(value: list[Any], depth: int, pointer: str) -> Iterator[Line]:
    for index, item in enumerate(value):
        start = f"{'  ' * depth}-"
        place = f"{pointer}/{index}"
        if isinstance(item, dict) and item:
            rest = _yaml_map(item, depth + 1, place)
            first = next(rest)
            yield first._replace(text=f"{start} {first.text.lstrip(' ')}")
            yield from rest
        else:
            yield from _yaml_item(start, item, depth, place)


def _yaml_item(start: str, item: Any, depth: int, pointer: str) -> Iterator[Line]:
    if isinstance(item, dict) and item:
        yield Line(start, pointer, is_leaf=False)
        yield from _yaml_map(item, depth + 1, pointer)
    elif isinstance(item, list) and item:
        yield Line(start, pointer, is_leaf=False)
        yield from _yaml_list(item, depth + 1, pointer)
    else:
        yield Line(f"{start} {_scalar(item)}", pointer, is_leaf=True)


def _json(value: Any, depth: int, pointer: str, start: str, end: str) -> Iterator[Line]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        yield Line(f"{indent}{start}{{", pointer, is_leaf=False)
        for number, (key, item) in enumerate(value.items(), 1):
            comma = "," if number < len(value) else ""
            yield from _json(item, depth + 1, f"{pointer}/{_step(key)}", f"{_text(key)}: ", comma)
        yield Line(f"{indent}}}{end}", pointer, is_leaf=False)
    elif isinstance(value, list) and value:
        yield Line(f"{indent}{start}[", pointer, is_leaf=False)
        for number, item in enumerate(value, 1):
            comma = "," if number < len(value) else ""
            yield from _json(item, depth + 1, f"{pointer}/{number - 1}", "", comma)
        yield Line(f"{indent}]{end}", pointer, is_leaf=False)
    else:
        yield Line(f"{indent}{start}{_text(value)}{end}", pointer, is_leaf=True)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return _text(value)


def _text(value: Any) -> str:
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", _encode(value).decode())


def _step(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
