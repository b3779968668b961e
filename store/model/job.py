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

    @property
    def size(self) -> int:
        """Characters of message and details: what a state adds to a page, about."""
        return len(self.message) + sum(len(key) + len(value) for key, value in self.details.items())


PENDING = State(state_type=StateType.PENDING)


class Unread(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """An event of a job that its readers can't use.

    Attributes:
        sequence: of the event; of one that is missing from the log, the sequence that a later event names.
        reason: what is wrong with it.
    """

    sequence: int
    reason: str


class Quarantine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a job is frozen, and what it becomes if the events that froze it are accepted as unreadable.

    Attributes:
        unread: the events that froze the job and are not accepted, in the order of their discovery; never
            empty, and at most `QUARANTINE_MAX_EVENTS`.
        overflows: whether there are more of them; the job then stays frozen until an upgrade heals it.
        last: the last sequence of the job's subject that was read.
        beyond: the job as it is without these events; None: there is no job without them.
    """

    unread: tuple[Unread, ...]
    last: int
    overflows: bool = False
    beyond: "JobStatus | None" = None

    @property
    def sequence(self) -> int:
        """Since when the job is frozen: the first event that can't be used."""
        return self.unread[0].sequence

    @property
    def reason(self) -> str:
        """Why the job is frozen."""
        return self.unread[0].reason


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
        tags: names for versions, in the order of the names; a tag changes no counter but the sequence.
        passed: the last record of the job's subject that is an anomaly, if it is after `sequence`; else 0.
        quarantine: why the job is frozen, if it is: all else is as it was before.
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
        """Whether no event that creates the job could be read: nothing but its subject is known."""
        return self.revision == 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its specification: what `Ledger.load` and the view's `get` return.

    Attributes:
        status: identity, state and counters.
        spec: the normalised specification as JSON; `spec.decode_spec` opens it.
        spec_beyond: of a frozen job, the spec that goes with `Quarantine.beyond`; empty: the same.
    """

    status: JobStatus
    spec: bytes
    spec_beyond: bytes = b""

    def to_wire(self) -> dict[str, Any]:
        """The job as Bacalhau's `Job` object: one flat mapping with PascalCase keys."""
        wire: dict[str, Any] = msgspec.json.decode(self.to_json())
        return wire

    def to_json(self) -> bytes:
        """`to_wire` as JSON, without taking the spec's fields apart. Every key is there, as in Bacalhau."""
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
    """The field `Quarantine` of a frozen job, as the API shows it.

    Attributes:
        sequence: since which event the job is frozen.
        reason: why.
        unread: every event that froze it, with its reason.
    """

    sequence: int
    reason: str
    unread: tuple[Unread, ...]


def _quarantine_wire(quarantine: Quarantine) -> QuarantineWire:
    return QuarantineWire(quarantine.sequence, quarantine.reason, quarantine.unread)


_NOTHING, _ZERO = msgspec.Raw(b'""'), msgspec.Raw(b"0")
_LIST, _MAP = msgspec.Raw(b"[]"), msgspec.Raw(b"{}")


class _SpecFields(msgspec.Struct, rename="pascal", gc=False):
    """A spec's fields as they stand in its JSON, with what a missing one means."""

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
    """A job as it stands on the wire."""

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
