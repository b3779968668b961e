"""RFC 3339 timestamps as Unix nanoseconds, the unit of every time in the log and the view."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

NANOSECONDS_PER_SECOND: Final = 1_000_000_000

_UNIX_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_FRACTION: Final = re.compile(r"\.(\d+)", re.ASCII)

# The least number of nanoseconds that is more likely a time in another unit.
_COARSER_UNITS: Final = (("", 10**17), ("microseconds", 10**14), ("milliseconds", 10**11), ("seconds", 10**8))


def format_rfc3339(time_ns: int, *, digits: int = 9) -> str:
    """Return a time as RFC 3339 in UTC.

    Args:
        time_ns: Unix nanoseconds.
        digits: decimals of the second, 0 to 9; further ones are cut off. Nine lose nothing.
    """
    seconds, rest = divmod(time_ns, NANOSECONDS_PER_SECOND)
    if digits == 9:
        return f"{_format_second(seconds)}.{rest:09d}Z"
    if not digits:
        return f"{_format_second(seconds)}Z"
    return f"{_format_second(seconds)}.{rest:09d}"[: digits - 9] + "Z"


@lru_cache(maxsize=1_024)  # many events share a second, and this is half of the cost of formatting
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def parse_rfc3339(text: str, *, local: bool = False) -> int | None:
    """Return a time as Unix nanoseconds, with all nine decimals; None if it is not a time.

    Args:
        text: RFC 3339, or another form of ISO 8601 with date and zone; `t` and `z` may be lower case.
        local: accept a time without a zone as local time.
    """
    text = text.upper()
    fraction = _FRACTION.search(text)
    whole = _FRACTION.sub("", text, count=1) if fraction else text
    if "T" in whole:  # otherwise the space is the separator of date and time
        whole = whole.replace(" ", "+")  # a `+` that was not percent-encoded arrives as a space
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError:
        return None
    if moment.tzinfo is None and not local:
        return None
    with suppress(OverflowError, ValueError):  # the zone moves the time out of the years 1 to 9999
        since = (moment if moment.tzinfo is not None else moment.astimezone()) - _UNIX_EPOCH
        seconds = since.days * 86_400 + since.seconds
        return seconds * NANOSECONDS_PER_SECOND + (int(f"{fraction[1]:0<9.9}") if fraction else 0)
    return None


def coarser_unit(number: int) -> str:
    """Return the unit that a number passed as Unix nanoseconds is likely in; empty if it can be nanoseconds.

    Nanoseconds of any time since March 1973 have 18 or 19 digits; seconds have 9 or 10.
    """
    magnitude = abs(number)
    for unit, least in _COARSER_UNITS:
        if magnitude >= least:
            return unit
    return ""
