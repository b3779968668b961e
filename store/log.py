"""The log as the rest of the store sees it: a port.

`memory_log` and `jetstream` implement it; every adapter passes `tests/support/log_contract.py`.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from jobledger.store.model.errors import LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record

_MARK_CHARACTERS = 12

NO_JOB = 0
"""The expectation that a subject holds nothing yet."""


class PendingEvent(msgspec.Struct, frozen=True, gc=False):
    """A message to append.

    Attributes:
        subject: the job's subject.
        event_id: the event's id; the log knows a repeated append by it.
        payload: the encoded event.
    """

    subject: str
    event_id: str
    payload: bytes


class Appended(msgspec.Struct, frozen=True, gc=False):
    """It is in the log, at this sequence, durably."""

    sequence: int


class WrongSequence(msgspec.Struct, frozen=True, gc=False):
    """It is not in the log: another event of the job came first. A lost race is a value, not an exception.

    Attributes:
        sequence: the last sequence of the job's subject; read up to it before deciding again.
    """

    sequence: int


class LogInfo(msgspec.Struct, frozen=True):
    """The log as a whole.

    Attributes:
        epoch: names this stream; one that is deleted and made again has another.
        first_sequence: of the oldest record kept; 1 unless something was trimmed (last + 1 if nothing is
            kept).
        last_sequence: of the newest record; 0 if there never was one.
    """

    epoch: str
    first_sequence: int
    last_sequence: int


def stream_tag(epoch: str) -> str:
    """The part of a cursor that names the log: 12 hex digits made of its epoch."""
    return hashlib.sha256(epoch.encode()).hexdigest()[:_MARK_CHARACTERS]


def check_continues(info: LogInfo, *, epoch: str | None, after: int) -> None:
    """Make sure that a description of the log continues what was read before.

    `EventLog.continues` also judges whether that description is to be believed: call that.

    Args:
        info: the log as it is now.
        epoch: the epoch of the log that was read before; None: nothing was read before.
        after: the last sequence that was read.

    Raises:
        LogReplaced: if it is another log.
        LogTruncated: if the log has lost events on either side of that place.
    """
    rebuild = "a view of it must be rebuilt: delete the view's file and start again"
    if epoch is not None and info.epoch != epoch:
        raise LogReplaced(
            f"the stream was deleted and made again (it was {epoch} and is {info.epoch}): its sequences now"
            f" mean other events; {rebuild}, or restore the stream from a backup"
        )
    if info.last_sequence < after:
        raise LogTruncated(
            f"the stream ends at {info.last_sequence}, and {after} was read before: its end was lost;"
            f" {rebuild}, or restore the stream from a backup"
        )
    if info.first_sequence > after + 1:
        raise LogTruncated(
            f"the stream begins at {info.first_sequence}, and the next event to read is {after + 1}: its"
            " beginning was removed; restore the stream from a backup"
        )


def other_record(sequence: int) -> LogTruncated:
    """The error for a log that holds another record than the one that was read at a sequence before."""
    return LogTruncated(
        f"the record at {sequence} is not the one that was read before: the stream lost its end and grew"
        " again (restored from a backup, say); a view of it must be rebuilt: delete the view's file"
        " and start again"
    )


def refused(reason: str) -> LogUnavailable:
    """The error for an append that is refused at once, because it could not succeed."""
    return LogUnavailable(f"the log does not accept appends: {reason}; nothing was written; try again later")


class LogReader(Protocol):
    """A reader of the whole log in order, from one place on, for ever."""

    async def take(self, max_records: int) -> Sequence[Record]:
        """The next records, at least one and at most this many: what has arrived, or waits for the next.

        Sequences only rise. One that is missing is not in the log any more: that is damage.

        Raises:
            LogUnavailable: if the log could not be reached for a named number of tries; asking again is safe.
            LogDamaged: if the log's last events can't be read. Asking again waits for what comes after them.
            LogBroken: if the log is no longer the one that was read before, or not whole.
        """
        ...

    @property
    def connected(self) -> bool:
        """Whether the log can be heard right now; False while a lost connection is being ridden out."""
        ...

    def restart(self, reason: str) -> None:
        """Ask the log again for what comes next, as after a lost connection; nothing is lost or repeated."""
        ...

    async def close(self) -> None:
        """Stop reading and free what the log keeps for this feed."""
        ...


class EventLog(Protocol):
    """An append-only, totally ordered log with one concurrency boundary per subject."""

    async def append(self, draft: PendingEvent, *, expect: int) -> Appended | WrongSequence:
        """Append if the subject's last sequence is `expect` (`NO_JOB`: if it has none).

        The same draft with the same expectation again gives the first answer: a lost acknowledgement is
        settled, not guessed. There is no "whatever is there" expectation, because an append without one can't
        be settled. Cancelling one caller harms no other; whether the cancelled event is written is open.

        Raises:
            LogUnavailable: it could not be sent, or the log does not accept appends; nothing was written.
            OutcomeUnknown: it was sent, and no answer or later look told what became of it.
            LogBusy: too many appends are waiting; nothing was written.
            LogRefused: the log will never take it (too large, full, not allowed); nothing was written.
        """
        ...

    @property
    def refusal(self) -> str:
        """Why an append would be refused at once, because it could not succeed; empty if it would be sent."""
        ...

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """A page of a subject's records after a sequence, oldest first; empty if there are none.

        Of a filter with wildcards it is a page of all subjects that match, in the order of the stream.

        May be answered by a replica that lags, so it may stop early: `read_last` says where the end is.
        """
        ...

    async def read_last(self, subject: str) -> Record | None:
        """The last record of a subject, or of a filter with `*`, as the leader has it: never stale."""
        ...

    async def read_at(self, sequence: int) -> Record | None:
        """The record at a sequence as the leader has it; None if there is none."""
        ...

    async def read_next(self, subject: str, *, after: int) -> Record | None:
        """The first record after a sequence that a filter of subjects lets through, as the leader has it.

        A record that the leader can't read is passed over. None: there is none.
        """
        ...

    async def confirm_current(self) -> None:
        """Make sure that what was just read was not read from a leader that others have replaced meanwhile.

        Call it after a read and before an answer that nothing else guards: an append is guarded by its
        expectation, a refusal is not.

        Raises:
            LogUnavailable: if the leader is not in contact with a majority of the replicas.
        """
        ...

    async def sequence_at(self, time: int) -> int:
        """The sequence of the last record that the log took at or before a time, Unix nanoseconds; 0: none.

        The answer is the leader's, and ends before the first record that is later: all up to it is what the
        log held then.
        """
        ...

    @property
    def session(self) -> int:
        """Rises whenever the log was out of reach: what was remembered before may be of another log now."""
        ...

    async def info(self) -> LogInfo:
        """The log's epoch and bounds, as the leader has them."""
        ...

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        """Make sure that this log continues what was read before, and return its bounds.

        Args:
            epoch: of the log that was read; None: any.
            after: the last sequence that was read.
            same: whether a record is the one that was read at that sequence; None: do not look at it. A
                record that is missing in the middle of the log is damage, and is not judged here.

        Raises:
            LogBehind: if events are missing and it is not proven that they are lost. Ask again: within about
                TRUNCATION_PROOF_SECONDS of a log with a leader they are there, or the next error is raised.
            LogReplaced: if it is another log.
            LogTruncated: if events that were read before, or the next one, are lost for certain.
            LogUnavailable: if the log does not answer.
        """
        ...

    async def follow(self, *, after: int, epoch: str | None = None) -> LogReader:
        """Read everything after a sequence, and go on as more arrives.

        Raises:
            LogBehind: if that place is not in this log yet (see `continues`).
            LogBroken: if that place is not in this log for certain.
        """
        ...

    async def close(self) -> None:
        """Let go: appends under way are answered first, within a bound."""
        ...
