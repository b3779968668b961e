"""Label selectors with the Kubernetes grammar. Pure.

    selector     = [ requirement { "," requirement } ]            all must hold; empty: every job
    requirement  = key                            the label exists
                 | "!" key                        it does not exist
                 | key ( "=" | "==" ) [ value ]   it exists and has this value; `k=` means ""
                 | key "!=" [ value ]             it does not exist, or has another value
                 | key "in" list                  it exists, with one of these values; `in ()` means ("")
                 | key "notin" list               it does not exist, or has none of these values
                 | key ( ">" | "<" ) number       both are 64-bit integers, and it is greater (less)
    list         = "(" [ value ] { "," [ value ] } ")"

Labels of jobs are arbitrary text, so keys and values are less restricted than in Kubernetes: anything except
whitespace and `, ( ) = ! < >`. A label that contains one of these is selected with a `Requirement` built in
Python. `in` and `notin` are keywords only after a key. As in Kubernetes, `>` requires a number, and `gt` and
`lt` are not operators in text.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from jobledger.projections.errors import InvalidSelector
from jobledger.projections.limits import (
    SELECTOR_MAX_CHARACTERS,
    SELECTOR_MAX_REQUIREMENTS,
    SELECTOR_MAX_VALUES,
)
from jobledger.store.model.limits import INT_MAX, INT_MIN
from jobledger.store.spec.values import is_utf8

GRAMMAR: Final = "k, !k, k=v, k!=v, k>1, k<1, k in (a,b), k notin (a), joined by commas"

_SHOWN_CHARACTERS: Final = 60  # of invalid input, in a message
_TOKEN: Final = re.compile(r"\s*(==|!=|[=!<>,()]|[^\s,()=!<>]+)")
_SIGNS: Final = frozenset({"==", "!=", "=", "!", "<", ">", ",", "(", ")"})
_INTEGER: Final = re.compile(r"([+-]?)([0-9]+)")
_INT64_DIGITS: Final = 19  # of the largest; longer texts are out of range


class Operator(enum.StrEnum):
    """The operator of a requirement."""

    EXISTS = "exists"  # the label exists
    MISSING = "!"  # the label does not exist
    IN = "in"  # the label exists, with one of the values; also `=` and `==`
    NOT_IN = "notin"  # the label does not exist, or has none of the values; also `!=`
    GREATER = ">"  # the label exists, is an integer, and is greater than the value
    LESS = "<"  # the label exists, is an integer, and is less than the value

    @property
    def needs_key(self) -> bool:
        """Whether only jobs that have the label can match."""
        return self not in (Operator.MISSING, Operator.NOT_IN)


class Requirement(msgspec.Struct, frozen=True):
    """One condition on a job's labels.

    Attributes:
        key: of the label.
        operator: the test.
        values: none for existence tests, one for `>` and `<`, otherwise one or more, without duplicates.
    """

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Parse a selector; a blank one matches every job. `InvalidSelector` has the position and the grammar."""
    if len(text) > SELECTOR_MAX_CHARACTERS:
        raise InvalidSelector(
            f"the label selector must have at most {SELECTOR_MAX_CHARACTERS} characters, got {len(text)};"
            " use a shorter selector"
        )
    if not is_utf8(text):
        raise InvalidSelector(
            "the label selector is not valid Unicode text (half a surrogate pair); use UTF-8"
        )
    return check_requirements(_Parser(text).requirements())


