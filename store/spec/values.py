"""Plain values, as in JSON: their text and path in a message, and whether JSON can represent them."""

import json
import math
import re
from typing import Any, Final

import msgspec

from jobledger.store.model.errors import Problem
from jobledger.store.model.limits import INT_MIN, SPEC_MAX_DEPTH, SPEC_MAX_NODES, UINT_MAX

SHOWN_MAX_CHARACTERS: Final = 60  # of a value in a message

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")


def shown(value: object) -> str:  # noqa: PLR0911 - one line per kind of value
    """Return the value as JSON for a message: shortened, and printable."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = value if len(value) <= SHOWN_MAX_CHARACTERS else value[: SHOWN_MAX_CHARACTERS - 1] + "…"
        return f'"{text}"' if text.isprintable() else json.dumps(text)
    if isinstance(value, int):
        # Python refuses to format very long integers.
        return str(value) if value.bit_length() <= 192 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a value of type {type(value).__name__}"


def step(path: str, key: object) -> str:
    """Return the path of a key: `Meta.team`, or `Meta["a.b/c"]` if the key is not a plain word."""
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8; half of a surrogate pair, valid in JSON, can't."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_plain(value: Any, depth: int) -> bool:
    """Return whether JSON represents a value exactly, except for its strings, which the encoder checks.

    This is the fast check; `value_problems` reports what is wrong. Types must be exact, because a subclass
    can be encoded in any way.

    Args:
        value: any value of Params.
        depth: of the value, if it is an object or a list; the document has depth 1.
    """
    kind: type = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list:
        return _is_plain_scalar(value, kind)
    if depth > SPEC_MAX_DEPTH:
        return False
    for item in value:  # noqa: SIM110 - most values are short, and a generator takes twice as long for them
        if type(item) is not str and not is_plain(item, depth + 1):
            return False
    return True


def _is_plain_scalar(value: Any, kind: type) -> bool:
    if kind is int:
        return bool(INT_MIN <= value <= UINT_MAX)
    if kind is float:
        return math.isfinite(value)
    return kind is str or kind is bool or value is None


def value_problems(value: Any, path: str = "", depth: int = 1) -> list[Problem]:
    """Return a problem for each part of a Struct or plain value that JSON can't represent, in order."""
    if isinstance(value, str):
        return [] if is_utf8(value) else [_not_utf8(path, value)]
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        items = [(step(path, each.encode_name), getattr(value, each.name)) for each in fields]
    elif isinstance(value, dict):
        items = [(step(path, key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return _scalar_problems(value, path)
    if depth > SPEC_MAX_DEPTH:
        return [too_deep(path)]
    keys = value if isinstance(value, dict) else ()
    problems = [problem for key in keys for problem in _key_problems(key, path)]
    for place, item in items:
        problems += value_problems(item, place, depth + 1)
    return problems


def too_deep(path: str) -> Problem:
    """Return the problem of a value that is nested deeper than SPEC_MAX_DEPTH."""
    return Problem(
        path, f"nested deeper than {SPEC_MAX_DEPTH} levels", "flatten it, or pass it as one string"
    )


def _scalar_problems(value: object, path: str) -> list[Problem]:
    if value is None or value is msgspec.UNSET or is_plain(value, SPEC_MAX_DEPTH + 1):
        return []
    if isinstance(value, int | float):
        return [
            Problem(
                path, f"{shown(value)} is not a number that all JSON readers accept", "pass it as a string"
            )
        ]
    return [Problem(path, f"{shown(value)} can't be written as JSON", "pass it as a string")]


def _key_problems(key: object, path: str) -> list[Problem]:
    if not isinstance(key, str):
        return [Problem(path, f"the key {shown(key)} is not a string", "put it in quotes")]
    return [] if is_utf8(key) else [_not_utf8(path, key)]


def _not_utf8(path: str, text: str) -> Problem:
    return Problem(path, f"{shown(text)} contains half of a surrogate pair, which is not text", "remove it")


def too_deep_or_many(value: object) -> Problem | None:
    """Return a problem if a plain value has too many levels or parts; also ends if it contains itself."""
    count, level, depth = 0, [value], 0
    while level:
        count += len(level)
        if count > SPEC_MAX_NODES:
            return Problem("", f"more than {SPEC_MAX_NODES} values", "make the spec smaller")
        depth += 1
        below: list[object] = []
        nested = False
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
                nested = True
            elif isinstance(item, list | tuple):
                below.extend(item)
                nested = True
        if nested and depth > SPEC_MAX_DEPTH:
            return too_deep("")
        level = below
    return None
