"""A writer of another namespace can't make the loads of a job by its id alone slow."""

import pytest

from jobledger import Ledger, MemoryLog, StateType
from jobledger.store import jobs
from jobledger.store.errors import InvalidInput, JobNotFound
from jobledger.store.events import JobCreated, JobStateChanged
from tests.histories import append_all, draft, spec_data, state_data

ID = "j-0198c0de-0000-7000-8000-000000000001"


async def flooded(count: int) -> MemoryLog:
    """A log with so many events of another namespace for this id, before the job itself."""
    log = MemoryLog()
    state = state_data(StateType.RUNNING)
    await append_all(log, [draft(JobStateChanged, ID, state, number, "b") for number in range(1, count + 1)])
    return log


@pytest.mark.parametrize("count", [19, 20])
async def test_events_of_other_namespaces_are_read_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """At the bound the job is found; beyond it the error names the id and what to do, and that works."""
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
