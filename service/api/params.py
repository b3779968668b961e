"""Query parameters and headers, read forgivingly as Bacalhau's clients send them. Pure.

An empty value is an absent one (`next_token=`), `True` and `1` are true, and a key that nobody knows is
ignored (`node_id=`): clients send what they know. A value that can't be understood is refused, by name.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl

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
        query_string: as it came, undecoded.
    """

    def __init__(self, query_string: bytes) -> None:
        self._values: dict[str, list[str]] = {}
        if not query_string:
            return
        try:
            # Latin-1 takes every byte; what is percent-encoded is decoded as UTF-8.
            pairs = parse_qsl(
                query_string.decode("latin-1"), max_num_fields=QUERY_MAX_PARAMETERS, errors="strict"
            )
        except UnicodeDecodeError:
            raise InvalidInput("the query is not UTF-8; percent-encode it as UTF-8") from None
        except ValueError:
            raise InvalidInput(
                f"the query has more than {QUERY_MAX_PARAMETERS} parameters; send fewer"
            ) from None
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        """The value; empty if absent. If it was sent several times, the last."""
        values = self._values.get(name)
        return values[-1] if values else ""

    def texts(self, name: str) -> list[str]:
        """All values, however sent: repeated, or with commas between."""
        return [
            part for value in self._values.get(name, ()) for part in map(str.strip, value.split(",")) if part
        ]

    def repeated(self, name: str) -> list[str]:
        """All values of a parameter in which a comma means something else."""
        return self._values.get(name, [])

    def flag(self, name: str) -> bool:
        """Whether it is said to be true; absent is false. `name` alone, without a value, is not sent on."""
        value = self.text(name).lower()
        if value in _TRUE:
            return True
        if value and value not in _FALSE:
            raise InvalidInput(f"{name} is {value!r:.60}; use true or false")
        return False

    def integer(self, name: str, default: int, *, least: int = 0, most: int = INT_MAX) -> int:
        """A whole number within bounds."""
        value = self.text(name)
        if not value:
            return default
        if not _INTEGER.fullmatch(value) or not least <= int(value) <= most:
            raise InvalidInput(f"{name} is {value!r:.60}; use a whole number from {least} to {most}")
        return int(value)

    def seconds(self, name: str, default: float, *, most: float) -> float:
        """A duration such as `5`, `5s`, `500ms` or `1m`, in seconds."""
        value = self.text(name)
        if not value:
            return default
        found = _DURATION.fullmatch(value)
        seconds = float(found[1]) * _UNIT_SECONDS[found[2]] if found else -1.0
        if not 0 <= seconds <= most:
            raise InvalidInput(f"{name} is {value!r:.60}; use a duration up to {most:g}s, as `5s` or `500ms`")
        return seconds

    def time(self, name: str) -> int | None:
        """A time, RFC 3339 or Unix nanoseconds, as Unix nanoseconds; None if absent."""
        value = self.text(name)
        return parse_time(value, name) if value else None

    def states(self, name: str = "state") -> tuple[StateType, ...]:
        """States by name, in any case."""
        return tuple(parse_state(value, name) for value in self.texts(name))


def parse_state(value: str, field: str) -> StateType:
    """A state by its name, in any case.

    Raises:
        InvalidInput: if there is none of that name.
    """
    found = _STATES.get(value.lower())
    if found is None:
        raise InvalidInput(f"{field}: {value!r:.60} is not a state; use one of {', '.join(StateType)}")
    return found


def parse_time(value: str, field: str) -> int:
    """RFC 3339 (with an offset) or whole Unix nanoseconds, as Unix nanoseconds.

    Raises:
        InvalidInput: if it is neither, or a number that is more likely seconds, milliseconds or microseconds.
    """
    if _INTEGER.fullmatch(value):
        number = int(value)
        if unit := coarser_unit(number):
            raise InvalidInput(
                f"{field} is {number}, which looks like {unit}; send Unix nanoseconds, or RFC 3339 as"
                " 2026-01-31T12:00:00Z"
            )
        return number
    time = parse_rfc3339(value)
    if time is None:
        raise InvalidInput(
            f"{field} is {value!r:.60}; use RFC 3339 with an offset, as 2026-01-31T12:00:00Z, or Unix"
            " nanoseconds"
        )
    return time


def parse_revision(value: str, field: str = "If-Match") -> int | None:
    """The revision that an entity tag names: `"3"` (or 3); `*` is any, None.

    Raises:
        InvalidInput: if it is not one tag of ours.
    """
    tag = value.strip()
    if tag == "*":
        return None
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 1:
        tag = tag[1:-1]
    if not _INTEGER.fullmatch(tag) or tag.startswith("-"):
        raise InvalidInput(f'{field} is {value!r:.60}; pass one ETag as it was given, as "3"')
    return int(tag)


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """A header's value; empty if absent.

    Args:
        headers: of the request, as ASGI has them.
        name: in lower case.
    """
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return ""


def sent_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header's value; None if it was not sent.

    Raises:
        InvalidInput: if it was sent empty: a condition that was lost on the way must not count as none.
    """
    for key, value in headers:
        if key == name:
            if not value.strip():
                raise InvalidInput(f"the header {name.decode()} is empty; give it a value, or leave it out")
            return value.decode("latin-1")
    return None


def lower_keys(body: Mapping[str, object]) -> dict[str, object]:
    """A request's body with its own keys in lower case: Bacalhau's are read in any case."""
    return {key.lower(): value for key, value in body.items()}
