"""Jobledger: an event-sourced store for the state of jobs. This page is the catalogue of its public names.

Names are imported when they are first used, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobledger.projections.answers import Checkpoint, JobVersion, Page
    from jobledger.projections.projector import Projector, ProjectorState
    from jobledger.projections.query import ListQuery
    from jobledger.projections.selectors import parse_selector
    from jobledger.projections.view import View
    from jobledger.store.command import Receipt
    from jobledger.store.embedded import EmbeddedServer
    from jobledger.store.errors import JobledgerError
    from jobledger.store.history import HistoryItem
    from jobledger.store.jetstream.adapter import JetStreamLog
    from jobledger.store.jetstream.stream import StreamSettings
    from jobledger.store.job import Job, JobStatus, State, StateType
    from jobledger.store.ledger import Ledger
    from jobledger.store.memory_log import MemoryLog
    from jobledger.store.reading import load_spec
    from jobledger.store.spec import JobSpec, SpecConfig, Task
    from jobledger.store.subjects import named_job_id

__version__ = "0.1.0"

# name → where it lives; `tests/test_public_names.py` pins the list and that each is there.
_HOMES = {
    "Checkpoint": "projections.answers",
    "EmbeddedServer": "store.embedded",
    "HistoryItem": "store.history",
    "JetStreamLog": "store.jetstream.adapter",
    "Job": "store.job",
    "JobSpec": "store.spec",
    "JobStatus": "store.job",
    "JobVersion": "projections.answers",
    "JobledgerError": "store.errors",
    "Ledger": "store.ledger",
    "ListQuery": "projections.query",
    "MemoryLog": "store.memory_log",
    "Page": "projections.answers",
    "Projector": "projections.projector",
    "ProjectorState": "projections.projector",
    "Receipt": "store.command",
    "SpecConfig": "store.spec",
    "State": "store.job",
    "StateType": "store.job",
    "StreamSettings": "store.jetstream.stream",
    "Task": "store.spec",
    "View": "projections.view",
    "load_spec": "store.reading",
    "named_job_id": "store.subjects",
    "parse_selector": "projections.selectors",
}

__all__ = [
    "Checkpoint",
    "EmbeddedServer",
    "HistoryItem",
    "JetStreamLog",
    "Job",
    "JobSpec",
    "JobStatus",
    "JobVersion",
    "JobledgerError",
    "Ledger",
    "ListQuery",
    "MemoryLog",
    "Page",
    "Projector",
    "ProjectorState",
    "Receipt",
    "SpecConfig",
    "State",
    "StateType",
    "StreamSettings",
    "Task",
    "View",
    "load_spec",
    "named_job_id",
    "parse_selector",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'jobledger' has no attribute {name!r}; see jobledger.__all__")
    return getattr(import_module(f"jobledger.{home}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
