"""Statuses of jobs, for tests that only need some."""

from typing import Any

from jobledger.store.model.job import JobStatus, State, StateType


def job_status(**changes: Any) -> JobStatus:
    """The status of a pending job that its only event created, with some fields changed."""
    fields = {
        "id": "j",
        "namespace": "default",
        "name": "etl",
        "state": State(StateType.PENDING),
        "version": 1,
        "revision": 1,
        "create_time": 1,
        "modify_time": 1,
        "created_sequence": 1,
        "spec_sequence": 1,
        "sequence": 1,
    }
    return JobStatus(**{**fields, **changes})
