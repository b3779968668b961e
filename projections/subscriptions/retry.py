"""A job that was set aside because an event of it failed: its record, and when it is tried again. Pure."""

import enum
from typing import Final

import msgspec

from jobledger.projections.limits import (
    RETRY_FIRST_SECONDS,
    RETRY_LAST_SECONDS,
    SET_ASIDE_ERROR_CHARACTERS,
)

_SECOND: Final = 1_000_000_000


class ParkedState(enum.StrEnum):
    """What becomes of a job that was set aside."""

    RETRYING = "retrying"  # is tried again at `next_try`; its later events wait
    PARKED = "parked"  # waits for an operator: retry or skip


class ParkedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was set aside in one subscription.

    Attributes:
        subscription: its name.
        job_id: the job.
        subject: where its events are.
        state: whether it is tried again by itself.
        sequence: of the event that failed.
        type: its CloudEvents type.
        after: the job's events up to here are done; the next one to be handled has a higher sequence.
        attempts: how often that event failed.
        next_try: when it is tried again, Unix nanoseconds; 0: at once.
        error: what the handler said last.
        since: when it failed first, Unix nanoseconds.
        epoch: of the stream.
    """

    subscription: str
    job_id: str
    subject: str
    state: ParkedState
    sequence: int
    type: str = ""
    after: int
    attempts: int = 0
    next_try: int = 0
    error: str = ""
    since: int = 0
    epoch: str = ""

    def encode(self) -> bytes:
        """As it is kept."""
        return _encoder.encode(self)

    def is_due(self, now: int) -> bool:
        """Whether it is to be tried now (Unix nanoseconds)."""
        return self.state is ParkedState.RETRYING and self.next_try <= now


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ParkedJob)


def decode_parked(value: bytes) -> ParkedJob | None:
    """What `ParkedJob.encode` wrote; None if it did not."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def retry_wait_seconds(attempts: int) -> float:
    """How long to wait after so many failures in a row."""
    return min(RETRY_FIRST_SECONDS * 2.0 ** min(attempts - 1, 60), RETRY_LAST_SECONDS)


def failed_again(parked: ParkedJob, error: BaseException, *, retries: int, now: int) -> ParkedJob:
    """The record after one more failure of its event.

    Args:
        parked: before.
        error: what the handler raised.
        retries: after so many retries it is parked.
        now: Unix nanoseconds.
    """
    attempts = parked.attempts + 1
    is_parked = attempts > retries
    return msgspec.structs.replace(
        parked,
        state=ParkedState.PARKED if is_parked else ParkedState.RETRYING,
        attempts=attempts,
        next_try=0 if is_parked else now + int(retry_wait_seconds(attempts) * _SECOND),
        error=_said(error),
    )


def retry_now(parked: ParkedJob) -> ParkedJob:
    """The record, as an operator writes it to have the event tried again at once, with all its retries."""
    return msgspec.structs.replace(parked, state=ParkedState.RETRYING, attempts=0, next_try=0)


def skipped(parked: ParkedJob) -> ParkedJob:
    """The record, as an operator writes it to leave the event out and have the job's later ones handled."""
    return msgspec.structs.replace(retry_now(parked), after=max(parked.after, parked.sequence))


def _said(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    return text if len(text) <= SET_ASIDE_ERROR_CHARACTERS else f"{text[: SET_ASIDE_ERROR_CHARACTERS - 1]}…"
