"""Crashes, failures and concurrent requests on any replica: one key, one event, one answer."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from jobledger import EmbeddedServer, JetStreamLog, Ledger, MemoryLog
from jobledger.service.idempotency import Answer
from jobledger.store.kv import MemoryKeyValue
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogRefused, LogUnavailable
from jobledger.store.model.job import State, StateType
from tests.conftest import make_spec
from tests.support.ledgers import event_ids
from tests.support.logs import whole
from tests.support.replicas import REQUEST, Crash, FragileKeys, Replica


@pytest.fixture
def keys() -> MemoryKeyValue:
    """Keys in memory."""
    return MemoryKeyValue()


@pytest.fixture
def replica(keys: MemoryKeyValue) -> Replica:
    """One process on a log in memory."""
    return Replica(MemoryLog(), keys)


@pytest.mark.parametrize("at", [1, 2], ids=["claim", "keep"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
async def test_a_crash_anywhere_leads_to_one_event_and_the_same_answer(
    log: EventLog, at: int, *, done: bool, named: bool
) -> None:
    """Wherever the first process ends, the next one returns the answer that the first would have returned."""
    spec, keys = make_spec("one" if named else ""), MemoryKeyValue()
    dying = Replica(log, FragileKeys(keys, at=at, done=done, error=Crash()))
    with pytest.raises(Crash):
        await dying.writes.once(REQUEST, dying.apply(spec))
    written = event_ids(await whole(log))
    assert len(written) == (at == 2)
    answers = []
    for _ in range(2):
        replica = Replica(log, keys)
        answers.append(await replica.writes.once(REQUEST, replica.apply(spec)))
    assert answers[0].body == answers[1].body
    assert answers[1].replayed
    ids = event_ids(await whole(log))
    assert len(ids) == 1
    assert written in ([], ids)


async def test_an_answer_outlives_the_record_of_its_key() -> None:
    """A command that outlasts the record returns its own answer, even if the key was claimed again."""
    log, keys = MemoryLog(), MemoryKeyValue()
    slow, quick = Replica(log, keys), Replica(log, keys)

    async def for_a_day(event_id: str | None) -> Answer:
        answer = await slow.apply()(event_id)
        keys._entries.clear()
        await quick.writes.once(REQUEST, quick.apply(make_spec("one", image="other")))
        return answer

    answer = await slow.writes.once(REQUEST, for_a_day)
    assert (answer.etag, answer.replayed) == ('"1"', False)


async def test_a_crash_within_the_command_leads_to_one_event(log: EventLog) -> None:
    """The event was written without an answer: the next process finds it by the id of the claim."""
    keys = MemoryKeyValue()
    dying = Replica(log, keys)

    async def crash(event_id: str | None) -> Answer:
        await dying.apply()(event_id)
        raise Crash

    with pytest.raises(Crash):
        await dying.writes.once(REQUEST, crash)
    other = Ledger(log)  # and the job moved on
    await other.apply(make_spec("one", image="other"))
    replica = Replica(log, keys)
    answer = await replica.writes.once(REQUEST, replica.apply())
    assert msgspec.json.decode(answer.body)["Sequence"] == 1
    assert answer.etag == '"1"'
    assert len(await whole(log)) == 2


async def test_concurrent_requests_in_one_process_run_one_command(replica: Replica) -> None:
    """The second one waits, and gets the first one's answer."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def command(event_id: str | None) -> Answer:
        begun.set()
        await go_on.wait()
        return await replica.apply()(event_id)

    asking = [asyncio.create_task(replica.writes.once(REQUEST, command)) for _ in range(10)]
    await begun.wait()
    go_on.set()
    answers = await asyncio.gather(*asking)
    assert {bytes(answer.body) for answer in answers} == {bytes(answers[0].body)}
    assert [answer.replayed for answer in answers].count(False) == 1
    assert replica.runs == 1


