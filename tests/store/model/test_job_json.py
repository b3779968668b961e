"""A job on the wire: Bacalhau's `Job` object."""

from typing import Any

import msgspec
import pytest

from jobledger.store.model.job import Job, JobStatus, State, StateType

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


def test_every_key_is_present_and_fields_of_the_ledger_win() -> None:
    """As in Bacalhau; other keys of a foreign spec are not passed on."""
    spec = {"Name": "etl", "Type": "batch", "ID": "j-other", "State": "x", "Version": 9, "Odd": 1}
    job = Job(status=STATUS, spec=msgspec.json.encode(spec))
    assert job.to_wire() == {
        "ID": "j-1",
        "Name": "etl",
        "Namespace": "",
        "Type": "batch",
        "Priority": 0,
        "Count": 0,
        "Constraints": [],
        "Meta": {},
        "Labels": {},
        "Tasks": [],
        "State": {"StateType": "Failed", "Message": 'out of "memory"', "Details": {"Code": "137"}},
        "Version": 2,
        "Revision": 5,
        "CreateTime": 1,
        "ModifyTime": 2**62,
    }


@pytest.mark.parametrize("params", [{"big": 2**70}, {"float": 1.0}, {"text": "\u2028"}, {"deep": [[{}]]}])
def test_the_users_values_are_passed_on_as_they_were_written(params: dict[str, Any]) -> None:
    """Byte for byte: no number or string is decoded and encoded again."""
    spec = msgspec.json.encode({"Name": "etl", "Tasks": [{"Engine": {"Params": params}}]})
    assert msgspec.json.encode(params) in Job(status=STATUS, spec=spec).to_json()
