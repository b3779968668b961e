"""The errors of the write side, as one tree.

    JobledgerError
    ├── InvalidInput                  an argument is wrong; nothing was written
    │   └── InvalidSpec               a job spec breaks rules; carries every problem
    ├── JobNotFound                   the log has no such job
    │   └── VersionNotFound           the job exists, but not that version or tag
    ├── Refused                       well-formed, but the state of the job forbids it; nothing was written
    │   ├── JobExists                 create on a name that is taken
    │   ├── JobQuarantined            the job is frozen: an event of it can't be read
    │   ├── JobNotQuarantined         the event to accept as unreadable does not freeze the job
    │   ├── JobTerminal               a state change on a finished job
    │   ├── JobNotRerunnable          a rerun of a job that has not started
    │   └── TooManyTags               the job has the maximum number of tags
    ├── Conflict                      the job has changed; nothing was written
    │   ├── RevisionMismatch          the expected revision is not the current one
    │   └── Contention                the race was lost a fixed number of times in a row
    ├── LogError                      the problem is the log, not the job
    │   ├── LogUnavailable            it could not be reached; nothing was written
    │   │   └── LogBehind             its answer lacks events that were read before; not proven lost
    │   ├── OutcomeUnknown            sent, and never answered: repeat it with this event id
    │   ├── LogBusy                   too many appends are waiting; nothing was written
    │   ├── LogRefused                the server will never take this append (too large, full, forbidden)
    │   ├── LogUnfit                  the server or the stream cannot keep our promises
    │   ├── LogNotPermitted           the NATS user lacks a right
    │   ├── SubscriptionDeleted       a durable subscription was deleted while it was read
    │   └── LogBroken                 the log is not the one that was read before, or has lost events
    │       ├── LogMissing            a stream that existed does not exist any more
    │       ├── LogReplaced           the stream was deleted and created again
    │       ├── LogTruncated          events at the start or the end are gone
    │       ├── LogGap                events in the middle are gone
    │       ├── LogDamaged            an event can't be read
    │       └── StoreDamaged          files of the embedded server are damaged or missing
    └── EmbeddedServerError           the embedded nats-server could not be found, started or reached
        └── EmbeddedServerInUse       another process uses its directory

Every message names what is wrong and what to do. `service/errors.py` maps the tree to exit codes and HTTP
statuses.
"""

from collections.abc import Sequence

import msgspec

from jobledger.store.model.history import HistoryItem


class JobledgerError(Exception):
    """The base class of every error that Jobledger raises on purpose."""


class InvalidInput(JobledgerError):
    """An argument is wrong; the message names it, its value and the remedy. Nothing was written."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One problem of a spec.

    Attributes:
        path: of the field, as the user writes it: `Tasks[0].Engine.Type`; empty for the whole document.
        message: what is wrong, with the value.
        remedy: what to do about it.
    """

    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return `path: message; remedy`."""
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text}; {self.remedy}" if self.remedy else text


class InvalidSpec(InvalidInput):
    """A job spec breaks rules.

    Attributes:
        problems: all of them, in the order of the document.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class JobNotFound(JobledgerError):
    """The log has no job with this id, or with this namespace and name."""


class VersionNotFound(JobNotFound):
    """The job exists, but not that version of its spec, or that tag."""


class Refused(JobledgerError):
    """The command is well-formed, but the current state of the job forbids it. Nothing was written."""


