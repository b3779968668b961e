"""Everything that can go wrong on the write side, as one tree.

    JobledgerError
    ├── InvalidInput                  the caller's words are wrong; nothing was written
    │   └── InvalidSpec               a job spec breaks rules; carries every problem at once
    ├── JobNotFound                   no such job in the log
    │   └── VersionNotFound           the job exists, that version or tag of it does not
    ├── Refused                       well-formed, but the job's state forbids it; nothing was written
    │   ├── JobExists                 create on a name that is taken
    │   ├── JobQuarantined            the job is frozen: an event of it can't be read
    │   ├── JobNotQuarantined         an event is to be accepted as unreadable, and does not freeze the job
    │   ├── JobTerminal               a state change on a job that has ended
    │   ├── JobNotRerunnable          a rerun of a job that has not begun
    │   └── TooManyTags               one tag more than a job may have
    ├── Conflict                      the job moved on; nothing was written
    │   ├── RevisionMismatch          the expected revision is not the current one
    │   └── Contention                the race was lost a named number of times in a row
    ├── LogError                      the log, not the job
    │   ├── LogUnavailable            it could not be reached; nothing was written
    │   │   └── LogBehind             the answer lacks events that were read before; not proven lost
    │   ├── OutcomeUnknown            sent, never answered, not to be settled: ask again with this event id
    │   ├── LogBusy                   too many appends are waiting; nothing was written
    │   ├── LogRefused                the server refuses the append for good (full, too large, not allowed)
    │   ├── LogUnfit                  the server or the stream cannot keep our promises
    │   ├── LogNotPermitted           the NATS user lacks a right
    │   └── LogBroken                 the log is not the one that was read before, or not whole
    │       ├── LogMissing            a stream that existed does not exist any more
    │       ├── LogReplaced           the stream was deleted and made again
    │       ├── LogTruncated          events that were read before, or were to be read next, are gone
    │       ├── LogGap                events are missing in the middle
    │       ├── LogDamaged            an event that the log must hold can't be read
    │       └── StoreDamaged          files of the embedded server's streams are damaged or missing
    └── EmbeddedServerError           the embedded nats-server could not be found, started or reached
        └── EmbeddedServerInUse       its directory is held by another process

Every message says what is wrong and what to do. Doors translate the tree once (exit code, HTTP status).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from jobledger.store.model.history import HistoryItem


class JobledgerError(Exception):
    """The root: catch this to catch everything that Jobledger raises on purpose."""


class InvalidInput(JobledgerError):
    """An argument is wrong; the message names it, its value and the remedy. Nothing was written."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a spec.

    Attributes:
        path: where, as the user would write it: `Tasks[0].Engine.Type`; empty for the whole document.
        message: what is wrong, including the value.
        remedy: what to do about it.
    """

    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        """`path: message; remedy` on one line."""
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text}; {self.remedy}" if self.remedy else text


class InvalidSpec(InvalidInput):
    """A job spec breaks one rule or several.

    Attributes:
        problems: every problem found, in the order of the document.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class JobNotFound(JobledgerError):
    """The log holds no job of this id, or of this namespace and name."""


class VersionNotFound(JobNotFound):
    """The job exists, and that version of its spec, or that tag, does not."""


class Refused(JobledgerError):
    """The command makes sense, but not for this job as it is now. Nothing was written."""


