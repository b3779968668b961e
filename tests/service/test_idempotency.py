"""A request repeated with a key is executed once, and gets one answer."""

from typing import Any

import pytest
from msgspec.structs import replace

from jobledger import MemoryLog
from jobledger.service.errors import IdempotencyKeyReused
from jobledger.service.idempotency import Answer, IdempotentWrites
from jobledger.service.limits import ANSWER_MAX_BYTES
from jobledger.store.kv import MemoryKeyValue
from jobledger.store.model.errors import InvalidInput, JobTerminal, LogUnavailable
from tests.conftest import make_spec
from tests.support.replicas import REQUEST, Replica

PADDING = "x" * ANSWER_MAX_BYTES


@pytest.fixture
def keys() -> MemoryKeyValue:
    """Keys in memory."""
    return MemoryKeyValue()


@pytest.fixture
def replica(keys: MemoryKeyValue) -> Replica:
    """One process on a log in memory."""
    return Replica(MemoryLog(), keys)


async def test_without_a_key_every_request_is_executed(replica: Replica) -> None:
    """The command makes a new event id each time."""
    request = replace(REQUEST, key=None)
    answers = [await replica.writes.once(request, replica.apply(make_spec())) for _ in range(2)]
    assert replica.runs == 2
    assert answers[0].body != answers[1].body


async def test_the_same_request_again_gets_the_same_answer(replica: Replica) -> None:
    """Body and ETag of the first time, marked as replayed, although the job changed since."""
    first = await replica.writes.once(REQUEST, replica.apply(Warnings=["é"]))
    await replica.ledger.apply(make_spec("one", image="other"))
    again = await replica.writes.once(REQUEST, replica.apply())
    assert again == replace(first, replayed=True)
    assert (again.etag, again.changed) == ('"1"', True)
    assert replica.runs == 1


async def test_the_answer_of_a_no_op_is_stored_as_well(replica: Replica) -> None:
    """Although the same request would now change the job."""
    await replica.ledger.apply(make_spec("one"))
    first = await replica.writes.once(REQUEST, replica.apply())
    await replica.ledger.apply(make_spec("one", image="other"))
    again = await replica.writes.once(REQUEST, replica.apply())
    assert not first.changed
    assert again == replace(first, replayed=True)
    assert replica.runs == 1


@pytest.mark.parametrize(
    "change",
    [
        {"body": b'{"Job":{ }}'},
        {"method": "POST"},
        {"path": "/jobs/j-1"},
        {"query": b"strict=true"},
        {"if_match": '"3"'},
        {"if_none_match": "*"},
        {"path": "/jobs{", "body": b'"Job":{}}'},  # the same bytes, cut at another place
    ],
)
async def test_another_request_with_the_key_is_rejected(replica: Replica, change: dict[str, Any]) -> None:
    """Any difference counts: nothing is written, and the first answer stays."""
    first = await replica.writes.once(REQUEST, replica.apply())
    with pytest.raises(IdempotencyKeyReused, match="new key"):
        await replica.writes.once(replace(REQUEST, **change), replica.apply(make_spec("two")))
    assert replica.runs == 1
    assert (await replica.writes.once(REQUEST, replica.apply())).body == first.body


async def test_principals_have_separate_keys(replica: Replica) -> None:
    """No principal can use, or get answers from, the key of another."""
    await replica.writes.once(REQUEST, replica.apply())
    other = await replica.writes.once(replace(REQUEST, principal="bob"), replica.apply())
    assert not other.replayed
    assert replica.runs == 2


async def test_answers_about_another_log_do_not_count(keys: MemoryKeyValue) -> None:
    """After the log was created again, a key starts over."""
    await Replica(MemoryLog(), keys, "old").writes.once(REQUEST, Replica(MemoryLog(), keys).apply())
    replica = Replica(MemoryLog(), keys, "new")
    assert not (await replica.writes.once(REQUEST, replica.apply())).replayed


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "é", "a\x7f", "\x00", "x" * 256])
async def test_an_invalid_key_is_rejected(replica: Replica, key: str) -> None:
    """A key has 1 to 255 visible ASCII characters."""
    with pytest.raises(InvalidInput, match="255 visible"):
        await replica.writes.once(replace(REQUEST, key=key), replica.apply())
    assert replica.runs == 0


@pytest.mark.parametrize("key", ["x" * 255, "!", "~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
async def test_every_valid_key_is_accepted(replica: Replica, key: str) -> None:
    """At the limits as well, and quoted as in the draft of the header."""
    request = replace(REQUEST, key=key)
    await replica.writes.once(request, replica.apply())
    assert (await replica.writes.once(request, replica.apply())).replayed


async def test_an_error_is_not_stored(replica: Replica) -> None:
    """A retry with the key is evaluated again, and its success is stored."""

    async def refuse(event_id: str | None) -> Answer:
        raise JobTerminal(f"not now ({event_id})")

    with pytest.raises(JobTerminal):
        await replica.writes.once(REQUEST, refuse)
    first = await replica.writes.once(REQUEST, replica.apply())
    assert not first.replayed
    assert (await replica.writes.once(REQUEST, refuse)).body == first.body


async def test_a_key_stays_with_its_first_request_even_if_that_failed(replica: Replica) -> None:
    """The failed one may have been sent twice, and the other copy may be in progress."""

    async def refuse(event_id: str | None) -> Answer:
        raise JobTerminal(f"not now ({event_id})")

    with pytest.raises(JobTerminal):
        await replica.writes.once(REQUEST, refuse)
    with pytest.raises(IdempotencyKeyReused):
        await replica.writes.once(replace(REQUEST, body=b"other"), replica.apply())
    assert replica.runs == 0


async def test_an_answer_over_the_limit_is_not_stored_and_still_the_same(replica: Replica) -> None:
    """The command makes the answer again from the event in the log."""
    first = await replica.writes.once(REQUEST, replica.apply(Padding=PADDING))
    assert await replica.writes.once(REQUEST, replica.apply(Padding=PADDING)) == first
    assert replica.runs == 2


async def test_a_record_of_a_newer_release_is_an_error(replica: Replica, keys: MemoryKeyValue) -> None:
    """It is neither an answer nor a free key."""
    await replica.writes.once(REQUEST, replica.apply())
    (name,) = keys._entries
    await keys.put(name, b'{"other":1}', expect=keys._entries[name].revision)
    with pytest.raises(LogUnavailable, match="upgrade"):
        await replica.writes.once(REQUEST, replica.apply())


async def test_the_record_is_a_storage_format(keys: MemoryKeyValue) -> None:
    """Replicas of different releases read each other's records: the bytes do not change."""
    replica = Replica(MemoryLog(), keys)
    replica.writes = IdempotentWrites(keys, "log", new_id=lambda: "0190a5b2-7c3d-7e4f-8a5b-000000000001")
    await replica.writes.once(REQUEST, replica.apply())
    ((name, entry),) = keys._entries.items()
    assert name == "d7bbf5c434e35c7b67418942f6b56b50862ede91b4ad98e3b55c2810ec43b195"
    assert entry.value == (
        b'{"fingerprint":"ebd0e58925cd11f334d30c2293363909d5d3df778cdc11d7cb9373675b1f2bce",'
        b'"event_id":"0190a5b2-7c3d-7e4f-8a5b-000000000001",'
        b'"answer":{"body":{"JobID":"j-6115c883-408a-534d-bbd9-a1c584da2a0f","Sequence":1,"Changed":true},'
        b'"changed":true,"etag":"\\"1\\""}}'
    )
