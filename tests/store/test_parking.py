"""Records beside the log: written on a condition, read back, removed, heard of by who looks for changes."""

import base64

import pytest

from jobledger import EmbeddedServer, InvalidInput, JetStreamLog, LogUnfit
from jobledger.store.jetstream.parking import JetStreamRecords
from jobledger.store.keys import NO_ENTRY, Entry
from jobledger.store.model.limits import RECORD_MAX_BYTES, RECORD_REMOVED_SECONDS
from tests.support.logs import ask


@pytest.fixture
async def records(jetstream_log: JetStreamLog) -> JetStreamRecords:
    """The records beside a log."""
    return await jetstream_log.records()


async def test_what_is_put_is_got(records: JetStreamRecords) -> None:
    """A record stands under its key, and under no other one."""
    entry = await records.put("parked.a.j-1", b"one", expect=NO_ENTRY)
    assert entry is not None
    assert await records.get("parked.a.j-1") == entry == Entry(b"one", entry.revision)
    assert await records.get("parked.a.j-2") is None


async def test_a_wrong_expectation_writes_nothing(records: JetStreamRecords) -> None:
    """Who expects another record learns which one stands there; the same call again has the same answer."""
    first = await records.put("parked.a.j", b"one", expect=NO_ENTRY)
    assert first is not None
    for _ in range(2):
        assert await records.put("parked.a.j", b"two", expect=NO_ENTRY) == first
    second = await records.put("parked.a.j", b"two", expect=first.revision)
    assert second is not None
    assert await records.put("parked.a.j", b"two", expect=first.revision) == second
    assert not await records.remove("parked.a.j", expect=first.revision)
    assert await records.get("parked.a.j") == second


async def test_a_removed_record_is_gone(records: JetStreamRecords) -> None:
    """Removed it is as if it had never been: for who reads, and for who writes it anew."""
    first = await records.put("parked.a.j", b"one", expect=NO_ENTRY)
    assert first is not None
    for _ in range(2):
        assert await records.remove("parked.a.j", expect=first.revision)
    assert await records.get("parked.a.j") is None
    assert await records.put("parked.a.j", b"two", expect=first.revision) is None
    again = await records.put("parked.a.j", b"two", expect=NO_ENTRY)
    assert again is not None
    assert await records.get("parked.a.j") == again
    assert await records.remove("parked.a.never", expect=NO_ENTRY)


async def test_changes_are_heard_of(records: JetStreamRecords) -> None:
    """From a revision on: what was written and what was removed, each key once; of one prefix only."""
    assert await records.changes("parked.a") == ((), 0)
    entries = {
        key: await records.put(f"parked.{key}", key.encode(), expect=NO_ENTRY)
        for key in ("a.1", "a.2", "b.1")
    }
    changes, place = await records.changes("parked.a")
    assert {change.key: change.entry for change in changes} == {
        "parked.a.1": entries["a.1"],
        "parked.a.2": entries["a.2"],
    }
    assert await records.changes("parked.a", after=place) == ((), place)
    assert entries["a.1"] is not None
    assert await records.remove("parked.a.1", expect=entries["a.1"].revision)
    changes, later = await records.changes("parked.a", after=place)
    assert [(change.key, change.removed) for change in changes] == [("parked.a.1", True)]
    assert later > place
    changes, _ = await records.changes("parked.a")
    assert [change.key for change in changes] == ["parked.a.2"]  # who begins anew hears of what stands there


async def test_more_changes_than_a_page(records: JetStreamRecords) -> None:
    """However many there are, all are heard of."""
    for number in range(620):
        await records.put(f"parked.many.{number}", b"x", expect=NO_ENTRY)
    changes, _ = await records.changes("parked.many")
    assert len(changes) == 620


async def test_records_have_a_bound(records: JetStreamRecords) -> None:
    """A record of the most bytes is taken, one more is refused, and so is none at all."""
    assert await records.put("webhooks.big", b"x" * RECORD_MAX_BYTES, expect=NO_ENTRY) is not None
    for value in (b"x" * (RECORD_MAX_BYTES + 1), b""):
        with pytest.raises(InvalidInput, match="bytes"):
            await records.put("webhooks.bigger", value, expect=NO_ENTRY)


async def test_what_was_removed_is_forgotten_after_a_day(
    jetstream_log: JetStreamLog, records: JetStreamRecords
) -> None:
    """A removed record leaves a trace with an end, so that the stream does not grow for ever."""
    entry = await records.put("parked.a.j", b"one", expect=NO_ENTRY)
    assert entry is not None
    await records.remove("parked.a.j", expect=entry.revision)
    found = await ask(
        jetstream_log, "STREAM.MSG.GET.JOBS_SUBSCRIPTIONS", {"last_by_subj": "JOBS_SUBSCRIPTIONS.parked.a.j"}
    )

    assert f"Nats-TTL: {RECORD_REMOVED_SECONDS}s" in base64.b64decode(found["message"]["hdrs"]).decode()


async def test_a_stream_that_forgets_is_refused(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """A stream of that name that would lose records is refused, and the field named."""
    await ask(jetstream_log, "STREAM.DELETE.JOBS_SUBSCRIPTIONS")
    await ask(
        jetstream_log,
        "STREAM.CREATE.JOBS_SUBSCRIPTIONS",
        {"name": "JOBS_SUBSCRIPTIONS", "subjects": ["JOBS_SUBSCRIPTIONS.>"], "max_age": 3_600_000_000_000},
    )
    with pytest.raises(LogUnfit, match="max_age is 3600000000000"):
        await jetstream_log.records()
    with pytest.raises(LogUnfit, match="max_age is 3600000000000"):  # the log is empty: all are looked at
        await JetStreamLog.connect(server.url)


async def test_records_survive_a_restart(server: EmbeddedServer, jetstream_log: JetStreamLog) -> None:
    """What was written stands there after the server was stopped and started."""
    records = await jetstream_log.records()
    entry = await records.put("definition.a", b"one", expect=NO_ENTRY)
    await server.stop()
    await server.start()
    await jetstream_log._connection.wait_up(30)
    assert await records.get("definition.a") == entry
