"""What comes with every command, what comes back, and the check of both ends' small print."""

import re
from typing import TypedDict

import msgspec

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
from jobledger.store.model.subjects import UUID7

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class CommandMetadata(TypedDict, total=False):
    """Who commands, why, and on what condition; the keywords that every command takes.

    Attributes:
        actor: who, for the record: an authenticated principal or a service's name.
        reason: why, for the record.
        expected_revision: the revision that the caller decided on; another one is a conflict. 0: the job must
            not exist.
        event_id: a UUIDv7 that names this very command: once its event is in the log, the same id again
            returns the first answer. Made if missing.
        traceparent: W3C trace context, for the record.
    """

    actor: str
    reason: str
    expected_revision: int | None
    event_id: str | None
    traceparent: str


_ABOUT = frozenset(CommandMetadata.__annotations__)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a command did.

    The stream's time is not in it: the acknowledgement does not carry one; read the job back.

    Attributes:
        job_id: the job.
        namespace: the job's namespace.
        event_id: the event that was appended; of a no-op, the id that was not used.
        sequence: where it stands in the stream; of a no-op, the job's last event.
        revision: the job's revision after it.
        version: the job's version after it.
        changed: False for a no-op: the job was already as wanted, and nothing was appended.
    """

    job_id: str
    namespace: str
    event_id: str
    sequence: int
    revision: int
    version: int
    changed: bool


def receipt_of(status: JobStatus, event_id: str, *, changed: bool, sequence: int = 0) -> Receipt:
    """The receipt of a command that left the job with this status.

    Args:
        status: of the job.
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


def check_about(about: CommandMetadata) -> None:
    """Check what comes with a command.

    Raises:
        InvalidInput: naming the first field that is wrong, its value and the remedy.
        TypeError: for a keyword that is none of them: `expected_revison=3` must not go unheeded.
    """
    for name in about:
        if name not in _ABOUT:
            raise TypeError(f"{name!r} is not a keyword of a command; they are {', '.join(sorted(_ABOUT))}")
    check_text("actor", about.get("actor", ""), ACTOR_MAX_CHARACTERS)
    check_text("reason", about.get("reason", ""), REASON_MAX_CHARACTERS)
    traceparent: object = about.get("traceparent", "")
    if traceparent != "" and not _matches(_TRACEPARENT, traceparent):
        raise InvalidInput(
            f"traceparent {traceparent!r:.80} is not a W3C trace context;"
            " leave it out or pass it on as received"
        )
    event_id: object = about.get("event_id")
    if event_id is not None and not _matches(UUID7, event_id):
        raise InvalidInput(
            f"event_id {event_id!r:.80} is not a UUIDv7 in lower case; make one, or leave it out"
        )
    revision: object = about.get("expected_revision")
    if revision is not None and (type(revision) is not int or revision < 0):
        raise InvalidInput(
            f"expected_revision {revision!r:.40} is not a number from 0; pass the revision that you read,"
            " or 0 for none"
        )


def check_state(state: object) -> None:
    """Check a state that a caller wants to set.

    Raises:
        InvalidInput: naming the first field that is wrong, its value and the remedy.
    """
    if not isinstance(state, State):
        raise InvalidInput(f"the state is {state!r:.60}, not a State; pass State(StateType.RUNNING), say")
    state_type: object = state.state_type
    if not isinstance(state_type, StateType):
        known = ", ".join(StateType)
        raise InvalidInput(f"StateType {state_type!r:.60} is not a state; use one of {known}")
    check_text("Message", state.message, MESSAGE_MAX_CHARACTERS)
    details: object = state.details
    if not isinstance(details, dict):
        raise InvalidInput(f"Details is {details!r:.60}, not a mapping; pass a dict of texts")
    if len(state.details) > DETAILS_MAX_COUNT:
        raise InvalidInput(
            f"Details has {len(state.details)} entries, and at most {DETAILS_MAX_COUNT} are taken; send fewer"
        )
    for key, value in state.details.items():
        check_text("a key of Details", key, DETAIL_MAX_CHARACTERS)
        check_text(f"Details.{key[:40]}", value, DETAIL_MAX_CHARACTERS)
    size = len(msgspec.json.encode(state))
    if size > STATE_MAX_BYTES:
        raise InvalidInput(
            f"the state has {size} bytes as JSON, and at most {STATE_MAX_BYTES} are taken;"
            " put what is large elsewhere, and a link to it into Details"
        )


def check_tag(tag: object) -> None:
    """Check a name that a caller wants to give to a version.

    Raises:
        InvalidInput: if it can be none, saying what can.
    """
    if not isinstance(tag, str) or not is_tag(tag):
        raise InvalidInput(
            f"{tag!r:.80} can't be a tag; use a letter, then letters, digits, `.`, `_` and `-`, at most"
            f" {TAG_MAX_CHARACTERS} characters in all"
        )


def check_job_id(job_id: str, namespace: str | None) -> None:
    """Check the words that name a job, before a subject is made of them.

    Raises:
        InvalidInput: if they could name no job.
    """
    check_text("job id", job_id, JOB_ID_MAX_CHARACTERS)
    if not job_id:
        raise InvalidInput("the job id is empty; pass the id of a job")
    if namespace is not None:
        check_text("namespace", namespace, NAMESPACE_MAX_BYTES)
        if not namespace or len(namespace.encode()) > NAMESPACE_MAX_BYTES:
            raise InvalidInput(
                f"the namespace {namespace[:40]!r} is empty or over {NAMESPACE_MAX_BYTES} bytes;"
                " no job has it"
            )


def check_text(name: str, value: object, max_characters: int) -> None:
    """Check a text that goes into the log.

    Raises:
        InvalidInput: if it is no text, too long, or can't be written as UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r:.60}, not a text; pass a string")
    if len(value) > max_characters:
        raise InvalidInput(
            f"{name} has {len(value)} characters, and at most {max_characters} are taken; shorten it"
        )
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{name} {value[:40]!r} holds half of a surrogate pair, which is not Unicode text; mend it"
        ) from None


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