class JobExists(Refused):
    """`create` on a namespace and name that already have a job.

    Attributes:
        job_id: the id of the job that is there.
    """

    def __init__(self, message: str, *, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(message)


class JobQuarantined(Refused):
    """The job is frozen, because an event of it can't be read: what it is now is not known.

    Attributes:
        job_id: the job.
        namespace: of the job.
        sequence: since which event it is frozen.
        cause: why.
    """

    def __init__(self, message: str, *, job_id: str, namespace: str, sequence: int, cause: str) -> None:
        self.job_id = job_id
        self.namespace = namespace
        self.sequence = sequence
        self.cause = cause
        super().__init__(message)


class JobNotQuarantined(Refused):
    """An event that is to be accepted as unreadable does not freeze the job."""


class JobTerminal(Refused):
    """A state change on a job that is Completed, Failed or Stopped; only a new spec version re-opens it."""


class JobNotRerunnable(Refused):
    """A rerun of a job that is Pending or Queued: it is to be begun anyway."""


class TooManyTags(Refused):
    """The job has as many tags as a job may have; remove one first."""


class Conflict(JobledgerError):
    """The job is not as the caller thought. Nothing was written.

    Attributes:
        job_id: the job.
        revision: its current revision.
        sequence: of its last event; a read that waits for it sees that revision. 0: there is no such job.
        missed: the events that the caller had not seen, oldest first (bounded; the newest are kept).
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        revision: int,
        sequence: int = 0,
        missed: "Sequence[HistoryItem]" = (),
    ) -> None:
        self.job_id = job_id
        self.revision = revision
        self.sequence = sequence
        self.missed = tuple(missed)
        super().__init__(message)


class RevisionMismatch(Conflict):
    """The job's revision is not the expected one."""


class Contention(Conflict):
    """Other writers won a named number of times in a row; try again later."""


class LogError(JobledgerError):
    """Something about the log rather than about a job."""


class LogUnavailable(LogError):
    """The log could not be reached in time. Nothing was written: it is safe to try again."""


class LogBehind(LogUnavailable):
    """The log's answer lacks events that were read before, and that they are lost is not proven.

    Most often a server answers before it has caught up with the others. Asking again is safe: in the end the
    answer has the events, or `LogTruncated` is raised (`store/model/truncation.py`).
    """


class OutcomeUnknown(LogError):
    """The event was sent, and neither an answer nor a later look told whether it was written.

    Attributes:
        event_id: pass it again, as it is, and the second attempt is the first one if that was written.
    """

    def __init__(self, message: str, *, event_id: str) -> None:
        self.event_id = event_id
        super().__init__(message)


class LogBusy(LogError):
    """More appends are waiting than the named limit. Nothing was written: slow down and try again."""


class LogRefused(LogError):
    """The server refuses this append and would refuse it again. Nothing was written."""


class LogUnfit(LogError):
    """The server or its stream lacks something that our promises need; the message names the field."""


class LogNotPermitted(LogError):
    """The NATS user may not send this request; the message names the right. Nothing was written."""


class SubscriptionDeleted(LogError):
    """Somebody deleted a durable subscription, or its consumer on the server, while it was read."""


class LogBroken(LogError):
    """What is read now does not continue what was read before; going on would give a wrong answer."""


class LogMissing(LogBroken):
    """A stream that existed is missing; creating it again would hide the loss.

    Attributes:
        stream: its name.
        evidence: what says that it existed.
    """

    def __init__(self, message: str, *, stream: str, evidence: Sequence[str]) -> None:
        self.stream = stream
        self.evidence = tuple(evidence)
        super().__init__(message)


class _OtherLog(LogBroken):
    """A stream that is not the one that was read, or not all of it.

    Attributes:
        stream: its name; empty if it is the log.
        difference: what differs, without the ways out.
    """

    def __init__(self, message: str, *, stream: str = "", difference: str = "") -> None:
        self.stream = stream
        self.difference = difference or message
        super().__init__(message)


class LogReplaced(_OtherLog):
    """The stream was deleted and made again: its sequences mean other events."""


class LogTruncated(_OtherLog):
    """The stream ends before the place that was read up to, or begins after the place to read on from."""


class LogGap(LogBroken):
    """Events are missing in the middle of the log."""


class LogDamaged(LogBroken):
    """An event that the log must hold can't be read: a stored block is damaged, or missing.

    Attributes:
        sequence: of the event.
        last: of the last of several in a row.
    """

    def __init__(self, message: str, *, sequence: int, last: int = 0) -> None:
        self.sequence = sequence
        self.last = last or sequence
        super().__init__(message)


class StoreDamaged(LogBroken):
    """Files of the embedded server's streams are damaged or missing; they are left as they were found.

    Attributes:
        damage: one line for each file or range of sequences.
    """

    def __init__(self, message: str, *, damage: Sequence[str] = ()) -> None:
        self.damage = tuple(damage)
        super().__init__(message)


class EmbeddedServerError(JobledgerError):
    """The embedded nats-server is missing, does not start, or can't be reached."""


class EmbeddedServerInUse(EmbeddedServerError):
    """The embedded nats-server's directory is held by another process."""
