"""Responses of the API: the fields that commands use, and `wire`, the response as it was received.

`wire` keeps the fields that this release does not know, so that programs receive all of them. Fields that
earlier releases did not send have defaults here, unlike in `service/wire`.
"""

from typing import Any, TypeVar

import msgspec
from msgspec import field

from jobledger.service.errors import RemoteError
from jobledger.service.wire.versions import Change, JobChanged, TagItem
from jobledger.store.model.job import State


class Response(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The base of all responses; subclasses inherit the struct options."""

    wire: dict[str, Any] = field(default_factory=dict, name="(wire)")  # no response has such a key


ResponseT = TypeVar("ResponseT", bound=Response)


class JobResponse(Response, frozen=True, kw_only=True):
    """A job; times are Unix nanoseconds."""

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


class HistoryItem(Response, frozen=True, kw_only=True):
    """One event of a job, and the job after it.

    Attributes:
        time: RFC 3339.
        version: after the event; `JobVersion` on the wire, as in Bacalhau.
        state: after the event; None if the job did not exist.
        actor: empty if unknown.
        reason: empty if none was given.
        tag: the tag that was set or removed; empty for other events.
        tag_version: the version that the tag now names; 0: it was removed.
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


class WriteResponse(Response, frozen=True, kw_only=True):
    """The result of a write.

    Attributes:
        event_id: empty if nothing changed; `EvaluationID` on the wire, as in Bacalhau.
        sequence: of the event; pass it as `wait_for` to read your own write.
    """

    job_id: str = field(name="JobID")
    event_id: str = field(default="", name="EvaluationID")
    warnings: tuple[str, ...] | None = None
    version: int
    revision: int
    sequence: int


class DiffResponse(Response, frozen=True, kw_only=True):
    """How a spec differs from that of its job.

    Attributes:
        diff: a unified text diff; empty if there is no difference.
        patch: RFC 6902.
        job_id: empty for a new job without a name.
        version: of the current spec; 0 if the job does not exist.
    """

    diff: str
    patch: list[Any] = field(default_factory=list)
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] | None = None
    job_id: str = field(default="", name="JobID")
    version: int = 0


class VersionResponse(Response, frozen=True, kw_only=True):
    """The tags of a version, and the event that created it."""

    version: int
    tags: tuple[str, ...] = ()
    time: str
    actor: str = ""
    reason: str = ""


class TagsResponse(Response, frozen=True, kw_only=True):
    """A job's tags, ordered by name."""

    items: tuple[TagItem, ...]


class VersionsDiffResponse(Response, frozen=True, kw_only=True):
    """How two versions of a spec differ."""

    from_version: int = field(name="From")
    to_version: int = field(name="To")
    changes: tuple[Change, ...]


class BlameItem(Response, frozen=True, kw_only=True):
    """A field of a job (`Tasks[0].Env.HOME`), and the event that set its value."""

    path: str
    value: Any
    actor: str = ""
    reason: str = ""
    time: str
    event_type: str = ""
    version: int
    revision: int


class BlameResponse(Response, frozen=True, kw_only=True):
    """Every field of a job, as it was after one event."""

    version: int
    revision: int
    items: tuple[BlameItem, ...]


class JobPage(Response, frozen=True, kw_only=True):
    """A page of jobs, or of the versions of one; the last page has no `next_token`."""

    items: tuple[JobResponse, ...]
    versions: tuple[VersionResponse, ...] = ()
    next_token: str = ""


class HistoryPage(Response, frozen=True, kw_only=True):
    """A page of history; `next_token` is empty once the job has ended and all events are read."""

    items: tuple[HistoryItem, ...]
    next_token: str = ""


class ChangesPage(Response, frozen=True, kw_only=True):
    """A page of changed jobs; the last page has no `next_token`."""

    items: tuple[JobChanged, ...]
    next_token: str = ""


def read_response(wire: object, kind: type[ResponseT]) -> ResponseT:
    """A response from its plain values.

    Raises:
        RemoteError: the service is another program, or another release.
    """
    try:
        return _with_wire(msgspec.convert(wire, kind), wire)
    except msgspec.ValidationError as error:
        raise RemoteError(
            f"the response is not what this release expects ({error}); is this a Jobledger service of the"
            " same release? `jobledger version` compares client and service"
        ) from None


PageT = TypeVar("PageT", JobPage, HistoryPage, BlameResponse)


def read_items(wire: object, kind: type[PageT]) -> PageT:
    """A response with items, each with its own `wire`; raises what `read_response` raises."""
    page = read_response(wire, kind)
    lists: dict[str, Any] = {"items": tuple(map(_with_wire, page.items, page.wire["Items"]))}
    if isinstance(page, JobPage):
        lists["versions"] = tuple(map(_with_wire, page.versions, page.wire.get("Versions", ())))
    return msgspec.structs.replace(page, **lists)


def _with_wire(response: ResponseT, wire: Any) -> ResponseT:
    return msgspec.structs.replace(response, wire=wire)