@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
async def test_concurrent_requests_on_two_replicas_make_one_event(
    server: EmbeddedServer, *, named: bool
) -> None:
    """In any interleaving: one event per key, one answer for all."""
    logs = [await JetStreamLog.connect(server.url) for _ in range(3)]
    replicas = [Replica(log, await log.key_value("KEYS")) for log in logs]
    for number in range(20):
        request = replace(REQUEST, key=f"k-{number}")
        spec = make_spec(f"job-{number}" if named else "")
        answers = await asyncio.gather(
            *(replica.writes.once(request, replica.apply(spec)) for replica in replicas for _ in range(2))
        )
        assert {bytes(answer.body) for answer in answers} == {bytes(answers[0].body)}
        assert len(await whole(logs[0])) == number + 1
    for log in logs:
        await log.close()


async def test_an_event_replaces_a_no_op_that_another_replica_stored(keys: MemoryKeyValue) -> None:
    """Of two answers to one key, the one with the written event stays."""
    log = MemoryLog()
    ours, theirs = Replica(log, keys), Replica(log, keys)
    await ours.ledger.apply(make_spec("one"))

    async def overtaken(event_id: str | None) -> Answer:
        no_op = await theirs.writes.once(REQUEST, theirs.apply())
        assert not no_op.changed
        await theirs.ledger.apply(make_spec("one", image="other"))
        return await ours.apply()(event_id)

    answer = await ours.writes.once(REQUEST, overtaken)
    assert answer.changed
    assert (await theirs.writes.once(REQUEST, theirs.apply())) == replace(answer, replayed=True)
    assert len(await whole(log)) == 3


async def test_of_two_no_ops_the_first_stored_one_is_the_answer(keys: MemoryKeyValue) -> None:
    """Both replicas return it."""
    log = MemoryLog()
    ours, theirs = Replica(log, keys), Replica(log, keys)
    await ours.ledger.apply(make_spec("one"))

    async def overtaken(event_id: str | None) -> Answer:
        await theirs.writes.once(REQUEST, theirs.apply(By="them"))
        return await ours.apply(By="us")(event_id)

    answer = await ours.writes.once(REQUEST, overtaken)
    assert msgspec.json.decode(answer.body)["By"] == "them"


@pytest.mark.parametrize("error", [LogUnavailable("down"), LogRefused("full")])
async def test_unreachable_keys_mean_that_nothing_is_written(
    keys: MemoryKeyValue, error: LogUnavailable
) -> None:
    """A request that could not be recognized later is not executed; the caller may retry."""
    replica = Replica(MemoryLog(), FragileKeys(keys, at=1, done=False, error=error))
    with pytest.raises(LogUnavailable, match="nothing was written"):
        await replica.writes.once(REQUEST, replica.apply())
    assert replica.runs == 0


async def test_keys_lost_after_the_event_do_not_hide_it(keys: MemoryKeyValue) -> None:
    """The write is answered; the log has it by its id, so a retry gets the same answer."""
    log = MemoryLog()
    replica = Replica(log, FragileKeys(keys, at=2, done=False, error=LogUnavailable("down")))
    first = await replica.writes.once(REQUEST, replica.apply())
    assert first.changed
    await replica.ledger.set_state(
        msgspec.json.decode(first.body)["JobID"], State(StateType.RUNNING), namespace="default"
    )
    assert (await replica.writes.once(REQUEST, replica.apply())) == first
    assert len(await whole(log)) == 2


async def test_keys_lost_after_a_no_op_are_an_error(keys: MemoryKeyValue) -> None:
    """There is no record of it, and the next answer could differ."""
    replica = Replica(MemoryLog(), FragileKeys(keys, at=2, done=False, error=LogUnavailable("down")))
    await replica.ledger.apply(make_spec("one"))
    with pytest.raises(LogUnavailable):
        await replica.writes.once(REQUEST, replica.apply())


async def test_a_replayed_answer_survives_a_restart_of_everything(tmp_path: Path) -> None:
    """After a restart of server and process the key is still known."""
    answers = []
    for _ in range(2):
        async with EmbeddedServer(tmp_path / "nats") as server:
            log = await JetStreamLog.connect(server.url)
            replica = Replica(log, await log.key_value("KEYS"))
            answers.append(await replica.writes.once(REQUEST, replica.apply()))
            await log.close()
    assert answers[1] == replace(answers[0], replayed=True)
