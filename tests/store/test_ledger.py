"""Commands on both logs: receipts, no-ops, refusals, and conflicts with the missed events."""

import pytest

from jobledger import Ledger, MemoryLog, State, StateType, named_job_id
from jobledger.store.log import EventLog
from jobledger.store.model.errors import (
    InvalidSpec,
    JobExists,
    JobNotFound,
    JobNotRerunnable,
    JobTerminal,
    RevisionMismatch,
)
from jobledger.store.model.events import decode_event
from jobledger.store.model.limits import MISSED_MAX_EVENTS
from jobledger.store.spec.spec import decode_spec
from tests.conftest import make_spec
from tests.support.ledgers import full_history, put_junk, records_of

ID = named_job_id("default", "etl")
RUNNING = State(StateType.RUNNING)
QUEUED = State(StateType.QUEUED)


async def test_receipts_match_the_job(log: EventLog) -> None:
    """Each receipt has the event's sequence and the job's counters, and the job reads back the same."""
    ledger = Ledger(log)
    created = await ledger.create(make_spec("etl"))
    running = await ledger.set_state(ID, RUNNING)
    updated = await ledger.update(ID, make_spec(priority=5))
    applied = await ledger.apply(make_spec("etl", priority=6))
    stopped = await ledger.stop(ID, reason="too dear")
    receipts = [created, running, updated, applied, stopped]
    assert [receipt.sequence for receipt in receipts] == [1, 2, 3, 4, 5]
    assert [receipt.revision for receipt in receipts] == [1, 2, 3, 4, 5]
    assert [receipt.version for receipt in receipts] == [1, 1, 2, 3, 3]
    assert all(receipt.changed for receipt in receipts)
    assert {(receipt.job_id, receipt.namespace) for receipt in receipts} == {(ID, "default")}
    job = await ledger.load(ID)
    assert job.status.state == State(StateType.STOPPED, "too dear")
    assert (job.status.version, job.status.revision, job.status.sequence) == (3, 5, 5)
    assert decode_spec(job.spec).priority == 6
    assert [item.event_id for item in await full_history(ledger, ID)] == [
        receipt.event_id for receipt in receipts
    ]


async def test_a_rerun_is_a_new_version_whether_or_not_the_spec_differs(log: EventLog) -> None:
    """With an old or the current spec; a job that has not started is refused."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl", priority=1))
    first = (await ledger.load(ID)).spec
    await ledger.update(ID, make_spec(priority=2))
    with pytest.raises(JobNotRerunnable, match="is Pending"):
        await ledger.rerun(ID)
    await ledger.stop(ID)
    again = await ledger.rerun(ID)
    assert (again.version, again.revision, again.changed) == (3, 4, True)
    await ledger.set_state(ID, RUNNING)
    old = await ledger.rerun(ID, first, reason="v2 was worse")
    job = await ledger.load(ID)
    assert (old.version, job.status.state.state_type, job.spec) == (4, StateType.PENDING, first)
    with pytest.raises(JobNotFound):
        await ledger.rerun(named_job_id("default", "none"))


async def test_force_makes_a_new_version_of_an_equal_spec(log: EventLog) -> None:
    """For the job of the spec's name, and for a job by id."""
    ledger = Ledger(log)
    await ledger.apply(make_spec("etl"), force=True)
    assert (await ledger.apply(make_spec("etl"), force=True)).version == 2
    assert (await ledger.update(ID, make_spec("etl"), force=True)).version == 3
    assert not (await ledger.apply(make_spec("etl"))).changed


async def test_the_metadata_is_in_the_event(log: EventLog) -> None:
    """Actor, reason, trace context and the writer's clock are in the log, and most of it in the history."""
    ledger = Ledger(log, clock=lambda: 1_767_225_600_123_456_789)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    receipt = await ledger.create(make_spec("etl"), actor="álice", reason="nightly\nrun", traceparent=trace)
    (record,) = await records_of(log)
    event = decode_event(record.payload)
    assert (event.actor, event.reason, event.traceparent) == ("álice", "nightly\nrun", trace)
    assert (event.id, event.subject, event.namespace) == (receipt.event_id, ID, "default")
    assert event.time == "2026-01-01T00:00:00.123Z"
    (item,) = await full_history(ledger, ID)
    assert (item.actor, item.reason, item.type) == ("álice", "nightly\nrun", "jobledger.job.created.v1")


