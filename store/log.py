"""The port of the log. Its adapters are `memory_log` and `jetstream`.

Every adapter passes the conformance suite `tests/support/log_contract.py`.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from jobledger.store.model.errors import LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record

_TAG_CHARACTERS = 12

NO_JOB = 0
"""The expected last sequence of a subject without records."""


class PendingEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to append.

    Attributes:
        subject: of the job.
        event_id: by which the log recognizes a repeated append.
        payload: the encoded event.
    """

    subject: str
    event_id: str
    payload: bytes


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The event is in the log, durably, with this sequence."""

    sequence: int


class WrongSequence(msgspec.Struct, frozen=True, gc=False):
    """The event is not in the log, because another event of the job came first: the race is lost.

    Attributes:
        sequence: the last sequence of the job's subject; read up to it before deciding again.
    """

    sequence: int


class LogInfo(msgspec.Struct, frozen=True):
    """The epoch and the bounds of the log.

    Attributes:
        epoch: identifies the stream; one that is deleted and created again has another epoch.
        first_sequence: of the oldest record; last + 1 if there is none.
        last_sequence: of the newest record; 0 if there never was one.
    """

    epoch: str
    first_sequence: int
    last_sequence: int


def stream_tag(epoch: str) -> str:
    """Return the part of a cursor that identifies the log: 12 hex digits of the hash of its epoch."""
    return hashlib.sha256(epoch.encode()).hexdigest()[:_TAG_CHARACTERS]


def check_continues(info: LogInfo, *, epoch: str | None, after: int) -> None:
    """Check that the bounds of the log continue what was read before.

    Use `EventLog.continues`, which also decides whether the bounds can be trusted.

    Args:
        info: the current log.
        epoch: of the log that was read before; None: any.
        after: the last sequence that was read.

    Raises:
        LogReplaced: if it is another log.
        LogTruncated: if events before or after that sequence are lost.
    """
    rebuild = "a view of it must be rebuilt: delete the view's file and start again"
    if epoch is not None and info.epoch != epoch:
        raise LogReplaced(
            f"the stream was deleted and created again (epoch {epoch} before, {info.epoch} now): its"
            f" sequences identify other events; {rebuild}, or restore the stream from a backup"
        )
    if info.last_sequence < after:
        raise LogTruncated(
            f"the stream ends at {info.last_sequence}, and {after} was read before: its end was lost;"
            f" {rebuild}, or restore the stream from a backup"
        )
    if info.first_sequence > after + 1:
        raise LogTruncated(
            f"the stream starts at {info.first_sequence}, and the next event to read is {after + 1}: its"
            " start was removed; restore the stream from a backup"
        )


def other_record(sequence: int) -> LogTruncated:
    """Return the error for a log that has another record at a sequence than the one that was read before."""
    return LogTruncated(
        f"the record at {sequence} is not the one that was read before: the stream lost its end and grew"
        " again, for example after a restore from a backup; a view of it must be rebuilt: delete the view's"
        " file and start again"
    )


def refused(reason: str) -> LogUnavailable:
    """Return the error for an append that is refused because it can't succeed."""
    return LogUnavailable(f"the log does not accept appends: {reason}; nothing was written; try again later")


class LogReader(Protocol):
    """Reads the whole log in order, from one sequence on, without end."""

    async def take(self, max_records: int) -> Sequence[Record]:
        """Wait for the next records; return at least one and at most this many.

        Sequences only increase. A missing one is not in the log any more: that is damage.

        Raises:
            LogUnavailable: if the log was unreachable for a fixed number of attempts; it is safe to retry.
            LogDamaged: if the last events can't be read. Calling again waits for the events after them.
            LogBroken: if the log is not the one that was read before, or has lost events.
        """
        ...

    @property
    def connected(self) -> bool:
        """Whether the log is reachable now; False while a lost connection is restored."""
        ...

    def restart(self, reason: str) -> None:
        """Request the next records again, as after a lost connection; nothing is lost or repeated."""
        ...

    async def close(self) -> None:
        """Stop reading and free the resources of the log for this feed."""
        ...


class EventLog(Protocol):
    """An append-only, totally ordered log with one concurrency boundary per subject."""

    async def append(self, event: PendingEvent, *, expect: int) -> Appended | WrongSequence:
        """Append if the subject's last sequence is `expect` (`NO_JOB`: if it has no records).

        The same event with the same expectation again returns the first result: a lost acknowledgement is
        reconciled. There is no append without an expectation, because it could not be reconciled. Cancelling
        one caller has no effect on others; whether the cancelled event is written is unknown.

        Raises:
            LogUnavailable: if it could not be sent, or the log does not accept appends; nothing was written.
            OutcomeUnknown: if it was sent, and it is unknown whether it was written.
            LogBusy: if too many appends are waiting; nothing was written.
            LogRefused: if the log will never take it (too large, full, forbidden); nothing was written.
        """
        ...

    @property
    def refusal(self) -> str:
        """Why the log does not accept appends now; empty if it does."""
        ...

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """Return a page of a subject's records after a sequence, oldest first; empty if there are none.

        For a filter with wildcards, the page has the records of all matching subjects in stream order.

        A replica that lags can answer, so the page can end early: `read_last` returns the end.
        """
        ...

    async def read_last(self, subject: str) -> Record | None:
        """Return the last record of a subject, or of a filter with `*`, from the leader: never stale."""
        ...

    async def read_at(self, sequence: int) -> Record | None:
        """Return the record at a sequence from the leader; None if it does not exist."""
        ...

    async def read_next(self, subject: str, *, after: int) -> Record | None:
        """Return the first record after a sequence that matches a filter of subjects, from the leader.

        A record that the leader can't read is skipped. None if there is no such record.
        """
        ...

    async def confirm_current(self) -> None:
        """Check that the last read was not answered by a leader that has been replaced since.

        Call it after a read and before a result that nothing else guards: an append is guarded by its
        expectation, a refusal is not.

        Raises:
            LogUnavailable: if the leader is not in contact with a majority of the replicas.
        """
        ...

    async def sequence_at(self, time: int) -> int:
        """Return the sequence before the first record with a later stream time, from the leader; 0 if none.

        Args:
            time: Unix nanoseconds. The records up to the result are what the log had at that time.
        """
        ...

    @property
    def session(self) -> int:
        """Increases each time the log was unreachable: caches from before can be of another log."""
        ...

    async def info(self) -> LogInfo:
        """Return epoch and bounds of the log, from the leader."""
        ...

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        """Check that this log continues what was read before, and return its bounds.

        Args:
            epoch: of the log that was read; None: any.
            after: the last sequence that was read.
            same: whether a record is the one that was read at that sequence; None: do not check. A missing
                record in the middle of the log is damage, and not checked here.

        Raises:
            LogBehind: if events are missing and it is not proven that they are lost. Call again: within about
                TRUNCATION_PROOF_SECONDS of a log with a leader they are there, or LogTruncated is raised.
            LogReplaced: if it is another log.
            LogTruncated: if it is proven that events that were read before, or the next one, are lost.
            LogUnavailable: if the log does not answer.
        """
        ...

    async def follow(self, *, after: int, epoch: str | None = None) -> LogReader:
        """Read the records after a sequence, and new ones as they are appended.

        Raises:
            LogBehind: if this log does not have that sequence yet (see `continues`).
            LogBroken: if it is proven that this log does not have it.
        """
        ...

    async def close(self) -> None:
        """Release the log after the pending appends, within a time limit."""
        ...
