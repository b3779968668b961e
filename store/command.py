"""The arguments of a command, checked, and its result."""

import re
from typing import NamedTuple, TypedDict

import msgspec
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.fold import is_tag
from jobledger.store.model.job import JobStatus, State, StateType
from jobledger.store.model.limits import (
    ACTOR_MAX_CHARACTERS,
    DETAIL_MAX_CHARACTERS,
    DETAILS_MAX_COUNT,
    JOB_ID_MAX_CHARACTERS,
    MESSAGE_MAX_CHARACTERS,
    NAMESPACE_MAX_BYTES,
    REASON_MAX_CHARACTERS,
    STATE_MAX_BYTES,
    TAG_MAX_CHARACTERS,
)
from jobledger.store.model.subjects import (
    DEFAULT_NAMESPACE,
    NAMELESS_JOB_ID,
    UUID7,
    named_job_id,
    nameless_job_id,
)
from jobledger.store.spec.spec import JobSpec
from jobledger.store.spec.validate import encode_valid
from jobledger.store.spec.values import is_utf8

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class CommandMetadata(TypedDict, total=False):
    """The keyword arguments of every command.

    Attributes:
        actor: who sends the command: an authenticated principal, or the name of a service.
        reason: why.
        expected_revision: the revision that the caller read; any other one is a conflict. 0: the job must not
            exist.
        event_id: a UUIDv7 that identifies the command: once its event is in the log, the same command with
            this id returns the first receipt. Generated if missing.
        traceparent: W3C trace context.
    """

    actor: str
    reason: str
    expected_revision: int | None
    event_id: str | None
    traceparent: str