async def test_a_no_op_writes_nothing(log: EventLog) -> None:
    """The receipt has the job's last event, and the log is unchanged."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    last = await ledger.stop(ID)
    before = await log.info()
    for receipt in (
        await ledger.update(ID, make_spec("etl")),
        await ledger.apply(make_spec("etl", count=1)),
        await ledger.set_state(ID, State(StateType.STOPPED)),
        await ledger.stop(ID, reason="another"),
    ):
        assert not receipt.changed
        assert (receipt.sequence, receipt.revision, receipt.version) == (last.sequence, 2, 1)
    assert await log.info() == before


async def test_the_name_of_a_nameless_job_is_its_id(log: EventLog) -> None:
    """Each submission without a name creates a job."""
    ledger = Ledger(log)
    first, second = await ledger.create(make_spec()), await ledger.apply(make_spec())
    assert first.job_id == f"j-{first.event_id}" != second.job_id
    job = await ledger.load(first.job_id)
    assert (job.status.name, job.status.revision) == (first.job_id, 1)


async def test_a_nameless_job_submitted_again_with_its_name_is_updated(log: EventLog) -> None:
    """The spec of a nameless job, read, changed and applied, updates that job."""
    ledger = Ledger(log)
    receipt = await ledger.create(make_spec())
    name = decode_spec((await ledger.load(receipt.job_id)).spec).name
    for writer in (ledger, Ledger(log)):
        assert (await writer.apply(make_spec(name, priority=7))).job_id == receipt.job_id
        with pytest.raises(JobExists):
            await writer.create(make_spec(name))
    assert (await ledger.load(receipt.job_id)).status.version == 2
    # Another namespace's job of that name is another job.
    assert (await ledger.apply(make_spec(name, namespace="other"))).job_id == named_job_id("other", name)


async def test_a_taken_name_is_refused_with_the_id_of_its_job(log: EventLog) -> None:
    """In another namespace the name is free."""
    for ledger in (first := Ledger(log), first, Ledger(log)):
        if not (await log.info()).last_sequence:
            await ledger.create(make_spec("etl"))
        with pytest.raises(JobExists) as refused:
            await ledger.create(make_spec("etl", priority=9))
        assert refused.value.job_id == ID
    assert (await first.create(make_spec("etl", namespace="other"))).job_id != ID
    assert (await log.info()).last_sequence == 2


@pytest.mark.parametrize("namespace", [None, "default", "other"])
async def test_a_missing_job_is_not_found(log: EventLog, namespace: str | None) -> None:
    """By every command and read, with any expected revision."""
    ledger = Ledger(log)
    for expected in (None, 0, 3):
        for command in (
            ledger.update(ID, make_spec("etl"), namespace=namespace, expected_revision=expected),
            ledger.set_state(ID, RUNNING, namespace=namespace, expected_revision=expected),
            ledger.stop(ID, namespace=namespace, expected_revision=expected),
            ledger.load(ID, namespace=namespace),
        ):
            with pytest.raises(JobNotFound):
                await command
    with pytest.raises(JobNotFound):
        await anext(ledger.history(ID, namespace=namespace))
    assert (await log.info()).last_sequence == 0


async def test_a_bad_spec_is_refused_with_all_problems(log: EventLog) -> None:
    """By every command with a spec, and the log is unchanged."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    before = await log.info()
    bad = make_spec("etl", type="daemon", count=3, tasks=())
    for command in (ledger.create(bad), ledger.apply(bad), ledger.update(ID, bad)):
        with pytest.raises(InvalidSpec) as refused:
            await command
        assert {problem.path for problem in refused.value.problems} == {"Count", "Tasks"}
    assert await log.info() == before


