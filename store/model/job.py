"""A job at one point of the log: its state, its counters and its spec."""

import enum
from typing import Any

import msgspec


class StateType(enum.StrEnum):
    """The state of a job. `Undefined` exists in Bacalhau's model and is never written."""

    PENDING = "Pending"  # not yet scheduled; also the state after every new spec version
    QUEUED = "Queued"  # scheduled, waiting for capacity
    RUNNING = "Running"  # at least one execution is desired or in progress
    COMPLETED = "Completed"  # succeeded; terminal
    FAILED = "Failed"  # failed; terminal, the message says why
    STOPPED = "Stopped"  # stopped on request; terminal, the message has the reason

    @property
    def is_terminal(self) -> bool:
        """Whether only a new spec version changes this state."""
        return self is _COMPLETED or self is _FAILED or self is _STOPPED

    @property
    def has_started(self) -> bool:
        """Whether a job in this state runs or has run, so that it can be rerun."""
        return self is StateType.RUNNING or self.is_terminal


# Compared by identity: the hash of an Enum is Python code, and the fold checks every event.
_COMPLETED, _FAILED, _STOPPED = StateType.COMPLETED, StateType.FAILED, StateType.STOPPED


class State(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal", gc=False):
    """A state, on the wire `{"StateType": …, "Message": …, "Details": {…}}`.

    Attributes:
        message: for people.
        details: for programs; the contents belong to the caller.
    """

    state_type: StateType
    message: str = ""
    details: dict[str, str] = {}

    @property
    def size(self) -> int:
        """Characters of message and details: about what the state adds to a page."""
        size = len(self.message)
        if self.details:  # rare
            size += sum(len(key) + len(value) for key, value in self.details.items())
        return size


PENDING = State(state_type=StateType.PENDING)


class Unread(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """An event of a job that can't be used.

    Attributes:
        sequence: of the event; if it is missing from the log, the sequence that a later event names.
        reason: what is wrong with it.
    """

    sequence: int
    reason: str


class Quarantine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a job is frozen, and what it becomes if the events that froze it are accepted as unreadable.

    Attributes:
        unread: the events that froze the job and are not accepted, in order of discovery; at least one, at
            most `QUARANTINE_MAX_EVENTS`.
        overflows: there are more of them; the job stays frozen until a release that reads them folds it.
        last: the last sequence of the job's subject that was folded.
        beyond: the job without these events; None if it does not exist without them.
    """

    unread: tuple[Unread, ...]
    last: int
    overflows: bool = False
    beyond: "JobStatus | None" = None

    @property
    def sequence(self) -> int:
        """The first event that can't be used."""
        return self.unread[0].sequence

    @property
    def reason(self) -> str:
        """Why the first of these events can't be used."""
        return self.unread[0].reason


class JobStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job without its spec, which is large: `spec_sequence` identifies the event that has it.

    Attributes:
        namespace: with `name`, the identity of the job; neither ever changes.
        name: the id, for a job submitted without a name.
        version: 1 when created, +1 with each change of the spec.
        revision: 1 when created, +1 with each change of spec or state.
        create_time: stream time of the first event, Unix nanoseconds.
        modify_time: largest stream time so far, Unix nanoseconds: it never decreases.
        created_sequence: stream sequence of the first event.
        spec_sequence: stream sequence of the event that set the current spec.
        sequence: stream sequence of the last event.
        tags: names of versions, in the order of the names; a tag changes no counter but the sequence.
        passed: the last record of the job's subject that is an anomaly, if it is after `sequence`; else 0.
        quarantine: why the job is frozen; the other fields are then those from before.
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
    tags: dict[str, int] = {}
    passed: int = 0
    quarantine: Quarantine | None = None

    @property
    def is_lost(self) -> bool:
        """Whether no event that creates the job can be read: only its subject is known."""
        return self.revision == 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its spec, as returned by `Ledger.load` and by the view.

    Attributes:
        spec: the normalized spec as JSON; see `spec.decode_spec`.
        spec_beyond: for a frozen job, the spec that belongs to `Quarantine.beyond`; empty: the same one.
    """

    status: JobStatus
    spec: bytes
    spec_beyond: bytes = b""

    def to_wire(self) -> dict[str, Any]:
        """Return the job as Bacalhau's `Job` object: one flat mapping with PascalCase keys."""
        wire: dict[str, Any] = msgspec.json.decode(self.to_json())
        return wire

    def to_json(self) -> bytes:
        """Return `to_wire` as JSON, with every key, as in Bacalhau; the fields of the spec are copied."""
        spec, status = _spec_decoder.decode(self.spec), self.status
        return _encoder.encode(
            _Wire(
                status.id,
                spec.name,
                spec.namespace,
                spec.type,
                spec.priority,
                spec.count,
                spec.constraints,
                spec.meta,
                spec.labels,
                spec.tasks,
                status.state,
                status.version,
                status.revision,
                status.create_time,
                status.modify_time,
                _quarantine_wire(status.quarantine) if status.quarantine is not None else msgspec.UNSET,
            )
        )


class QuarantineWire(msgspec.Struct, frozen=True, rename="pascal"):
    """The field `Quarantine` of a frozen job in the API.

    Attributes:
        sequence: the first event that froze the job.
        reason: why.
        unread: all events that froze it.
    """

    sequence: int
    reason: str
    unread: tuple[Unread, ...]


def _quarantine_wire(quarantine: Quarantine) -> QuarantineWire:
    return QuarantineWire(quarantine.sequence, quarantine.reason, quarantine.unread)


_NOTHING, _ZERO = msgspec.Raw(b'""'), msgspec.Raw(b"0")
_LIST, _MAP = msgspec.Raw(b"[]"), msgspec.Raw(b"{}")


class _SpecFields(msgspec.Struct, rename="pascal", gc=False):
    """The fields of a spec as raw JSON, with the defaults of missing ones."""

    name: msgspec.Raw = _NOTHING
    namespace: msgspec.Raw = _NOTHING
    type: msgspec.Raw = _NOTHING
    priority: msgspec.Raw = _ZERO
    count: msgspec.Raw = _ZERO
    constraints: msgspec.Raw = _LIST
    meta: msgspec.Raw = _MAP
    labels: msgspec.Raw = _MAP
    tasks: msgspec.Raw = _LIST


class _Wire(msgspec.Struct, rename="pascal", gc=False):
    """A job on the wire."""

    id: str = msgspec.field(name="ID")
    name: msgspec.Raw
    namespace: msgspec.Raw
    type: msgspec.Raw
    priority: msgspec.Raw
    count: msgspec.Raw
    constraints: msgspec.Raw
    meta: msgspec.Raw
    labels: msgspec.Raw
    tasks: msgspec.Raw
    state: State
    version: int
    revision: int
    create_time: int
    modify_time: int
    quarantine: QuarantineWire | msgspec.UnsetType = msgspec.UNSET


_spec_decoder = msgspec.json.Decoder(_SpecFields)
_encoder = msgspec.json.Encoder()
