"""Label selectors: the Kubernetes grammar, read into requirements that a job's labels meet or do not. Pure.

    selector     = [ requirement { "," requirement } ]            all of them must hold; none: every job
    requirement  = key                            the label is there
                 | "!" key                        it is not
                 | key ( "=" | "==" ) [ value ]   it is there and has this value; `k=` means ""
                 | key "!=" [ value ]             it is missing, or has another value
                 | key "in" list                  it is there, with one of these values; `in ()` means ("")
                 | key "notin" list               it is missing, or has none of these values
                 | key ( ">" | "<" ) number       both are 64-bit integers, and it is above (below)
    list         = "(" [ value ] { "," [ value ] } ")"

A job's labels are arbitrary text, so keys and values are taken more generously than Kubernetes does: anything
but whitespace and `, ( ) = ! < >`. A label with one of those in its key or value can be found by a
`Requirement` built in Python, not by text. `in` and `notin` are words of the grammar only behind a key. That
`>` needs a number is Kubernetes's rule; the words `gt` and `lt` are no operators in text, there as here.
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

_SHOWN_CHARACTERS: Final = 60  # of what is wrong, in a message
_TOKEN: Final = re.compile(r"\s*(==|!=|[=!<>,()]|[^\s,()=!<>]+)")
_SIGNS: Final = frozenset({"==", "!=", "=", "!", "<", ">", ",", "(", ")"})
_INTEGER: Final = re.compile(r"([+-]?)([0-9]+)")
_INT64_DIGITS: Final = 19  # of the largest; longer texts need no parsing to be out of range


class Operator(enum.StrEnum):
    """What a requirement asks of the label of its key."""

    EXISTS = "exists"  # it is there
    MISSING = "!"  # it is not
    IN = "in"  # it is there, with one of the values; also `=` and `==`
    NOT_IN = "notin"  # it is missing, or has none of the values; also `!=`
    GREATER = ">"  # it is there, an integer, and above the value
    LESS = "<"  # it is there, an integer, and below the value

    @property
    def needs_key(self) -> bool:
        """Whether only jobs that have the label can match."""
        return self not in (Operator.MISSING, Operator.NOT_IN)


class Requirement(msgspec.Struct, frozen=True):
    """One condition on a job's labels.

    Attributes:
        key: the label's key.
        operator: what is asked of it.
        values: none for presence tests, one for `>` and `<`, else one or more, without repetition.
    """

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """The requirements of a selector; none for a blank one, which every job meets.

    Raises:
        InvalidSelector: if it does not parse or breaks a limit; the message names the place and the grammar.
    """
    if len(text) > SELECTOR_MAX_CHARACTERS:
        raise InvalidSelector(
            f"the label selector is {len(text)} characters; the limit is {SELECTOR_MAX_CHARACTERS}:"
            " ask for less at once"
        )
    if not is_utf8(text):
        raise InvalidSelector(
            "the label selector is not valid text (half a surrogate pair); write it in UTF-8"
        )
    return check_requirements(_Parser(text).requirements())


def check_requirements(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """The requirements, if they are within the limits and say as many values as their operators take.

    Raises:
        InvalidSelector: if not.
    """
    checked = tuple(requirements)
    if len(checked) > SELECTOR_MAX_REQUIREMENTS:
        raise InvalidSelector(
            f"the label selector has {len(checked)} requirements; the limit is {SELECTOR_MAX_REQUIREMENTS}:"
            " ask for fewer at once"
        )
    for requirement in checked:
        _check(requirement)
    return checked


def matches(requirements: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    """Whether labels meet all requirements."""
    return all(_holds(requirement, labels.get(requirement.key)) for requirement in requirements)


def parse_int64(text: str) -> int | None:
    """The text as a 64-bit integer in decimal; a sign and leading zeros may be there. None if it is none."""
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
            f"label {_shown(key)} is compared with {len(values)} values; the limit is {SELECTOR_MAX_VALUES}:"
            " ask for fewer at once"
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
            f"label {_shown(key)}: {operator} does not take {len(values)} values; write {GRAMMAR}"
        )
    if not all(map(is_utf8, (key, *values))):
        raise InvalidSelector(
            f"label {_shown(key)}: not valid text (half a surrogate pair); write it in UTF-8"
        )


class _Parser:
    """A cursor over the tokens of one selector."""

    def __init__(self, text: str) -> None:
        self._text = text
        # Every character but trailing whitespace is part of some token, so nothing is skipped in silence.
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
            return Requirement(self._word("a key behind the !"), Operator.MISSING)
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
        """A list in parentheses; an empty place in it, as in `(a,)` or `()`, is the empty value."""
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
            f" found {found}; write {GRAMMAR}"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
