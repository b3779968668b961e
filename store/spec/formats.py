"""Spec text (YAML, JSON, TOML) to plain values: whatever the bytes, the answer is a mapping or InvalidSpec.

YAML is read twice. The first pass looks at the parser's events only, which costs no memory, and refuses what
would be dangerous or lossy to build: deep nesting, aliases that multiply, duplicate keys, foreign tags. Only
then are values made.
"""

import json
import re
import tomllib
from collections import Counter
from datetime import date, datetime, time
from pathlib import PurePath
from typing import Any, Final, Literal, NoReturn

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_FILE_MAX_BYTES, SPEC_MAX_DEPTH
from jobledger.store.spec.values import shown, too_deep, too_deep_or_many
from jobledger.store.spec.yaml import parse_yaml

Format = Literal["yaml", "json", "toml"]
_FORMATS: Final[dict[str, Format]] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
_BOM = "\ufeff"

# A dotted TOML key nests as deep as it has parts, and tomllib takes time and memory in the square of them: a
# hundred kilobytes of `a.a.a.…` would take gigabytes. No match begins inside a word, which keeps the search
# itself linear.
_WORD = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_WORD}(?:[ \t]*+\.[ \t]*+{_WORD}){{{SPEC_MAX_DEPTH}}}")


def format_of(filename: str) -> Format | None:
    """The format that a file's name tells; None if it tells none."""
    return _FORMATS.get(PurePath(filename).suffix.lower())


def parse(text: bytes | str, *, format: Format | None = None) -> dict[Any, Any]:  # noqa: A002
    """The plain values of a spec's text.

    Args:
        text: at most SPEC_FILE_MAX_BYTES of UTF-8, with or without a byte order mark.
        format: None guesses: JSON if the text begins with `{` or `[`, else YAML.

    Raises:
        InvalidSpec: not such text; says the line and column where the parser knows them. If the text looks
            like a template that was not rendered, that comes first.
    """
    decoded = _decode(text)
    if format is None:
        format = "json" if decoded.lstrip()[:1] in {"{", "["} else "yaml"  # noqa: A001
    try:
        return _mapping(_PARSERS[format](decoded))
    except InvalidSpec as error:
        raise InvalidSpec([*template_problems(decoded), *error.problems]) from None


def template_problems(text: bytes | str) -> list[Problem]:
    """A hint if the text looks like a Go template; Bacalhau's `job run` renders those, Jobledger does not."""
    marks = ("{{", "}}") if isinstance(text, str) else (b"{{", b"}}")
    if not all(mark in text for mark in marks):  # type: ignore[operator]  # both are of text's own type
        return []
    what = "this looks like a Go template: it holds {{ … }}"
    remedy = "render it first, as Bacalhau's `job run` does with -V and -E: Jobledger does not"
    return [Problem("", what, remedy)]


def _refuse(message: str, remedy: str) -> NoReturn:
    raise InvalidSpec([Problem("", message, remedy)])


def _decode(text: bytes | str) -> str:
    try:
        raw = text.encode() if isinstance(text, str) else text
        decoded = raw.decode()
    except UnicodeEncodeError as error:
        _refuse(f"character {error.start} is half of a surrogate pair, which is not text", "remove it")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1 if isinstance(text, bytes) else 1
        _refuse(f"line {line}: the text is not UTF-8 (byte {error.start})", "save it as UTF-8")
    if len(raw) > SPEC_FILE_MAX_BYTES:
        size = f"the text has more than {SPEC_FILE_MAX_BYTES} bytes"  # it may have been read no further
        _refuse(size, "put the data into an input source")
    return decoded.removeprefix(_BOM)


def _mapping(value: object) -> dict[Any, Any]:
    if value is None:
        _refuse("the document is empty", "describe a job: Type and Tasks are needed")
    if not isinstance(value, dict):
        _refuse(f"a job is an object with fields, got {shown(value)}", "begin with Name:, Type: and Tasks:")
    return value


class _DuplicateKeyError(ValueError):
    """An object of the document has the same key twice."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"the key {shown(key)} is there twice in one object")


def _parse_json(text: str) -> object:
    if not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        _refuse(f"{where}: not JSON: {error.msg}", "correct it there or just before; or is it YAML?")
    except _DuplicateKeyError as error:
        _refuse(str(error), "keep one of them")
    except RecursionError:
        raise InvalidSpec([too_deep("")]) from None
    except ValueError:  # Python's own limit for reading one
        _refuse("an integer has thousands of digits", "pass it as a string")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these members; JSON allows a key twice and every reader picks another one."""
    members = dict(pairs)
    if len(members) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _DuplicateKeyError(repeated)
    return members


def repeated_key(text: bytes) -> str | None:
    """A key that an object of this JSON text has twice, at any depth; None if each is there once.

    For text that another decoder accepted: decoders keep one of the two values and drop the other silently.
    """
    try:
        json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKeyError as error:
        return error.key
    return None


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"{name} is not a JSON number", "use a number or a string")


def _parse_toml(text: str) -> object:
    if _LONG_KEY.search(text):
        raise InvalidSpec([too_deep("")])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse(f"not TOML: {error}", "correct it there")
    except RecursionError:
        raise InvalidSpec([too_deep("")]) from None
    except ValueError:  # Python's own limit for reading one
        _refuse("an integer has thousands of digits", "pass it as a string")
    problem = too_deep_or_many(values)
    if problem is not None:
        raise InvalidSpec([problem])
    return _dates_as_text(values) or None


def _dates_as_text(value: Any) -> Any:
    """TOML's dates as text, which is what a spec can hold; the values are known to be shallow."""
    if isinstance(value, dict):
        return {key: _dates_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(item) for item in value]
    return value.isoformat() if isinstance(value, date | datetime | time) else value


_PARSERS: Final = {"yaml": parse_yaml, "json": _parse_json, "toml": _parse_toml}
