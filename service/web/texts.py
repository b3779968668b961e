"""Values as the pages show them. Pure."""

from typing import Any, Final

import msgspec

from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_DIGITS_MAX: Final = 18


def rfc3339(time_ns: int) -> str:
    """A time for the attribute `datetime`, which allows milliseconds."""
    return format_rfc3339(time_ns, digits=3)


def age(time_ns: int, now_ns: int) -> str:
    """The time since a moment, in its largest unit."""
    return span(max(0, now_ns - time_ns), units=1)


def span(nanoseconds: int, units: int = 2) -> str:
    """A duration in its largest units, such as `3 d 4 h`."""
    seconds = nanoseconds // NANOSECONDS_PER_SECOND
    if not seconds:
        return f"{nanoseconds // 1_000_000} ms" if nanoseconds >= 1_000_000 else "0 s"
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        number, seconds = divmod(seconds, size)
        if number or parts:
            parts.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in parts[:units] if number)


def count(number: int, limit: int | None = None) -> str:
    """A number with separators; with `+` if it reached a limit of counting."""
    return f"{limit:,}+" if limit is not None and number >= limit else f"{number:,}"


def plural(number: int, word: str, words: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def json_text(value: Any, indent: int = 2) -> str:
    """A value as JSON to read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()


def state_class(state: str) -> str:
    """The CSS class of a state."""
    return f"state state-{state.lower()}"


def whole_number(text: str) -> int | None:
    """A number that fits in 64 bits; None for other texts. `int` refuses thousands of digits."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    return int(text) if is_number else None