async def test_a_terminal_job_refuses_states_until_it_gets_a_new_spec(log: EventLog) -> None:
    """Through any ledger; a new spec makes it Pending again."""
    ledger, other = Ledger(log), Ledger(log)
    await ledger.create(make_spec("etl"))
    await ledger.set_state(ID, State(StateType.COMPLETED))
    for writer in (ledger, other):
        with pytest.raises(JobTerminal):
            await writer.set_state(ID, RUNNING)
        with pytest.raises(JobTerminal):
            await writer.stop(ID)
    assert (await other.apply(make_spec("etl", priority=1))).version == 2
    assert (await ledger.set_state(ID, RUNNING)).revision == 4


async def test_the_right_revision_passes(log: EventLog) -> None:
    """0 means that the job does not exist."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"), expected_revision=0)
    await ledger.apply(make_spec("other"), expected_revision=0)
    assert (await ledger.set_state(ID, RUNNING, expected_revision=1)).revision == 2
    assert (await ledger.update(ID, make_spec(priority=1), expected_revision=2)).revision == 3
    assert (await ledger.apply(make_spec("etl", priority=2), expected_revision=3)).revision == 4
    assert not (await ledger.apply(make_spec("etl", priority=2), expected_revision=4)).changed
    assert (await ledger.stop(ID, expected_revision=4)).revision == 5


async def test_another_revision_is_a_conflict_with_the_missed_events(log: EventLog) -> None:
    """Also for a no-op."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    await ledger.set_state(ID, RUNNING)
    await ledger.set_state(ID, QUEUED, actor="bob")
    before = await log.info()
    for writer in (ledger, Ledger(log)):
        for command in (
            writer.set_state(ID, RUNNING, expected_revision=1),
            writer.set_state(ID, QUEUED, expected_revision=1),
            writer.update(ID, make_spec(priority=1), expected_revision=1),
            writer.apply(make_spec("etl"), expected_revision=1),
            writer.stop(ID, expected_revision=1),
        ):
            with pytest.raises(RevisionMismatch) as conflict:
                await command
            assert (conflict.value.job_id, conflict.value.revision) == (ID, 3)
            assert [(item.revision, item.state) for item in conflict.value.missed] == [
                (2, RUNNING),
                (3, QUEUED),
            ]
            assert conflict.value.missed[1].actor == "bob"
        with pytest.raises(RevisionMismatch) as conflict:
            await writer.stop(ID, expected_revision=9)
        assert conflict.value.missed == ()
        for create in (writer.create, writer.apply):
            with pytest.raises(RevisionMismatch) as conflict:
                await create(make_spec("etl"), expected_revision=0)
            assert [item.revision for item in conflict.value.missed] == [1, 2, 3]
    assert await log.info() == before


async def test_a_new_job_at_an_expected_revision_is_a_conflict(log: EventLog) -> None:
    """Create and apply with a revision that a missing job can't have write nothing."""
    ledger = Ledger(log)
    for create in (ledger.create, ledger.apply):
        with pytest.raises(RevisionMismatch) as conflict:
            await create(make_spec("etl"), expected_revision=2)
        assert (conflict.value.revision, conflict.value.missed) == (0, ())
    assert (await log.info()).last_sequence == 0


async def test_missed_events_are_bounded_and_have_no_anomaly() -> None:
    """Of many missed events the newest are kept, without those that changed nothing."""
    log = MemoryLog()
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    for number in range(MISSED_MAX_EVENTS + 5):
        await ledger.set_state(ID, State(StateType.RUNNING, str(number)))
    await put_junk(log, ID)
    with pytest.raises(RevisionMismatch) as conflict:
        await ledger.stop(ID, expected_revision=1)
    revisions = [item.revision for item in conflict.value.missed]
    assert revisions == list(range(7, MISSED_MAX_EVENTS + 7))
    assert conflict.value.revision == MISSED_MAX_EVENTS + 6
