"""Points in the log, as users write them, and the sequences that they resolve to.

    2026-01-31T12:00:00Z    a time: all events up to that stream time (`now` is a time, too)
    2h, 1h30m, 3d           a time so long ago
    4711, 1a2b3c4d5e6f-4711 a sequence, or a cursor
    r3, revision:3          a revision of a job, in requests about one job

`parse_point` is pure and has no clock. `resolve_point` sends the log a few requests at most. HTTP API and
command line both use these two.
"""

import re
from typing import Final, NamedTuple

from jobledger.service.cursor import format_cursor, parse_cursor
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import INT_MAX
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339, parse_rfc3339

_FUTURE_MAX_NANOSECONDS: Final = 60 * NANOSECONDS_PER_SECOND  # the clocks of client and server may differ
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d|w))+", re.ASCII)
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d|w)", re.ASCII)
_POSITION: Final = re.compile(r"(?:[0-9a-f]{12}-)?[0-9]{1,19}", re.ASCII)
_REVISION: Final = re.compile(r"(?:r|revision:)([0-9]{1,19})", re.ASCII)
_FORMS: Final = (
    "an RFC 3339 time with a zone such as 2026-01-31T12:00:00Z, an age such as 2h, a sequence, or a cursor"
)


class SequencePoint(NamedTuple):
    """All events up to a sequence; 0 is before the first."""

    sequence: int


class TimePoint(NamedTuple):
    """All events up to a stream time, Unix nanoseconds, inclusive."""

    time: int


class RevisionPoint(NamedTuple):
    """All events up to the one that made a revision of the requested job."""

    revision: int


Point = SequencePoint | TimePoint | RevisionPoint


def parse_point(
    text: str,
    *,
    now: int,
    stream_tag: str = "",
    field: str = "at",
    revisions: bool = False,
    local: bool = False,
) -> Point:
    """Parse a point.

    Args:
        text: as the user wrote it.
        now: Unix nanoseconds; ages count back from it.
        stream_tag: the tag of the current stream, which a cursor must have; empty: cursors of any stream are
            accepted.
        field: the name in errors.
        revisions: whether revisions are allowed: the request is about one job.
        local: whether a time without a zone is local time (the command line); otherwise it is rejected.

    Raises:
        InvalidInput: it has another form.
        CursorGone: it is a cursor of another stream.
    """
    if _POSITION.fullmatch(text):
        own = text.rpartition("-")[2] if not stream_tag else text
        return SequencePoint(parse_cursor(own, stream_tag, field=field))
    revision = _REVISION.fullmatch(text)
    if revision is not None and int(revision[1]) <= INT_MAX:
        if not revisions:
            raise InvalidInput(f"invalid {field} {text!r:.60}: a revision needs a job; use {_FORMS}")
        return RevisionPoint(int(revision[1]))
    if text == "now":
        return TimePoint(now)
    ago = duration_seconds(text)
    if ago is not None:
        return TimePoint(max(0, now - round(ago * NANOSECONDS_PER_SECOND)))
    time = parse_rfc3339(text, local=local)
    if time is None:
        more = ", or a revision such as r3" if revisions else ""
        raise InvalidInput(f"invalid {field} {text!r:.60}: use {_FORMS}{more}")
    return TimePoint(time)


async def resolve_point(log: EventLog, point: Point, *, now: int, field: str = "at") -> int:
    """Return the sequence of the last event up to a point; 0 if it is before the first.

    A sequence beyond the end of the log and a time in the future are rejected, because events up to there may
    still arrive. A time after the last event includes all events so far.

    Args:
        log: to search.
        point: a sequence or a time; a revision needs the job.
        now: Unix nanoseconds.
        field: the name in errors.

    Raises:
        InvalidInput: the point is not in the log yet, or is a revision.
        LogUnavailable: the log does not answer.
    """
    match point:
        case TimePoint(time):
            if time > now + _FUTURE_MAX_NANOSECONDS:
                raise InvalidInput(f"{field} is {format_rfc3339(time)}, in the future; use a time up to now")
            # `now` includes all events, even if the server's clock is ahead of this one.
            return (await log.info()).last_sequence if time >= now else await log.sequence_at(time)
        case SequencePoint(sequence):
            if sequence and (last := (await log.info()).last_sequence) < sequence:
                raise InvalidInput(
                    f"{field} is the sequence {sequence}, beyond the end of the log; use one up to {last}"
                )
            return sequence
        case RevisionPoint(revision):
            raise InvalidInput(f"{field} is the revision {revision}, which needs a job; use {_FORMS}")


def pin(sequence: int, token: str, stream_tag: str) -> str:
    """Return a next token that keeps a point: an age in `at` would mean another one on the next page.

    Args:
        sequence: the point.
        token: of the next page; empty if there is none.
        stream_tag: the tag of the stream.
    """
    return f"{format_cursor(stream_tag, sequence)}.{token}" if token else ""


def unpin(text: str, stream_tag: str, *, field: str = "next_token") -> tuple[int | None, str]:
    """Return the point of a next token (None without one), and the token of the page.

    Raises:
        InvalidInput: it is not a token from a response.
        CursorGone: it is of another stream.
    """
    point, dot, token = text.partition(".")
    if not dot:
        return None, text
    return parse_cursor(point, stream_tag, field=field), token


def duration_seconds(text: str) -> float | None:
    """Parse a duration such as `90s`, `1h30m`, `500ms` or `2d`; None for any other text."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text))
