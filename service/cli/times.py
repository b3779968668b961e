"""Times as people say and read them: ages, durations, moments."""

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

import click

from jobledger.service.point import TimePoint, duration_seconds, parse_point
from jobledger.store.model.errors import JobledgerError
from jobledger.store.timestamps import coarser_unit, format_rfc3339, parse_rfc3339

_NANOSECONDS: Final = 1_000_000_000
_NUMBER: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{10,19}", re.ASCII)
# Up to how many of a unit are said in it: `95s` says more than `1m`.
_AGES: Final = ((120, 1, "s"), (7_200, 60, "m"), (172_800, 3_600, "h"), (63_072_000, 86_400, "d"))
_YEAR_SECONDS: Final = 31_536_000


def age(then: int, now: int) -> str:
    """How long ago, in one unit: `12s`, `5m`, `3h`, `9d`, `2y`. Both are Unix nanoseconds."""
    seconds = max(0, now - then) // _NANOSECONDS
    for below, unit, letter in _AGES:
        if seconds < below:
            return f"{seconds // unit}{letter}"
    return f"{seconds // _YEAR_SECONDS}y"


def exact(nanoseconds: int) -> str:
    """A moment in the reader's time zone, to the second: `2026-01-31 12:00:00 +0100`."""
    return f"{datetime.fromtimestamp(nanoseconds // _NANOSECONDS, UTC).astimezone():%Y-%m-%d %H:%M:%S %z}"


def exact_of(wire: object) -> str:
    """The same of RFC 3339; `-` without a time."""
    moment = parse_rfc3339(wire) if isinstance(wire, str) and wire else None
    return "-" if moment is None else exact(moment)


def seconds_of(text: str) -> float | None:
    """A duration such as `90`, `90s`, `1h30m`, `500ms` or `2d` in seconds; None if it is none."""
    if _NUMBER.fullmatch(text):
        return float(text)
    return duration_seconds(text)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """An option's duration, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        seconds = value if isinstance(value, float) else seconds_of(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no duration; write 30s, 5m, 1h30m, or a number of seconds", param, ctx)
        return seconds


class Moment(click.ParamType):  # type: ignore[type-arg]
    """An option's moment, as Unix nanoseconds; an age such as `2h` counts back from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        text = str(value)
        if _INTEGER.fullmatch(text):
            if unit := coarser_unit(int(text)):
                hint = "write Unix nanoseconds, or a time such as 2026-01-31T12:00:00Z"
                self.fail(f"{text} looks like {unit}; {hint}", param, ctx)
            return int(text)
        ago = None if _NUMBER.fullmatch(text) else seconds_of(text)
        if ago is not None:
            return time.time_ns() - round(ago * _NANOSECONDS)
        moment = parse_rfc3339(text, local=True)
        if moment is None:
            self.fail(
                f"{value!r} is no time; write 2026-01-31, 2026-01-31T12:00:00Z, an age such as 2h or 3d,"
                " or Unix nanoseconds",
                param,
                ctx,
            )
        return moment


class PointText(click.ParamType):  # type: ignore[type-arg]
    """An option's point in the log, checked and as the service reads it: times and ages become RFC 3339.

    So all pages of one answer mean the same moment.
    """

    name = "point"

    def __init__(self, *, revisions: bool = False) -> None:
        self._revisions = revisions

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it; an empty text is none, as an empty parameter is to the service."""
        text, field = str(value), param.opts[-1] if param is not None else "at"
        if not text:
            return text
        try:
            point = parse_point(text, now=time.time_ns(), field=field, revisions=self._revisions, local=True)
            return format_rfc3339(point.time) if isinstance(point, TimePoint) and text != "now" else text
        except (JobledgerError, ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)
