"""Points in the log: one grammar for API and command line, and the sequences they resolve to."""

from contextlib import suppress
from datetime import datetime

import click
import pytest
from hypothesis import example, given, strategies as st

from jobledger import MemoryLog
from jobledger.service.cli.times import PointText
from jobledger.service.cursor import format_cursor, stream_tag
from jobledger.service.errors import CursorGone
from jobledger.service.point import (
    Point,
    RevisionPoint,
    SequencePoint,
    TimePoint,
    parse_point,
    resolve_point,
)
from jobledger.store.log import NO_JOB, EventLog
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import format_rfc3339, parse_rfc3339
from tests.support.logs import draft

MARK = stream_tag("2026-01-01T00:00:00Z")
SECOND = 1_000_000_000
NOW = 1_770_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("0", SequencePoint(0)),
        ("4711", SequencePoint(4711)),
        (format_cursor(MARK, 12), SequencePoint(12)),
        ("r3", RevisionPoint(3)),
        ("revision:3", RevisionPoint(3)),
        ("now", TimePoint(NOW)),
        ("2h", TimePoint(NOW - 7_200 * SECOND)),
        ("1h30m", TimePoint(NOW - 5_400 * SECOND)),
        ("500ms", TimePoint(NOW - SECOND // 2)),
        ("999999999w", TimePoint(0)),
        ("1970-01-01T00:00:01Z", TimePoint(SECOND)),
        ("1970-01-01T02:00:01.000000005+02:00", TimePoint(SECOND + 5)),
        ("1970-01-01T02:00:01 02:00", TimePoint(SECOND)),
    ],
)
def test_each_form_of_a_point_is_parsed(text: str, point: Point) -> None:
    """Times with a zone, ages, sequences, cursors, and revisions in requests about one job."""
    assert parse_point(text, now=NOW, stream_tag=MARK, revisions=True) == point


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "-1", "5-", "1.5", "2x", "r", "r-1", "yesterday", "h2", "NOW", "٣", " 5", "\ud800"),
        *("2026-01-31", "2026-01-31T12:00:00", "2026-13-01T00:00:00Z", str(2**63), f"r{2**63}"),
    ],
)
def test_an_invalid_point_is_rejected(text: str) -> None:
    """The message has the field and the forms; a time without a zone is ambiguous."""
    with pytest.raises(InvalidInput, match="until"):
        parse_point(text, now=NOW, stream_tag=MARK, field="until", revisions=True)


def test_a_revision_needs_a_job() -> None:
    """In other requests the message says so."""
    with pytest.raises(InvalidInput, match="a revision needs a job"):
        parse_point("r3", now=NOW)


def test_a_cursor_of_another_stream_is_rejected() -> None:
    """Without a known stream its number is used."""
    other = format_cursor(stream_tag("2026-01-02T00:00:00Z"), 5)
    with pytest.raises(CursorGone, match="belongs to another stream"):
        parse_point(other, now=NOW, stream_tag=MARK)
    assert parse_point(other, now=NOW) == SequencePoint(5)


def test_a_local_time_is_accepted_on_request() -> None:
    """The command line uses the local clock."""
    day = int(datetime(2026, 1, 31).astimezone().timestamp())
    assert parse_point("2026-01-31", now=NOW, local=True) == TimePoint(day * SECOND)
    assert parse_point("2026-01-31 01:00", now=NOW, local=True) == TimePoint((day + 3_600) * SECOND)


@given(st.integers(min_value=0, max_value=4_102_444_800_000_000_000))
@example(2**62)
def test_a_time_keeps_every_nanosecond(nanoseconds: int) -> None:
    """A formatted stream time is parsed back unchanged."""
    assert parse_rfc3339(format_rfc3339(nanoseconds)) == nanoseconds


@given(st.text(max_size=40))
@example("9999-12-31T23:59:59-23:59")
@example("0001-01-01T00:00:00+23:59")
@example("0001-01-01")
def test_arbitrary_text_is_a_point_or_rejected(text: str) -> None:
    """No other exception is raised."""
    with suppress(InvalidInput, CursorGone):
        parse_point(text, now=NOW, stream_tag=MARK, revisions=True, local=True)


def test_the_command_line_sends_absolute_times() -> None:
    """Ages and local times are sent as RFC 3339, other texts unchanged."""
    kind = PointText(revisions=True)
    for text in ("", "r3", "17", "now", format_cursor(MARK, 5)):
        assert kind.convert(text, None, None) == text
    assert parse_rfc3339(kind.convert("2h", None, None)) is not None
    sent = parse_rfc3339(kind.convert("2026-01-31", None, None))
    assert sent == int(datetime(2026, 1, 31).astimezone().timestamp()) * SECOND
    for wrong in ("soon", "0001-01-01"):
        with pytest.raises(click.BadParameter):
            kind.convert(wrong, None, None)


async def test_a_time_resolves_to_the_last_event_up_to_it(log: EventLog) -> None:
    """An event of that nanosecond is included, the next one is not; before the first it is 0."""
    assert await log.sequence_at(NOW) == 0
    for number in range(4):
        await log.append(draft(f"job-{number}"), expect=NO_JOB)
    times = [record.time for sequence in range(1, 5) if (record := await log.read_at(sequence))]
    for number, time in enumerate(times, start=1):
        assert await log.sequence_at(time) == number
        assert await log.sequence_at(time - 1) == number - 1
    for late in (times[-1] + 1, 2**63 - 3, 2**63 - 2, 2**63 - 1, 2**64):
        assert await log.sequence_at(late) == 4
    assert await log.sequence_at(0) == await log.sequence_at(-1) == 0


async def test_points_in_the_future_are_rejected() -> None:
    """A sequence beyond the end, a future time; a minute is allowed for clock differences."""
    log = MemoryLog(clock=lambda: NOW)
    await log.append(draft(), expect=NO_JOB)
    assert await resolve_point(log, SequencePoint(1), now=NOW) == 1
    assert await resolve_point(log, SequencePoint(0), now=NOW) == 0
    assert await resolve_point(log, TimePoint(NOW + 60 * SECOND), now=NOW) == 1
    assert await resolve_point(log, TimePoint(NOW - 1), now=NOW) == 0
    with pytest.raises(InvalidInput, match="the log; use one up to 1"):
        await resolve_point(log, SequencePoint(2), now=NOW)
    with pytest.raises(InvalidInput, match="in the future"):
        await resolve_point(log, TimePoint(NOW + 60 * SECOND + 1), now=NOW)
    with pytest.raises(InvalidInput, match="needs a job"):
        await resolve_point(log, RevisionPoint(1), now=NOW)
