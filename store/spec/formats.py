"""Spec text (YAML, JSON, TOML) to plain values: for any bytes, the result is a mapping or InvalidSpec."""

import json
import re
import tomllib
from collections import Counter
from datetime import date, datetime, time
from pathlib import PurePath
from typing import Any, Final, Literal, NoReturn

import msgspec

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_FILE_MAX_BYTES, SPEC_MAX_DEPTH
from jobledger.store.spec.values import shown, too_deep, too_deep_or_many
from jobledger.store.spec.yaml import parse_yaml

Format = Literal["yaml", "json", "toml"]
_FORMATS: Final[dict[str, Format]] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
_BOM = "\ufeff"
_encode: Final = msgspec.json.Encoder().encode

# A dotted TOML key nests as deep as it has parts, and tomllib takes quadratic time and memory: 100 KB of
# `a.a.a.…` would take gigabytes. No match starts inside a word, so the search itself is linear.
_WORD = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_WORD}(?:[ \t]*+\.[ \t]*+{_WORD}){{{SPEC_MAX_DEPTH}}}")


def format_of(filename: str) -> Format | None:
    """Return the format of a file by its suffix; None if the suffix is unknown."""
    return _FORMATS.get(PurePath(filename).suffix.lower())


def parse(text: bytes | str, *, format: Format | None = None) -> dict[Any, Any]:  # noqa: A002
    """Return the plain values of a spec's text.

    Args:
        text: at most SPEC_FILE_MAX_BYTES of UTF-8, with or without a byte order mark.
        format: None: JSON if the text starts with `{` or `[`, otherwise YAML.

    Raises:
        InvalidSpec: with line and column if the parser knows them; first of all if the text looks like a
            template that was not rendered.
    """
    decoded = _decode(text)
    if format is None:
        format = "json" if decoded.lstrip()[:1] in {"{", "["} else "yaml"  # noqa: A001
    try:
        return _mapping(_PARSERS[format](decoded))
    except InvalidSpec as error:
        raise InvalidSpec([*template_problems(decoded), *error.problems]) from None


def template_problems(text: bytes | str) -> list[Problem]:
    """Return a problem if the text looks like a Go template, which Bacalhau's `job run` renders."""
    marks = ("{{", "}}") if isinstance(text, str) else (b"{{", b"}}")
    if not all(mark in text for mark in marks):  # type: ignore[operator]  # both are of text's own type
        return []
    what = "this looks like a Go template: it contains {{ … }}"
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
        size = f"the text has more than {SPEC_FILE_MAX_BYTES} bytes"  # the caller may have read no further
        _refuse(size, "put the data into an input source")
    return decoded.removeprefix(_BOM)


def _mapping(value: object) -> dict[Any, Any]:
    if value is None:
        _refuse("the document is empty", "describe a job: Type and Tasks are needed")
    if not isinstance(value, dict):
        _refuse(f"a job is an object with fields, got {shown(value)}", "start with Name:, Type: and Tasks:")
    return value


class _DuplicateKeyError(ValueError):
    """An object of the document has a key twice."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"the key {shown(key)} appears twice in one object")


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
    except ValueError:  # Python's limit for integers
        _refuse("an integer has thousands of digits", "pass it as a string")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse duplicate keys: JSON allows them, and readers differ in which one they use."""
    members = dict(pairs)
    if len(members) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _DuplicateKeyError(repeated)
    return members


def repeated_key(text: bytes, decoded: object) -> str | None:
    """Return a key that an object of a JSON text has twice, at any depth; None if there is none.

    Args:
        text: that another decoder accepted: most keep one of the two values and drop the other silently.
        decoded: what it returned.
    """
    if _has_all_members(text, decoded):
        return None
    try:
        json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKeyError as error:
        return error.key
    return None


def _has_all_members(text: bytes, decoded: object) -> bool:
    """Return whether no member of the text was lost; False if that takes the complete check.

    Each member has a colon, and so have some strings. A lost member takes at least its own colon with it, and
    nothing adds one, unless a string has a colon as an escape sequence.
    """
    if b"\\u003a" in text or b"\\u003A" in text:
        return False
    try:
        return text.count(b":") == _encode(decoded).count(b":")
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        return False


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
    except ValueError:  # Python's limit for integers
        _refuse("an integer has thousands of digits", "pass it as a string")
    problem = too_deep_or_many(values)
    if problem is not None:
        raise InvalidSpec([problem])
    return _dates_as_text(values) or None


def _dates_as_text(value: Any) -> Any:
    """Convert dates of TOML to text; the depth of the values is already checked."""
    if isinstance(value, dict):
        return {key: _dates_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(item) for item in value]
    return value.isoformat() if isinstance(value, date | datetime | time) else value


_PARSERS: Final = {"yaml": parse_yaml, "json": _parse_json, "toml": _parse_toml}
