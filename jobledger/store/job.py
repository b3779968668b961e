"""What a job is at one moment: its state, and the counters that the log derives."""

import enum
from typing import Any

import msgspec


class StateType(enum.StrEnum):
    """Where a job is in its life. `Undefined` exists in Bacalhau's model and is never written."""

    PENDING = "Pending"  # known, not yet looked at; also the state after every new spec version
    QUEUED = "Queued"  # looked at, waits for capacity
    RUNNING = "Running"  # at least one execution is wanted or under way
    COMPLETED = "Completed"  # ended well; final
    FAILED = "Failed"  # ended badly; final, the message says why
    STOPPED = "Stopped"  # ended on request; final, the message says whose reason

    @property
    def is_terminal(self) -> bool:
        """Whether only a new spec version leads out of this state."""
        return self is _COMPLETED or self is _FAILED or self is _STOPPED


# By identity: an Enum's hash is Python code, and the fold asks for every event.
_COMPLETED, _FAILED, _STOPPED = StateType.COMPLETED, StateType.FAILED, StateType.STOPPED


class State(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal", gc=False):
    """A state as it stands on the wire: `{"StateType": …, "Message": …, "Details": {…}}`.

    Attributes:
        state_type: where the job is.
        message: for people; empty if there is nothing to say.
        details: for machines; contents are the caller's.
    """

    state_type: StateType
    message: str = ""
    details: dict[str, str] = {}


PENDING = State(state_type=StateType.PENDING)


class JobStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the fold knows of a job. It has no spec: that is fat, and the sequence that set it is enough.

    Attributes:
        id: the job's id.
        namespace: with `name`, the job's identity; neither ever changes.
        name: the job's name; a job submitted without one has its id here.
        state: as the last event left it.
        version: 1 when created, +1 with each change of the specification.
        revision: 1 when created, +1 with each change of specification or state.
        create_time: Unix nanoseconds, the stream's time of the first event.
        modify_time: Unix nanoseconds, the largest stream time so far: it never goes back.
        created_sequence: the stream sequence of the first event.
        spec_sequence: the stream sequence of the event that set the current spec.
        sequence: the stream sequence of the last event folded.
    """

    id: str
    namespace: str
    name: str
    state: State
    version: int
    revision: int
    create_time: int
    modify_time: int
    created_sequence: int
    spec_sequence: int
    sequence: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its specification: what `Ledger.load` and the view's `get` return.

    Attributes:
        status: identity, state and counters.
        spec: the normalised specification as JSON; `spec.decode_spec` opens it.
    """

    status: JobStatus
    spec: bytes

    def to_wire(self) -> dict[str, Any]:
        """The job as Bacalhau's `Job` object: one flat mapping with PascalCase keys."""
        status = self.status
        wire: dict[str, Any] = {"ID": status.id}
        wire.update(msgspec.json.decode(self.spec))
        wire["ID"] = status.id  # another writer's spec may hold more keys than ours do
        wire["State"] = msgspec.to_builtins(status.state)
        wire["Version"] = status.version
        wire["Revision"] = status.revision
        wire["CreateTime"] = status.create_time
        wire["ModifyTime"] = status.modify_time
        return wire

    def to_json(self) -> bytes:
        """`to_wire` as JSON; without taking the spec apart where that can be seen to be right."""
        spec, status = self.spec, self.status
        if len(spec) <= 2 or any(key in spec for key in _OWN_KEYS):
            return _encoder.encode(self.to_wire())
        head = _encoder.encode(_Head(status.id))
        tail = _encoder.encode(
            _Tail(status.state, status.version, status.revision, status.create_time, status.modify_time)
        )
        return b"%b,%b,%b" % (head[:-1], spec[1:-1], tail[1:])


class _Head(msgspec.Struct, gc=False):
    """What stands before the spec's fields."""

    id: str = msgspec.field(name="ID")


class _Tail(msgspec.Struct, rename="pascal", gc=False):
    """What stands behind the spec's fields."""

    state: State
    version: int
    revision: int
    create_time: int
    modify_time: int


# A spec with one of these inside (deep in Params, or from another writer) goes the long way round.
_OWN_KEYS = (b'"ID"', b'"State"', b'"Version"', b'"Revision"', b'"CreateTime"', b'"ModifyTime"')
_encoder = msgspec.json.Encoder()
