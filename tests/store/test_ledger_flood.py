"""A writer of another namespace can't make loads of a job by id slow."""

import pytest

from jobledger import Ledger, MemoryLog, State, StateType
from jobledger.store import job_reader as jobs
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.events import JobCreated, JobStateChanged
from tests.support.histories import append_all, draft, spec_data, state_data

ID = "j-0198c0de-0000-7000-8000-000000000001"


async def flooded(count: int) -> MemoryLog:
    """Return a log with so many events of another namespace for this id, before the job itself."""
    log = MemoryLog()
    state = state_data(StateType.RUNNING)
    await append_all(log, [draft(JobStateChanged, ID, state, number, "b") for number in range(1, count + 1)])
    return log


@pytest.mark.parametrize("count", [19, 20])
async def test_events_of_other_namespaces_are_read_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """At the limit the job is found; above it the error has the id and a remedy that works."""
    monkeypatch.setattr(jobs, "FIND_JOB_MAX_EVENTS", 20)
    log = await flooded(count)
    ledger = Ledger(log)
    if count < 20:
        with pytest.raises(JobNotFound):
            await ledger.load(ID)
    await append_all(log, [draft(JobCreated, ID, spec_data(ID, "a"), 99, "a")])
    if count < 20:
        assert (await ledger.load(ID)).status.namespace == "a"
    else:
        with pytest.raises(InvalidInput, match=f"job_id {ID}.*pass the job's namespace"):
            await ledger.load(ID)
    assert (await ledger.load(ID, namespace="a")).status.namespace == "a"


async def test_a_foreign_event_creates_no_job_in_its_namespace() -> None:
    """A nameless job is where it was created first, also for a caller that passes another namespace."""
    log = MemoryLog()
    drafts = [
        draft(JobCreated, ID, spec_data(ID, "a"), 1, "a"),
        draft(JobCreated, ID, spec_data(ID, "b"), 2, "b"),
        draft(JobStateChanged, ID, state_data(StateType.RUNNING), 3, "b"),
    ]
    await append_all(log, drafts)
    with pytest.raises(JobNotFound):
        await Ledger(log).load(ID, namespace="b")
    with pytest.raises(JobNotFound):
        await Ledger(log).set_state(ID, State(StateType.RUNNING), namespace="b")
    assert [item.revision async for item in Ledger(log).history(ID, namespace="a")] == [1]
    assert (await Ledger(log).load(ID, namespace="a")).status.revision == 1
    assert (await log.info()).last_sequence == 3
