"""Reads match the log, with any cache, other writers, and foreign records on the subject."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from jobledger import JetStreamLog, JobSpec, Ledger, MemoryLog, Receipt, State, StateType, named_job_id
from jobledger.store import job_reader as jobs_module
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.errors import (
    JobNotFound,
    JobTerminal,
    LogDamaged,
    LogRefused,
    LogUnavailable,
)
from jobledger.store.model.events import Record
from jobledger.store.spec.spec import decode_spec
from tests.conftest import make_spec
from tests.support.ledgers import full_history, put_junk, records_of
from tests.support.logs import ask, draft, fill

ID = named_job_id("default", "etl")
RUNNING = State(StateType.RUNNING)
QUEUED = State(StateType.QUEUED)


async def test_times_are_stream_times_also_right_after_a_write(log: EventLog) -> None:
    """A job reads back with the times of its records, which the ledger does not know after an append."""
    ledger = Ledger(log)
    spec = make_spec("etl")
    commands: list[Callable[[], Awaitable[Receipt]]] = [
        lambda: ledger.create(spec),
        lambda: ledger.set_state(ID, RUNNING),
        lambda: ledger.set_state(ID, QUEUED),
        lambda: ledger.update(ID, make_spec(priority=1)),
    ]
    for command in commands:
        await command()
        records = await records_of(log)
        status = (await ledger.load(ID)).status
        assert status.create_time == records[0].time
        assert status.modify_time == max(record.time for record in records)
    assert [item.time for item in await full_history(ledger, ID)] == [record.time for record in records]


async def test_a_stale_cache_never_answers(log: EventLog) -> None:
    """A cached job leads to no wrong refusal, no-op, conflict or not-found."""
    mine, other = Ledger(log), Ledger(log)
    await mine.create(make_spec("etl"))
    await other.set_state(ID, RUNNING)
    assert (await mine.set_state(ID, State(StateType.PENDING))).changed  # cached: Pending
    await other.stop(ID)
    with pytest.raises(JobTerminal):
        await mine.set_state(ID, RUNNING)
    await other.apply(make_spec("etl", priority=1))
    assert (await mine.set_state(ID, RUNNING)).revision == 6  # cached: Stopped
    await other.update(ID, make_spec(priority=2))
    assert (await mine.update(ID, make_spec(priority=1))).changed  # cached: this spec
    await other.set_state(ID, QUEUED)
    assert (await mine.stop(ID, expected_revision=9)).revision == 10  # cached: 8
    await other.create(make_spec("late"))
    assert (await mine.set_state(named_job_id("default", "late"), RUNNING)).revision == 2
    assert not (await mine.apply(make_spec("late"))).changed


async def test_history_starts_and_ends_where_requested() -> None:
    """Events that are appended while the history is read are not in it."""
    ledger = Ledger(MemoryLog())
    await ledger.create(make_spec("etl"))
    await ledger.set_state(ID, RUNNING)
    items = ledger.history(ID)
    seen = [await anext(items)]
    await ledger.set_state(ID, QUEUED)
    seen += [item async for item in items]
    assert [item.revision for item in seen] == [1, 2]
    assert [item.revision async for item in ledger.history(ID, after=seen[-1].sequence)] == [3]
    assert [item async for item in ledger.history(ID, after=99)] == []


async def test_cancelling_a_caller_does_not_affect_others(log: EventLog) -> None:
    """A command cancelled at any step leaves the others their receipts."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    for steps in range(8):
        doomed = asyncio.create_task(ledger.set_state(ID, State(StateType.RUNNING, f"doomed {steps}")))
        others = [
            asyncio.create_task(ledger.set_state(ID, State(StateType.QUEUED, f"{steps}.{n}")))
            for n in range(3)
        ]
        for _ in range(steps):
            await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
        assert all(receipt.changed for receipt in await asyncio.gather(*others))
    assert len(ledger._turns) == 0
    revisions = [item.revision for item in await full_history(ledger, ID)]
    assert revisions == list(range(1, len(revisions) + 1))


async def test_junk_on_a_subject_does_not_block_the_job(log: EventLog) -> None:
    """A job is created and changed on a subject with foreign records, which no revision counts."""
    await put_junk(log, ID, 1)
    with pytest.raises(JobNotFound):
        await Ledger(log).load(ID)
    with pytest.raises(JobNotFound):
        await anext(Ledger(log).history(ID, namespace="default"))
    ledger = Ledger(log)
    assert (await ledger.create(make_spec("etl"))).revision == 1
    await put_junk(log, ID, 2)
    assert (await ledger.set_state(ID, RUNNING)).revision == 2
    await put_junk(log, ID, 3)
    assert (await Ledger(log).set_state(ID, QUEUED, expected_revision=2)).revision == 3
    assert (await ledger.load(ID)).status.revision == 3
    assert [item.revision for item in await full_history(ledger, ID)] == [0, 1, 1, 2, 2, 3]
    assert [bool(item.anomaly) for item in await full_history(ledger, ID)] == [True, False] * 3


async def test_the_largest_valid_spec_fits_into_the_log(log: EventLog) -> None:
    """The largest spec that validation accepts is appended and read back."""
    filler = {"a": "x" * 700_000}
    ledger = Ledger(log)
    task = make_spec().tasks[0]
    engine = type(task.engine)(type="docker", params=filler)
    spec: JobSpec = make_spec("etl", tasks=(type(task)(name="main", engine=engine),))
    try:
        await ledger.create(spec)
    except LogRefused as refused:
        pytest.fail(f"a valid spec was refused: {refused}")
    assert decode_spec((await Ledger(log).load(ID)).spec).tasks[0].engine.params == filler


async def test_a_lost_event_is_damage_and_a_late_one_is_not(
    loose: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After READ_MAX_TRIES the leader decides: LogDamaged if it lacks the event too."""
    monkeypatch.setattr(jobs_module, "READ_MAX_TRIES", 2)
    await fill(loose, 3)
    subject = draft("job-1").subject

    async def read(up_to: int) -> list[int]:
        return [each.sequence async for each in records_between(loose, subject, after=0, up_to=up_to)]

    assert await read(2) == [2]
    with pytest.raises(LogUnavailable, match="does not have event 4 yet; try again"):
        await read(4)  # the log itself ends before
    await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": 2})
    with pytest.raises(LogDamaged, match="event 2 was in the log and can't be read") as found:
        await read(2)
    assert (found.value.sequence, found.value.last) == (2, 2)

    async def nothing(*_: object, **__: object) -> list[Record]:
        return []

    monkeypatch.setattr(loose, "read", nothing)
    with pytest.raises(LogUnavailable, match="a replica of the log lags: it does not have event 1 yet"):
        await read(1)
