"""The definition of a subscription is stored once, compared afterwards, and validated."""

from datetime import UTC, datetime

import pytest

from jobledger import (
    InvalidInput,
    JetStreamLog,
    MemoryLog,
    subscribe,
)
from jobledger.store.log import stream_tag
from tests.support.log_writer import Writer
from tests.support.readers import sequences, take


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Four rounds of five jobs."""
    writer = Writer(jetstream_log, 5)
    for _ in range(4):
        await writer.round()
    return writer


async def test_each_start_is_resolved(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """The beginning, a sequence, a cursor, a time, now: a new subscription starts there."""
    info = await jetstream_log.info()
    at = await jetstream_log.read_at(15)
    assert at is not None
    time = datetime.fromtimestamp(at.time // 1_000 / 1e6, UTC)
    mark = stream_tag(info.epoch)
    starts: list[tuple[str | int | datetime, int | None]] = [
        ("beginning", 1),
        (4, 5),
        (f"{mark}-6", 7),
        ("7", 8),
        (time, None),
    ]
    for number, (start, first) in enumerate(starts):
        async with subscribe(jetstream_log, f"start-{number}", start=start) as events:
            (event,) = await take(events, 1)
            if first is None:
                assert event.time >= int(time.timestamp() * 1e6) * 1_000
                assert event.sequence <= 15
            else:
                assert event.sequence == first
    async with subscribe(jetstream_log, "start-now", start="now") as events:
        await writer.round()
        assert sequences(await take(events, 5)) == list(range(21, 26))


async def test_now_is_when_it_was_first_opened(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """A subscription from now misses no event written after it was first opened."""
    async with subscribe(jetstream_log, "since", start="now"):
        pass
    await writer.round()
    async with subscribe(jetstream_log, "since", start="now") as events:
        assert sequences(await take(events, 5)) == list(range(21, 26))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("yesterday", "invalid start"),
        (21, "beyond the end"),
        ("0123456789ab-3", "another stream"),
        ("2026-01-01T00:00:00", "invalid start"),
    ],
)
@pytest.mark.usefixtures("writer")
async def test_an_invalid_start_is_refused(
    jetstream_log: JetStreamLog, start: str | int, message: str
) -> None:
    """A start that names no position of this log is an error, and nothing is created."""
    with pytest.raises(InvalidInput, match=message):
        async with subscribe(jetstream_log, "nowhere", start=start):
            pass
    assert await jetstream_log.consumers().list() == []


@pytest.mark.usefixtures("writer")
async def test_another_definition_is_refused(jetstream_log: JetStreamLog) -> None:
    """The same name with another filter, start or sharing is an error that names the field."""
    async with subscribe(jetstream_log, "mine", types=("state", "created")):
        pass
    async with subscribe(jetstream_log, "mine", types=("created", "state")):  # the order says nothing
        pass
    for field, how in {
        "namespace": {"namespace": "other"},
        "types": {"types": ("state",)},
        "start": {"types": ("state", "created"), "start": "now"},
        "members": {"types": ("state", "created"), "members": 2, "member": 1},
        "labels": {"types": ("state", "created"), "labels": "team=a"},
    }.items():
        with pytest.raises(InvalidInput, match=f"exists with {field} "):
            async with subscribe(jetstream_log, "mine", **how):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"name": "no spaces"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "billing-1of4"}, "not ending like"),
        ({"members": 4}, "member"),
        ({"members": 4, "member": 5}, "member"),
        ({"members": 33, "member": 1}, "members"),
        ({"elastic": True, "members": 2, "member": 1}, "exclude"),
        ({"elastic": True, "job": "j-1"}, "job excludes"),
        ({"name": "", "elastic": True}, "need a name"),
        ({"retries": -1}, "retries"),
        ({"retries": 101}, "retries"),
        ({"types": ["stat"]}, "unknown event type"),
        ({"states": ["Sleeping"]}, "unknown state"),
        ({"labels": "a=("}, "selector"),
        ({"namespace": "\ud800"}, "invalid namespace .* UTF-8"),
        ({"job": "\ud800"}, "invalid job .* UTF-8"),
        ({"start": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001 - that is the point
        ({"start": -1}, "invalid start -1"),
    ],
)
async def test_invalid_arguments_are_named(how: dict[str, object], message: str) -> None:
    """Before anything is requested from a server."""
    with pytest.raises(InvalidInput, match=message):
        subscribe(MemoryLog(), **{"name": "right", **how})  # type: ignore[arg-type]
