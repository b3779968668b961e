"""Query parameters, read as forgivingly as Bacalhau's clients require. Pure.

An empty value is the same as an absent one (`next_token=`), `True` and `1` are true, and unknown parameters
(`node_id=`) are ignored. A value that cannot be read is refused with the parameter's name.
"""

import re
from typing import Final
from urllib.parse import parse_qsl

from jobledger.projections.query.selectors import Requirement, parse_selector
from jobledger.service.limits import QUERY_MAX_PARAMETERS
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import coarser_unit, parse_rfc3339

_TRUE: Final = frozenset({"true", "1", "t", "yes"})
_FALSE: Final = frozenset({"false", "0", "f", "no"})
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?", re.ASCII)
_UNIT_SECONDS: Final = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_INTEGER: Final = re.compile(r"-?\d{1,19}", re.ASCII)
_STATES: Final = {state.lower(): state for state in StateType}

ALL_NAMESPACES: Final = "*"


class Query:
    """The parameters of one request.

    Args:
        query_string: not decoded.
        max_fields: more are refused.
    """

    __slots__ = ("_values",)

    def __init__(self, query_string: bytes, *, max_fields: int = QUERY_MAX_PARAMETERS) -> None:
        self._values: dict[str, list[str]] = {}
        if not query_string:
            return
        try:
            # Latin-1 accepts every byte; what is percent-encoded is decoded as UTF-8.
            pairs = parse_qsl(query_string.decode("latin-1"), max_num_fields=max_fields, errors="strict")
        except UnicodeDecodeError:
            raise InvalidInput("the query is not UTF-8; percent-encode it as UTF-8") from None
        except ValueError:
            raise InvalidInput(f"the query has more than {max_fields} parameters; send fewer") from None
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        """The value, the last one if it was sent several times; empty if absent."""
        values = self._values.get(name)
        return values[-1] if values else ""

    def texts(self, name: str) -> list[str]:
        """All values, repeated or separated by commas."""
        return [
            part for value in self._values.get(name, ()) for part in map(str.strip, value.split(",")) if part
        ]

    def all_of(self, name: str) -> tuple[str, ...]:
        """All values of a repeated parameter, each as it was sent."""
        return tuple(self._values.get(name, ()))

    def others(self, name: str) -> list[tuple[str, str]]:
        """All parameters but one, decoded."""
        return [(each, value) for each, values in self._values.items() if each != name for value in values]

    def selector(self, name: str = "labels") -> tuple[Requirement, ...]:
        """A label selector; all of them, if it was sent several times."""
        return tuple(found for text in self._values.get(name, ()) for found in parse_selector(text))

    def flag(self, name: str) -> bool:
        """A boolean; false if absent."""
        value = self.text(name).lower()
        if value in _TRUE:
            return True
        if value and value not in _FALSE:
            raise InvalidInput(f"{name} must be true or false, got {value!r:.60}")
        return False

    def integer(self, name: str, default: int, *, least: int = 0, most: int = INT_MAX) -> int:
        """An integer within bounds."""
        value = self.text(name)
        if not value:
            return default
        if not _INTEGER.fullmatch(value) or not least <= int(value) <= most:
            raise InvalidInput(f"{name} must be an integer from {least} to {most}, got {value!r:.60}")
        return int(value)

    def limit(self, default: int, most: int) -> int:
        """The number of items on a page; 0 means the maximum."""
        return self.integer("limit", default, most=most) or most

    def seconds(self, name: str, default: float, *, most: float) -> float:
        """A duration such as `5`, `5s`, `500ms` or `1m`, in seconds."""
        value = self.text(name)
        if not value:
            return default
        found = _DURATION.fullmatch(value)
        seconds = float(found[1]) * _UNIT_SECONDS[found[2]] if found else -1.0
        if not 0 <= seconds <= most:
            raise InvalidInput(
                f"{name} must be a duration up to {most:g}s such as `5s` or `500ms`, got {value!r:.60}"
            )
        return seconds

    def time(self, name: str) -> int | None:
        """A time, RFC 3339 or Unix nanoseconds, as Unix nanoseconds; None if absent."""
        value = self.text(name)
        return parse_time(value, name) if value else None

    def states(self, name: str = "state") -> tuple[StateType, ...]:
        """States by name, without case."""
        return tuple(parse_state(value, name) for value in self.texts(name))


def parse_state(value: str, field: str) -> StateType:
    """A state by its name, without case."""
    found = _STATES.get(value.lower())
    if found is None:
        raise InvalidInput(f"{field} must be one of {', '.join(StateType)}, got {value!r:.60}")
    return found


def parse_time(value: str, field: str) -> int:
    """RFC 3339 (with an offset) or Unix nanoseconds, as Unix nanoseconds.

    Raises:
        InvalidInput: if it is neither, or a number that is probably seconds, milliseconds or microseconds.
    """
    if _INTEGER.fullmatch(value):
        number = int(value)
        if unit := coarser_unit(number):
            raise InvalidInput(
                f"{field} must be Unix nanoseconds or RFC 3339 such as 2026-01-31T12:00:00Z, got {number},"
                f" which looks like {unit}"
            )
        return number
    time = parse_rfc3339(value)
    if time is None:
        raise InvalidInput(
            f"{field} must be RFC 3339 with an offset, such as 2026-01-31T12:00:00Z, or Unix nanoseconds, got"
            f" {value!r:.60}"
        )
    return time


def parse_revision(value: str, field: str = "If-Match") -> int | None:
    """The revision that an entity tag names, `"3"` or `3`; None for `*`, which is any."""
    tag = value.strip()
    if tag == "*":
        return None
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 1:
        tag = tag[1:-1]
    if not _INTEGER.fullmatch(tag) or tag.startswith("-"):
        raise InvalidInput(f'{field} must be one ETag such as "3", got {value!r:.60}')
    return int(tag)
