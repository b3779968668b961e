"""A command with the caller's event id is executed once: repeated, it returns the first receipt."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from jobledger import Ledger, MemoryLog, Receipt, State, StateType, named_job_id
from jobledger.store.log import Appended, EventLog, PendingEvent, WrongSequence
from jobledger.store.model.errors import InvalidInput, JobTerminal, LogUnavailable, OutcomeUnknown
from jobledger.store.model.events import JobStateChanged, Record, decode_event
from jobledger.store.model.subjects import job_subject
from tests.conftest import make_spec
from tests.support.histories import draft, state_data
from tests.support.ledgers import event_id, event_ids, put, records_of

ID = named_job_id("default", "etl")
RUNNING = State(StateType.RUNNING)
QUEUED = State(StateType.QUEUED)


async def test_the_same_id_again_returns_the_first_receipt(log: EventLog) -> None:
    """For each command, through any ledger, also after other events."""
    ledger = Ledger(log)
    first = [
        await ledger.create(make_spec("etl"), event_id=event_id(1)),
        await ledger.set_state(ID, RUNNING, event_id=event_id(2)),
        await ledger.update(ID, make_spec(priority=1), event_id=event_id(3)),
        await ledger.apply(make_spec("etl", priority=2), event_id=event_id(4)),
        await ledger.stop(ID, event_id=event_id(5)),
    ]
    assert [receipt.revision for receipt in first] == [1, 2, 3, 4, 5]
    for writer in (ledger, Ledger(log)):
        assert first == [
            await writer.create(make_spec("etl"), event_id=event_id(1)),
            await writer.set_state(ID, RUNNING, event_id=event_id(2)),
            await writer.update(ID, make_spec(priority=1), event_id=event_id(3)),
            await writer.apply(make_spec("etl", priority=2), event_id=event_id(4)),
            await writer.stop(ID, event_id=event_id(5), expected_revision=4),
        ]
    assert event_ids(await records_of(log)) == [event_id(number) for number in range(1, 6)]


async def test_an_id_with_other_content_is_refused(log: EventLog) -> None:
    """A command is identified by its id and its content."""
    ledger = Ledger(log)
    created = await ledger.create(make_spec("etl"), event_id=event_id(1), actor="alice")
    await ledger.set_state(ID, State(StateType.RUNNING, "", {"node": "1"}), event_id=event_id(2), reason="go")
    others: list[Callable[[Ledger], Awaitable[Receipt]]] = [
        lambda writer: writer.create(make_spec("etl", priority=9), event_id=event_id(1), actor="alice"),
        lambda writer: writer.create(make_spec("etl"), event_id=event_id(1), actor="bob"),
        lambda writer: writer.set_state(ID, RUNNING, event_id=event_id(1), actor="alice"),
        lambda writer: writer.update(ID, make_spec(priority=9), event_id=event_id(2), reason="go"),
        lambda writer: writer.set_state(ID, QUEUED, event_id=event_id(2), reason="go"),
        lambda writer: writer.set_state(ID, RUNNING, event_id=event_id(2), reason="go"),
        lambda writer: writer.stop(ID, event_id=event_id(2)),
        lambda writer: writer.tag(ID, "stable", 1, event_id=event_id(2)),
    ]
    for writer in (ledger, Ledger(log)):
        for other in others:
            with pytest.raises(InvalidInput, match="is taken by another event"):
                await other(writer)
        assert await writer.apply(make_spec("etl"), event_id=event_id(1), actor="alice") == created
        assert not (await writer.update(ID, make_spec())).changed
    assert (await log.info()).last_sequence == 2


async def test_a_nameless_job_is_created_once(log: EventLog) -> None:
    """A repeated submission with its event id is one job."""
    ledger = Ledger(log)
    created = await ledger.create(make_spec(), event_id=event_id(1))
    await ledger.set_state(created.job_id, RUNNING)
    for writer in (ledger, Ledger(log)):
        assert await writer.create(make_spec(), event_id=event_id(1)) == created
        assert await writer.apply(make_spec(), event_id=event_id(1)) == created
        with pytest.raises(InvalidInput, match="is taken by another event"):
            await writer.apply(make_spec(priority=1), event_id=event_id(1))
    assert (await log.info()).last_sequence == 2


async def test_concurrent_repeats_are_one_event(log: EventLog) -> None:
    """One command sent many times at once, through several ledgers, is written once."""
    ledgers = [Ledger(log) for _ in range(4)]
    await ledgers[0].create(make_spec("etl"))
    receipts = await asyncio.gather(
        *(ledger.set_state(ID, RUNNING, event_id=event_id(1)) for ledger in ledgers for _ in range(4))
    )
    assert {receipt.revision for receipt in receipts} == {2}
    assert len({receipt.sequence for receipt in receipts if receipt.changed}) == 1
    assert event_ids(await records_of(log)).count(event_id(1)) == 1


async def test_an_id_found_late_is_still_found(log: EventLog) -> None:
    """If the first attempt is written after the repeat has read the job, the repeat still returns it."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    late = draft(JobStateChanged, ID, state_data(StateType.QUEUED), 0)
    first = PendingEvent(
        late.subject, event_id(1), late.payload.replace(late.event_id.encode(), event_id(1).encode())
    )

    class Late:
        """The log, in which two other events are appended just before that of the ledger."""

        def __getattr__(self, name: str) -> object:
            return getattr(log, name)

        async def append(self, item: PendingEvent, *, expect: int) -> Appended | WrongSequence:
            if (await log.info()).last_sequence == 1:
                await put(log, first)
                await put(log, draft(JobStateChanged, ID, state_data(StateType.RUNNING), 7))
            return await log.append(item, expect=expect)

    about = decode_event(first.payload)
    receipt = await Ledger(Late()).set_state(  # type: ignore[arg-type]
        ID, QUEUED, event_id=event_id(1), actor=about.actor, reason=about.reason
    )
    assert (receipt.sequence, receipt.revision) == (2, 2)
    assert (await log.info()).last_sequence == 3