_METADATA = frozenset(CommandMetadata.__annotations__)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a command.

    It has no stream time, because the acknowledgement of an append has none; read the job for it.

    Attributes:
        event_id: of the appended event; for a no-op, the id that was not used.
        sequence: of the event in the stream; for a no-op, of the job's last event.
        revision: of the job after the event.
        version: of the job after the event.
        changed: False for a no-op: nothing was appended.
    """

    job_id: str
    namespace: str
    event_id: str
    sequence: int
    revision: int
    version: int
    changed: bool


def receipt_of(status: JobStatus, event_id: str, *, changed: bool, sequence: int = 0) -> Receipt:
    """Return the receipt of a command.

    Args:
        status: of the job after the command.
        event_id: of the command.
        changed: whether an event was appended.
        sequence: of that event; 0: the last one of the job.
    """
    return Receipt(
        job_id=status.id,
        namespace=status.namespace,
        event_id=event_id,
        sequence=sequence or status.sequence,
        revision=status.revision,
        version=status.version,
        changed=changed,
    )


class Prepared(NamedTuple):
    """A validated spec and the job that it belongs to.

    Attributes:
        name: of the job.
        spec: normalized, as JSON.
    """

    job_id: str
    namespace: str
    name: str
    spec: bytes


def prepare_new(spec: JobSpec, event_id: str) -> Prepared:
    """Validate and normalize the spec of a job that may not exist.

    Args:
        spec: without a name, the job gets an id made from the event id, and that as its name.
        event_id: of the command.

    Raises:
        InvalidSpec: with all problems.
    """
    check_is_spec(spec)
    is_named = bool(spec.name)
    name, namespace = spec.name or nameless_job_id(event_id), spec.namespace or DEFAULT_NAMESPACE
    if not (is_named and spec.namespace):
        spec = replace(spec, name=name, namespace=namespace)
    encoded = encode_valid(spec)
    # After the validation: no id can be computed from a name that is not valid text.
    job_id = named_job_id(namespace, name) if is_named else name
    return Prepared(job_id, namespace, name, encoded)


def prepare_update(spec: JobSpec, status: JobStatus) -> Prepared:
    """Validate and normalize the new spec of an existing job; name and namespace can be left out.

    Raises:
        InvalidInput: if name or namespace would change.
        InvalidSpec: with all problems.
    """
    check_is_spec(spec)
    named = {"name": (spec.name, status.name), "namespace": (spec.namespace, status.namespace)}
    for field, (new, current) in named.items():
        if new and new != current:
            raise InvalidInput(
                f"cannot change job name or namespace during update: {field} is {new!r:.80}, the job has"
                f" {current!r:.80}; leave it out, or create another job"
            )
    encoded = encode_valid(replace(spec, name=status.name, namespace=status.namespace))
    return Prepared(status.id, status.namespace, status.name, encoded)


def is_nameless_job_id(name: object) -> bool:
    """Return whether a name is the id of a job without a name, which such a job has as its name."""
    return isinstance(name, str) and NAMELESS_JOB_ID.fullmatch(name) is not None


def check_is_spec(spec: object) -> None:
    """Check that an argument is a `JobSpec`.

    Raises:
        InvalidInput: if it is not.
    """
    if not isinstance(spec, JobSpec):
        raise InvalidInput(f"spec must be a JobSpec, such as load_spec(text).spec, got {type(spec).__name__}")


def check_metadata(metadata: CommandMetadata) -> None:
    """Check the keyword arguments of a command.

    Raises:
        InvalidInput: for the first invalid value.
        TypeError: for an unknown keyword: `expected_revison=3` must not be ignored.
    """
    if not metadata.keys() <= _METADATA:
        name = next(name for name in metadata if name not in _METADATA)
        raise TypeError(f"unknown keyword {name!r}; commands accept {', '.join(sorted(_METADATA))}")
    check_text("actor", metadata.get("actor", ""), ACTOR_MAX_CHARACTERS)
    check_text("reason", metadata.get("reason", ""), REASON_MAX_CHARACTERS)
    traceparent: object = metadata.get("traceparent", "")
    if traceparent != "" and not _matches(_TRACEPARENT, traceparent):
        raise InvalidInput(
            f"traceparent {traceparent!r:.80} is not a W3C trace context;"
            " leave it out or pass it on as received"
        )
    event_id: object = metadata.get("event_id")
    if event_id is not None and not _matches(UUID7, event_id):
        raise InvalidInput(
            f"event_id {event_id!r:.80} is not a UUIDv7 in lower case; generate one, or leave it out"
        )
    revision: object = metadata.get("expected_revision")
    if revision is not None and (type(revision) is not int or revision < 0):
        raise InvalidInput(
            f"expected_revision must be an integer from 0, got {revision!r:.40}; pass the revision that you"
            " read, or 0 if the job must not exist"
        )


def check_state(state: object) -> None:
    """Check a new state.

    Raises:
        InvalidInput: for the first invalid field.
    """
    if not isinstance(state, State):
        raise InvalidInput(f"state must be a State, such as State(StateType.RUNNING), got {state!r:.60}")
    state_type: object = state.state_type
    if not isinstance(state_type, StateType):
        known = ", ".join(StateType)
        raise InvalidInput(f"StateType {state_type!r:.60} is not a state; use one of {known}")
    check_text("Message", state.message, MESSAGE_MAX_CHARACTERS)
    details: object = state.details
    if not isinstance(details, dict):
        raise InvalidInput(f"Details must be a mapping of strings, got {details!r:.60}; pass a dict")
    if len(state.details) > DETAILS_MAX_COUNT:
        raise InvalidInput(
            f"Details has {len(state.details)} entries, the maximum is {DETAILS_MAX_COUNT}; send fewer"
        )
    for key, value in state.details.items():
        check_text("a key of Details", key, DETAIL_MAX_CHARACTERS)
        check_text(f"Details.{key[:40]}", value, DETAIL_MAX_CHARACTERS)
    size = len(msgspec.json.encode(state))
    if size > STATE_MAX_BYTES:
        raise InvalidInput(
            f"the state has {size} bytes as JSON, the maximum is {STATE_MAX_BYTES}; store large data"
            " elsewhere, and a link to it in Details"
        )


def check_tag(tag: object) -> None:
    """Check the name of a tag.

    Raises:
        InvalidInput: if it is not valid.
    """
    if not isinstance(tag, str) or not is_tag(tag):
        raise InvalidInput(
            f"invalid tag {tag!r:.80}: use a letter, then letters, digits, `.`, `_` and `-`, at most"
            f" {TAG_MAX_CHARACTERS} characters"
        )


def check_job_id(job_id: str, namespace: str | None) -> None:
    """Check the id and the namespace of a job, before a subject is made from them.

    Raises:
        InvalidInput: if no job can have them.
    """
    check_text("job id", job_id, JOB_ID_MAX_CHARACTERS)
    if not job_id:
        raise InvalidInput("the job id is empty; pass the id of a job")
    if namespace is not None:
        check_text("namespace", namespace, NAMESPACE_MAX_BYTES)
        if not namespace or len(namespace.encode()) > NAMESPACE_MAX_BYTES:
            raise InvalidInput(
                f"namespace must have 1..{NAMESPACE_MAX_BYTES} bytes, got {namespace[:40]!r};"
                " pass the namespace of a job"
            )


def check_text(name: str, value: object, max_characters: int) -> None:
    """Check a text that is stored in the log.

    Raises:
        InvalidInput: if it is not a string, is too long, or can't be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a string, got {value!r:.60}")
    if len(value) > max_characters:
        raise InvalidInput(f"{name} has {len(value)} characters, the maximum is {max_characters}; shorten it")
    if not is_utf8(value):
        raise InvalidInput(
            f"{name} {value[:40]!r} contains half of a surrogate pair, which is not Unicode text; correct it"
        )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
