"""What the service answers, as frozen values: the fields that are shown, and `wire`, the answer as it came.

Fields that this release does not know stay in `wire`, so that machines are told everything.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import field

from jobledger.service.errors import RemoteError
from jobledger.store.model.job import State


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What all answers share; msgspec passes these settings on to subclasses."""

    wire: dict[str, Any] = field(default_factory=dict, name="(wire)")  # no answer has such a key


A = TypeVar("A", bound=Answer)


class JobAnswer(Answer, frozen=True, kw_only=True):
    """A job.

    Attributes:
        create_time: Unix nanoseconds.
        modify_time: Unix nanoseconds.
    """

    id: str = field(name="ID")
    name: str
    namespace: str
    type: str
    state: State
    version: int
    revision: int
    create_time: int
    modify_time: int
    labels: dict[str, str] = field(default_factory=dict)


class HistoryAnswer(Answer, frozen=True, kw_only=True):
    """One event of a job, with what the job became by it.

    Attributes:
        time: RFC 3339.
        event_type: the event's CloudEvents type.
        sequence: its position in the stream.
        cursor: the same, with the stream it is of.
        version: the job's version after it; `JobVersion` on the wire, as Bacalhau has it.
        state: the job's state after it; None if there was no job.
        actor: who; empty if nobody said.
        reason: why; empty if nobody said.
        tag: the tag that was set or removed; empty for other events.
        tag_version: the version that it names since; 0: it was removed.
        quarantine: why the job was in quarantine after it; empty: it was not.
        accepted_sequence: the event that this one accepts as unreadable; 0 for other events.
    """

    time: str
    quarantine: str = ""
    accepted_sequence: int = 0
    event_type: str = ""
    sequence: int = 0
    cursor: str = ""
    version: int = field(default=0, name="JobVersion")
    revision: int = 0
    state: State | None = None
    actor: str = ""
    reason: str = ""
    tag: str = ""
    tag_version: int = 0


class WriteAnswer(Answer, frozen=True, kw_only=True):
    """What a write did.

    Attributes:
        event_id: empty if there was nothing to change; `EvaluationID` on the wire, as Bacalhau has it.
        sequence: where the event is in the stream; pass it as `wait_for` to read one's own write.
    """

    job_id: str = field(name="JobID")
    event_id: str = field(default="", name="EvaluationID")
    warnings: tuple[str, ...] | None = None
    version: int
    revision: int
    sequence: int


class ChangeAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """One place where two specs differ: `added`, `removed`, `changed`, or `moved` from the place `from_`."""

    change: str
    path: str
    before: Any = None
    after: Any = None
    from_: str = field(name="From", default="")


class DiffAnswer(Answer, frozen=True, kw_only=True):
    """How a spec differs from the one that its job has.

    Attributes:
        diff: a unified text diff; empty if there is no difference.
        patch: RFC 6902, for machines.
        changes: place by place, for people.
        job_id: empty for a new job without a name.
        version: of the present spec; 0 if there is no such job.
    """

    diff: str
    patch: list[Any] = field(default_factory=list)
    changes: tuple[ChangeAnswer, ...] = ()
    warnings: tuple[str, ...] | None = None
    job_id: str = field(default="", name="JobID")
    version: int = 0


class VersionAnswer(Answer, frozen=True, kw_only=True):
    """What is known of a version besides the job as it was: its tags, and who made it, when and why.

    Attributes:
        time: RFC 3339.
    """

    version: int
    tags: tuple[str, ...] = ()
    time: str
    actor: str = ""
    reason: str = ""


class TagAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """A tag, and the version that it names."""

    tag: str
    job_version: int


class TagsAnswer(Answer, frozen=True, kw_only=True):
    """A job's tags, in the order of their names."""

    items: tuple[TagAnswer, ...]


class VersionsDiffAnswer(Answer, frozen=True, kw_only=True):
    """How two versions of a spec differ; no changes if they are equal."""

    from_version: int = field(name="From")
    to_version: int = field(name="To")
    changes: tuple[ChangeAnswer, ...]


class BlameItem(Answer, frozen=True, kw_only=True):
    """A field of a job, and the event since which it has its value.

    Attributes:
        path: as `Tasks[0].Env.HOME`.
        time: RFC 3339.
    """

    path: str
    value: Any
    actor: str = ""
    reason: str = ""
    time: str
    event_type: str = ""
    version: int
    revision: int


class BlameAnswer(Answer, frozen=True, kw_only=True):
    """Every field of a job, as it was after one event."""

    version: int
    revision: int
    items: tuple[BlameItem, ...]


class JobPage(Answer, frozen=True, kw_only=True):
    """A page of jobs, or of versions of one, with what is known of these; on the last one no `next_token`."""

    items: tuple[JobAnswer, ...]
    versions: tuple[VersionAnswer, ...] = ()
    next_token: str = ""


class HistoryPage(Answer, frozen=True, kw_only=True):
    """A page of history; `next_token` stays non-empty until the job has ended and all was read."""

    items: tuple[HistoryAnswer, ...]
    next_token: str = ""


def read_answer(wire: object, kind: type[A]) -> A:
    """An answer of this kind from the plain values that came.

    Raises:
        RemoteError: if it is something else: this is not our service, or another release of it.
    """
    try:
        return _with_wire(msgspec.convert(wire, kind), wire)
    except msgspec.ValidationError as error:
        raise RemoteError(
            f"the service's answer is not what this release expects of it ({error}); is this a Jobledger"
            " service, and of the same release? `jobledger version` compares"
        ) from None


def read_job(wire: object) -> JobAnswer:
    """The job of `{"Job": {…}}`.

    Raises:
        RemoteError: if it is something else.
    """
    return read_answer(wire.get("Job") if isinstance(wire, Mapping) else None, JobAnswer)


def read_jobs(wire: object) -> JobPage:
    """A page of jobs, each with its own `wire`.

    Raises:
        RemoteError: if it is something else.
    """
    page = read_answer(wire, JobPage)
    return msgspec.structs.replace(
        page,
        items=tuple(map(_with_wire, page.items, page.wire["Items"])),
        versions=tuple(map(_with_wire, page.versions, page.wire.get("Versions", ()))),
    )


def read_history(wire: object) -> HistoryPage:
    """A page of history, each item with its own `wire`.

    Raises:
        RemoteError: if it is something else.
    """
    page = read_answer(wire, HistoryPage)
    return msgspec.structs.replace(page, items=tuple(map(_with_wire, page.items, page.wire["Items"])))


def read_blame(wire: object) -> BlameAnswer:
    """A job's fields, each with its own `wire`.

    Raises:
        RemoteError: if it is something else.
    """
    blame = read_answer(wire, BlameAnswer)
    return msgspec.structs.replace(blame, items=tuple(map(_with_wire, blame.items, blame.wire["Items"])))


def _with_wire(answer: A, wire: Any) -> A:
    return msgspec.structs.replace(answer, wire=wire)