def check_requirements(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Check requirements and return them."""
    checked = tuple(requirements)
    if len(checked) > SELECTOR_MAX_REQUIREMENTS:
        raise InvalidSelector(
            f"the label selector must have at most {SELECTOR_MAX_REQUIREMENTS} requirements,"
            f" got {len(checked)}; use fewer"
        )
    for requirement in checked:
        _check(requirement)
    return checked


def matches(requirements: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    """Whether labels meet all requirements."""
    return all(_holds(requirement, labels.get(requirement.key)) for requirement in requirements)


def parse_int64(text: str) -> int | None:
    """Parse a decimal 64-bit integer, with optional sign and leading zeros; None if it is not one."""
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    digits = found[2].lstrip("0") or "0"
    if len(digits) > _INT64_DIGITS:
        return None
    number = int(found[1] + digits)
    return number if INT_MIN <= number <= INT_MAX else None


def _holds(requirement: Requirement, value: str | None) -> bool:
    match requirement.operator:
        case Operator.EXISTS:
            return value is not None
        case Operator.MISSING:
            return value is None
        case Operator.IN:
            return value is not None and value in requirement.values
        case Operator.NOT_IN:
            return value is None or value not in requirement.values
    left, right = parse_int64(value) if value is not None else None, parse_int64(requirement.values[0])
    if left is None or right is None:
        return False
    return left > right if requirement.operator is Operator.GREATER else left < right


def _check(requirement: Requirement) -> None:
    key, operator, values = requirement.key, requirement.operator, requirement.values
    if len(values) > SELECTOR_MAX_VALUES:
        raise InvalidSelector(
            f"label {_shown(key)} must be compared with at most {SELECTOR_MAX_VALUES} values,"
            f" got {len(values)}; use fewer"
        )
    match operator:
        case Operator.EXISTS | Operator.MISSING:
            right = not values
        case Operator.GREATER | Operator.LESS:
            right = len(values) == 1
        case _:
            right = bool(values)
    if not right:
        raise InvalidSelector(
            f"label {_shown(key)}: operator {operator} does not accept {len(values)} values; use {GRAMMAR}"
        )
    if not all(map(is_utf8, (key, *values))):
        raise InvalidSelector(
            f"label {_shown(key)}: not valid Unicode text (half a surrogate pair); use UTF-8"
        )


class _Parser:
    """A recursive descent parser."""

    def __init__(self, text: str) -> None:
        self._text = text
        # Every character except trailing whitespace is part of a token, so nothing is skipped silently.
        self._tokens = [(found[1], found.start(1)) for found in _TOKEN.finditer(text)]
        self._next = 0

    def requirements(self) -> list[Requirement]:
        if not self._tokens:
            return []
        found = [self._requirement()]
        while self._next < len(self._tokens):
            self._take(",", "a comma, or the end")
            found.append(self._requirement())
        return found

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next += 1
            return Requirement(self._word("a key after the !"), Operator.MISSING)
        key = self._word("a key")
        match self._peek():
            case "" | ",":
                return Requirement(key, Operator.EXISTS)
            case "=" | "==":
                return Requirement(key, Operator.IN, self._one_value())
            case "!=":
                return Requirement(key, Operator.NOT_IN, self._one_value())
            case ">" | "<" as sign:
                return Requirement(key, Operator(sign), self._number())
            case "in" | "notin" as word:
                return Requirement(key, Operator(word), self._values())
            case _:
                raise self._error("an operator")

    def _one_value(self) -> tuple[str]:
        self._next += 1
        return ("",) if self._peek() in ("", ",") else (self._word("a value"),)

    def _number(self) -> tuple[str]:
        self._next += 1
        number = self._word("a number")
        if parse_int64(number) is None:
            self._next -= 1
            raise self._error("a 64-bit integer")
        return (number,)

    def _values(self) -> tuple[str, ...]:
        """A list in parentheses; an empty element, as in `(a,)` or `()`, is the empty value."""
        self._next += 1
        self._take("(", "a list of values in parentheses")
        values: list[str] = []
        while True:
            values.append("" if self._peek() in (",", ")") else self._word("a value, or a )"))
            if self._peek() == ")":
                self._next += 1
                return tuple(dict.fromkeys(values))
            self._take(",", "a comma, or a )")

    def _peek(self) -> str:
        """The next token; empty at the end."""
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _word(self, expected: str) -> str:
        token = self._peek()
        if not token or token in _SIGNS:
            raise self._error(expected)
        self._next += 1
        return token

    def _take(self, sign: str, expected: str) -> None:
        if self._peek() != sign:
            raise self._error(expected)
        self._next += 1

    def _error(self, expected: str) -> InvalidSelector:
        token = self._peek()
        place = self._tokens[self._next][1] if token else len(self._text)
        found = _shown(token) if token else "the end"
        return InvalidSelector(
            f"label selector {_shown(self._text)}: expected {expected} at character {place + 1},"
            f" found {found}; use {GRAMMAR}"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