async def test_an_id_of_another_jobs_event_is_refused(log: EventLog) -> None:
    """No receipt is returned for an event that was not written."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"), event_id=event_id(1))
    await ledger.create(make_spec("other"))
    other = named_job_id("default", "other")
    for command in (
        ledger.set_state(other, RUNNING, event_id=event_id(1)),
        ledger.create(make_spec("new"), event_id=event_id(1)),
        ledger.apply(make_spec("new", namespace="elsewhere"), event_id=event_id(1)),
    ):
        with pytest.raises(
            InvalidInput, match=f"event_id {event_id(1)} is taken by another event; use a new"
        ):
            await command
    assert (await log.info()).last_sequence == 2
    assert (await ledger.load(other)).status.revision == 1
    assert (await ledger.create(make_spec("new"))).revision == 1


async def test_a_nameless_jobs_id_is_taken_in_all_namespaces(log: EventLog) -> None:
    """The event id of a nameless job creates no second job with that id in another namespace."""
    ledger = Ledger(log)
    await ledger.create(make_spec(), event_id=event_id(1))
    with pytest.raises(InvalidInput, match="is taken by another event"):
        await ledger.create(make_spec(namespace="evil"), event_id=event_id(1))


async def test_an_id_of_an_anomaly_is_refused() -> None:
    """An event with this id that changed nothing is not the event of the command."""
    log = MemoryLog()
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    await ledger.stop(ID)
    wrong = draft(JobStateChanged, ID, state_data(StateType.RUNNING), 5)
    await put(log, wrong)
    with pytest.raises(InvalidInput, match="is taken by another event"):
        await ledger.apply(make_spec("etl", priority=1), event_id=wrong.event_id)


async def test_a_repeat_after_a_refusal_is_a_new_attempt(log: EventLog) -> None:
    """A command that wrote nothing leaves its id free."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    await ledger.stop(ID)
    with pytest.raises(JobTerminal):
        await ledger.set_state(ID, RUNNING, event_id=event_id(1))
    await ledger.update(ID, make_spec(priority=1))
    assert (await ledger.set_state(ID, RUNNING, event_id=event_id(1))).revision == 4


async def test_an_event_that_cannot_be_read_back_has_an_unknown_outcome() -> None:
    """If the log took the event and can't be read afterwards, the caller is asked to repeat the command."""
    log = MemoryLog()
    await Ledger(log).create(make_spec("etl"))

    class Blind:
        """The log, which can't be read after an append."""

        is_blind = False

        def __getattr__(self, name: str) -> object:
            return getattr(log, name)

        async def append(self, item: PendingEvent, *, expect: int) -> Appended | WrongSequence:
            self.is_blind = True
            return await log.append(item, expect=expect)

        async def read_last(self, subject: str) -> Record | None:
            if self.is_blind:
                raise LogUnavailable("gone")
            return await log.read_last(subject)

    blind = Blind()
    ledger = Ledger(blind)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown) as unknown:
        await ledger.set_state(ID, RUNNING, event_id=event_id(1))
    assert unknown.value.event_id == event_id(1)
    blind.is_blind = False
    assert (await ledger.set_state(ID, RUNNING, event_id=event_id(1))).revision == 2
    last = await log.read_last(job_subject("default", ID))
    assert last is not None
    assert (last.sequence, decode_event(last.payload).id) == (2, event_id(1))
