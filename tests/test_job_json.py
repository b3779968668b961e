"""A job's JSON is the same whichever way it is made."""

from typing import Any

import msgspec
import pytest

from jobledger.store.job import Job, JobStatus, State, StateType

STATUS = JobStatus(
    id="j-1",
    namespace="default",
    name="etl",
    state=State(StateType.FAILED, 'out of "memory"', {"Code": "137"}),
    version=2,
    revision=5,
    create_time=1,
    modify_time=2**62,
    created_sequence=1,
    spec_sequence=2,
    sequence=3,
)


@pytest.mark.parametrize(
    "spec",
    [
        {"Name": "etl", "Type": "batch"},
        {},
        {"Name": "etl", "Tasks": [{"Engine": {"Params": {"ID": 1, "Version": 2}}}]},
        {"ID": "j-other", "State": "x", "Version": 9},
    ],
    ids=["plain", "empty", "own keys deep inside", "another writer's"],
)
def test_the_quick_way_and_the_long_way_give_the_same_job(spec: dict[str, Any]) -> None:
    """Also where a spec holds keys that are ours to say: ours win, and no key is there twice."""
    job = Job(status=STATUS, spec=msgspec.json.encode(spec))
    assert msgspec.json.decode(job.to_json()) == job.to_wire()
    assert job.to_json().count(b'"ID":"j-') == 1
