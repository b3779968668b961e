"""Ages, durations and times: parameter types of options, and how tables show them."""

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

import click

from jobledger.service.point import TimePoint, duration_seconds, parse_point
from jobledger.store.model.errors import JobledgerError
from jobledger.store.timestamps import (
    NANOSECONDS_PER_SECOND,
    coarser_unit,
    format_rfc3339,
    parse_rfc3339,
)

_NUMBER: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{10,19}", re.ASCII)
# The limit up to which each unit is used: `95s` is more precise than `1m`.
_AGES: Final = ((120, 1, "s"), (7_200, 60, "m"), (172_800, 3_600, "h"), (63_072_000, 86_400, "d"))
_YEAR_SECONDS: Final = 31_536_000


def age(then: int, now: int) -> str:
    """The time between two Unix times in nanoseconds, in one unit: `12s`, `5m`, `3h`, `9d`, `2y`."""
    seconds = max(0, now - then) // NANOSECONDS_PER_SECOND
    for below, unit, letter in _AGES:
        if seconds < below:
            return f"{seconds // unit}{letter}"
    return f"{seconds // _YEAR_SECONDS}y"


def exact(nanoseconds: int) -> str:
    """A Unix time in nanoseconds as local time: `2026-01-31 12:00:00 +0100`."""
    moment = datetime.fromtimestamp(nanoseconds // NANOSECONDS_PER_SECOND, UTC)
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %z}"


def exact_of(wire: object) -> str:
    """An RFC 3339 time as local time; `-` if it is not a time."""
    moment = parse_rfc3339(wire) if isinstance(wire, str) and wire else None
    return "-" if moment is None else exact(moment)


def nanoseconds_of(text: str) -> int:
    """An RFC 3339 time as Unix nanoseconds; 0 if it is not a time."""
    return parse_rfc3339(text) or 0


def seconds_of(text: str) -> float | None:
    """A duration such as `90`, `90s`, `1h30m`, `500ms` or `2d` in seconds; None if it is invalid."""
    if _NUMBER.fullmatch(text):
        return float(text)
    return duration_seconds(text)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A duration, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the duration."""
        seconds = value if isinstance(value, float) else seconds_of(str(value))
        if seconds is None:
            self.fail(f"invalid duration {value!r}: use 30s, 5m, 1h30m, or a number of seconds", param, ctx)
        return seconds


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A time, as Unix nanoseconds; an age such as `2h` counts back from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the time or age."""
        text = str(value)
        if _INTEGER.fullmatch(text):
            if unit := coarser_unit(int(text)):
                hint = "use Unix nanoseconds, or a time such as 2026-01-31T12:00:00Z"
                self.fail(f"{text} looks like {unit}; {hint}", param, ctx)
            return int(text)
        ago = None if _NUMBER.fullmatch(text) else seconds_of(text)
        if ago is not None:
            return time.time_ns() - round(ago * NANOSECONDS_PER_SECOND)
        moment = parse_rfc3339(text, local=True)
        if moment is None:
            self.fail(
                f"invalid time {value!r}: use 2026-01-31, 2026-01-31T12:00:00Z, an age such as 2h or 3d,"
                " or Unix nanoseconds",
                param,
                ctx,
            )
        return moment


class PointText(click.ParamType):  # type: ignore[type-arg]
    """A point in the log; times and ages become RFC 3339, so that all pages of a list use the same time."""

    name = "point"

    def __init__(self, *, revisions: bool = False) -> None:
        self._revisions = revisions

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the point."""
        text, field = str(value), param.opts[-1] if param is not None else "at"
        if not text:
            return text
        try:
            point = parse_point(text, now=time.time_ns(), field=field, revisions=self._revisions, local=True)
            return format_rfc3339(point.time) if isinstance(point, TimePoint) and text != "now" else text
        except (JobledgerError, ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)
