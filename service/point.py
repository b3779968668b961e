"""Points in the log as people name them, and the sequences that they come to.

    2026-01-31T12:00:00Z    a time: all events that the stream took up to then (`now` is one, too)
    2h, 1h30m, 3d           so long ago: a time
    4711, 1a2b3c4d5e6f-4711 a sequence, or a cursor
    r3, revision:3          a revision of a job, where one job is asked about

`parse_point` is pure: it has no clock, and asks nobody. `resolve_point` asks the log, at most a few times.
All doors, of HTTP and of the command line, read points with these two.
"""

import re
from typing import Final, NamedTuple

from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import parse_rfc3339

_NANOSECONDS: Final = 1_000_000_000
_FUTURE_MAX_NANOSECONDS: Final = 60 * _NANOSECONDS  # the clocks of who asks and of the stream may differ
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d|w))+", re.ASCII)
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d|w)", re.ASCII)
_POSITION: Final = re.compile(r"(?:[0-9a-f]{12}-)?[0-9]{1,19}", re.ASCII)
_REVISION: Final = re.compile(r"(?:r|revision:)([0-9]{1,19})", re.ASCII)
_FORMS: Final = (
    "an RFC 3339 time with its zone, as 2026-01-31T12:00:00Z, an age as 2h, a sequence, or a cursor"
)


class SequencePoint(NamedTuple):
    """All events up to a sequence; 0 is before the first."""

    sequence: int


class TimePoint(NamedTuple):
    """All events that the stream took up to a time, Unix nanoseconds, that one included."""

    time: int


class RevisionPoint(NamedTuple):
    """All events up to the one that made a revision of the job that is asked about."""

    revision: int


Point = SequencePoint | TimePoint | RevisionPoint


def parse_point(
    text: str, *, now: int, mark: str = "", field: str = "at", revisions: bool = False, local: bool = False
) -> Point:
    """The point that a text names.

    Args:
        text: as the user wrote it.
        now: Unix nanoseconds, what ages count back from.
        mark: of the present stream, which a cursor must be of; empty: any cursor's number is taken.
        field: what to call it in the error.
        revisions: whether one job is asked about, so that a revision means something.
        local: whether a time without a zone is meant as this machine's clock shows it (the command line);
            else it is refused.

    Raises:
        InvalidInput: if it is none of the forms.
        CursorGone: if it is a cursor of another stream.
    """
    if _POSITION.fullmatch(text):
        own = text.rpartition("-")[2] if not mark else text
        return SequencePoint(parse_cursor(own, mark, field=field))
    revision = _REVISION.fullmatch(text)
    if revision is not None and int(revision[1]) <= INT_MAX:
        if not revisions:
            raise InvalidInput(f"{field} is {text!r:.60}; a revision is of one job: name {_FORMS}")
        return RevisionPoint(int(revision[1]))
    if text == "now":
        return TimePoint(now)
    ago = duration_seconds(text)
    if ago is not None:
        return TimePoint(max(0, now - round(ago * _NANOSECONDS)))
    time = parse_rfc3339(text, local=local)
    if time is None:
        more = ", or a revision as r3" if revisions else ""
        raise InvalidInput(f"{field} is {text!r:.60}; use {_FORMS}{more}")
    return TimePoint(time)


async def resolve_point(log: EventLog, point: Point, *, now: int, field: str = "at") -> int:
    """The sequence of the last event that a point holds; 0 if it is before the first.

    A sequence beyond the end of the log is refused, and so is a time that has not come yet: what will be
    there then, nobody knows. A time behind the last event holds all events so far.

    Args:
        log: what the point is in.
        point: not a revision: that takes the job.
        now: Unix nanoseconds.
        field: what to call it in the error.

    Raises:
        InvalidInput: if the point is not in the log yet, or is a revision.
        LogUnavailable: if the log does not answer.
    """
    match point:
        case TimePoint(time):
            if time > now + _FUTURE_MAX_NANOSECONDS:
                raise InvalidInput(f"{field} is a time that has not come yet; use one up to now")
            # `now` is all there is, also where the server's clock is ahead of this one.
            return (await log.info()).last_sequence if time >= now else await log.sequence_at(time)
        case SequencePoint(sequence):
            if sequence and (last := (await log.info()).last_sequence) < sequence:
                raise InvalidInput(
                    f"{field} is the sequence {sequence}, and the log ends at {last}; use one up to that"
                )
            return sequence
        case RevisionPoint(revision):
            raise InvalidInput(f"{field} is the revision {revision}, which is of one job; use {_FORMS}")


def pin(sequence: int, token: str, mark: str) -> str:
    """A next token that stays on a point, whatever `at` said of it: an age would mean another one by now.

    Args:
        sequence: the point.
        token: where the next page begins; empty: there is none, nor a token.
        mark: of the stream.
    """
    return f"{format_cursor(mark, sequence)}.{token}" if token else ""


def unpin(text: str, mark: str, *, field: str = "next_token") -> tuple[int | None, str]:
    """The point that a next token stays on (None: it is of the present), and where its page begins.

    Raises:
        InvalidInput: if it is no token of ours.
        CursorGone: if it is of another stream.
    """
    point, dot, token = text.partition(".")
    if not dot:
        return None, text
    return parse_cursor(point, mark, field=field), token


def duration_seconds(text: str) -> float | None:
    """A duration with its units, such as `90s`, `1h30m`, `500ms` or `2d`, in seconds; None if it is none."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text))
