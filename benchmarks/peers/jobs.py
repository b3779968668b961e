"""The jobs that every store gets: the same ids, names, labels and specs, encoded as JSON."""

from typing import Final, NamedTuple

import msgspec

from benchmarks.workload import ACTOR, job_key, labels_of, named_spec
from jobledger.store.model.job import StateType
from jobledger.store.spec.spec import encode_spec

TERMINAL: Final = tuple(str(state) for state in StateType if state.is_terminal)


class NewJob(NamedTuple):
    """A job as a peer stores it; peers do not validate the spec, as Jobledger does."""

    job_id: str
    namespace: str
    name: str
    labels: str
    spec: str


def new_job(number: int) -> NewJob:
    """Return a numbered job."""
    key = job_key(number)
    labels = msgspec.json.encode(labels_of(number)).decode()
    return NewJob(key.job_id, key.namespace, key.name, labels, encode_spec(named_spec(number)).decode())


class StateEntry(msgspec.Struct):
    """What a peer records of a change of state, in addition to its time and number."""

    state: str
    message: str = ""
    actor: str = ACTOR


def state_entry(state: StateType) -> str:
    """Return the entry as JSON."""
    return msgspec.json.encode(StateEntry(str(state))).decode()