class JobExists(Refused):
    """`create` on a namespace and name that a job already has.

    Attributes:
        job_id: the id of the existing job.
    """

    def __init__(self, message: str, *, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(message)


class JobQuarantined(Refused):
    """The job is frozen: an event of it can't be read, so its current state is unknown.

    Attributes:
        sequence: the first event that can't be read.
        cause: why.
    """

    def __init__(self, message: str, *, job_id: str, namespace: str, sequence: int, cause: str) -> None:
        self.job_id = job_id
        self.namespace = namespace
        self.sequence = sequence
        self.cause = cause
        super().__init__(message)


class JobNotQuarantined(Refused):
    """The event to accept as unreadable does not freeze the job."""


class JobTerminal(Refused):
    """A state change on a job that is Completed, Failed or Stopped; only a new version reopens it."""


class JobNotRerunnable(Refused):
    """A rerun of a job that is Pending or Queued, and so will start anyway."""


class TooManyTags(Refused):
    """The job has the maximum number of tags."""


class Conflict(JobledgerError):
    """The job has changed since the caller read it. Nothing was written.

    Attributes:
        revision: the current revision of the job.
        sequence: of the job's last event; a read that waits for it sees that revision. 0: the job does not
            exist.
        missed: the events that the caller has not seen, oldest first; bounded, the newest are kept.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        revision: int,
        sequence: int = 0,
        missed: Sequence[HistoryItem] = (),
    ) -> None:
        self.job_id = job_id
        self.revision = revision
        self.sequence = sequence
        self.missed = tuple(missed)
        super().__init__(message)


class RevisionMismatch(Conflict):
    """The revision of the job is not the expected one."""


class Contention(Conflict):
    """Other writers won the race a fixed number of times in a row; try again later."""


class LogError(JobledgerError):
    """The problem is the log, not a job."""


class LogUnavailable(LogError):
    """The log could not be reached in time. Nothing was written; it is safe to try again."""


class LogBehind(LogUnavailable):
    """The answer of the log lacks events that were read before; it is not proven that they are lost.

    Usually a server answers before it has caught up with the others. It is safe to ask again: eventually the
    answer has the events, or `LogTruncated` is raised (`store/model/truncation.py`).
    """


class OutcomeUnknown(LogError):
    """The event was sent, and it is unknown whether it was written.

    Attributes:
        event_id: repeat the command with this id; if the first attempt was written, that is its answer.
    """

    def __init__(self, message: str, *, event_id: str) -> None:
        self.event_id = event_id
        super().__init__(message)


class LogBusy(LogError):
    """Too many appends are waiting. Nothing was written; slow down and try again."""


class LogRefused(LogError):
    """The server will never take this append. Nothing was written."""


class LogUnfit(LogError):
    """The server or the stream lacks a setting that our promises need; the message names the field."""


class LogNotPermitted(LogError):
    """The NATS user may not send this request; the message names the right. Nothing was written."""


class SubscriptionDeleted(LogError):
    """A durable subscription, or its consumer on the server, was deleted while it was read."""


class LogBroken(LogError):
    """The log does not continue what was read before; reading on would give wrong results."""


class LogMissing(LogBroken):
    """A stream that existed is missing; creating it again would hide the loss.

    Attributes:
        stream: its name.
        evidence: what shows that it existed.
    """

    def __init__(self, message: str, *, stream: str, evidence: Sequence[str]) -> None:
        self.stream = stream
        self.evidence = tuple(evidence)
        super().__init__(message)


class _OtherLog(LogBroken):
    """A stream is not the one that was read before, or lacks a part of it.

    Attributes:
        stream: its name; empty for the log.
        difference: what differs, without what to do.
    """

    def __init__(self, message: str, *, stream: str = "", difference: str = "") -> None:
        self.stream = stream
        self.difference = difference or message
        super().__init__(message)


class LogReplaced(_OtherLog):
    """The stream was deleted and created again: its sequences identify other events."""


class LogTruncated(_OtherLog):
    """The stream ends before the last event that was read, or starts after the next event to read."""


class LogGap(LogBroken):
    """Events in the middle of the log are missing."""


class LogDamaged(LogBroken):
    """An event can't be read: a stored block is damaged or missing.

    Attributes:
        sequence: of the event.
        last: of the last event, if several in a row can't be read.
    """

    def __init__(self, message: str, *, sequence: int, last: int = 0) -> None:
        self.sequence = sequence
        self.last = last or sequence
        super().__init__(message)


class StoreDamaged(LogBroken):
    """Files of the embedded server's streams are damaged or missing; they were not changed.

    Attributes:
        damage: one line for each file or range of sequences.
    """

    def __init__(self, message: str, *, damage: Sequence[str] = ()) -> None:
        self.damage = tuple(damage)
        super().__init__(message)


class EmbeddedServerError(JobledgerError):
    """The embedded nats-server is not installed, does not start, or can't be reached."""


class EmbeddedServerInUse(EmbeddedServerError):
    """Another process uses the directory of the embedded nats-server."""
