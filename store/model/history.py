"""The history of a job: its events in order, each with the job's state after it."""

import msgspec

from jobledger.store.model.events import (
    JobAccepted,
    JobTagged,
    JobUpdated,
    Record,
    Recorded,
    event_type,
    read_record,
)
from jobledger.store.model.fold import Anomaly, after_anomaly, fold
from jobledger.store.model.job import JobStatus, State


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a job.

    Attributes:
        sequence: its sequence in the stream.
        time: the stream time, Unix nanoseconds.
        type: the CloudEvents type; empty if the event can't be read.
        event_id: empty if the event can't be read.
        version: of the job after the event.
        revision: of the job after the event.
        state: of the job after the event; None while the job does not exist.
        actor: who sent the command; empty if not given.
        reason: why; empty if not given.
        rerun: whether the event is a rerun.
        tag: the tag that the event sets or removes; empty for other events.
        tag_version: the version that the tag names after the event; 0: it was removed.
        anomaly: why the event makes no sense at this position and changed nothing; empty for other events.
        quarantine: why the job is frozen after the event; empty if it is not. Version, revision and state are
            then those that the job has if the events that froze it are accepted as unreadable.
        accepted: the sequence that the event accepts as unreadable; 0 for other events.
    """

    sequence: int
    time: int
    type: str = ""
    event_id: str = ""
    version: int = 0
    revision: int = 0
    state: State | None = None
    actor: str = ""
    reason: str = ""
    rerun: bool = False
    tag: str = ""
    tag_version: int = 0
    anomaly: str = ""
    quarantine: str = ""
    accepted: int = 0

    @property
    def size(self) -> int:
        """Characters of reason and state: about what the item adds to a page."""
        return len(self.reason) + (self.state.size if self.state is not None else 0)


def build_history_item(record: Record, status: JobStatus | None) -> tuple[HistoryItem, JobStatus | None]:
    """Return the history item of a record of a job, and the job's status after it.

    Args:
        record: the next record on the job's subject.
        status: the job's status before it; None at the start of the subject.
    """
    recorded = read_record(record)
    folded = fold(status, recorded)
    if isinstance(folded, Anomaly):
        status, anomaly = after_anomaly(status, recorded), folded.reason
    else:
        status, anomaly = folded, ""
    shown, quarantine = status, status.quarantine if status else None
    if quarantine is not None:
        shown = quarantine.beyond
        anomaly = anomaly or next(
            (each.reason for each in quarantine.unread if each.sequence == record.sequence), ""
        )
    if shown is not None and shown.is_lost:
        shown = None
    event = recorded.event if isinstance(recorded, Recorded) else None
    tagged = event.data if isinstance(event, JobTagged) else None
    item = HistoryItem(
        sequence=record.sequence,
        time=record.time,
        type=event_type(event) if event else "",
        event_id=event.id if event else "",
        version=shown.version if shown else 0,
        revision=shown.revision if shown else 0,
        state=shown.state if shown else None,
        actor=event.actor if event else "",
        reason=event.reason if event else "",
        rerun=event.data.rerun if isinstance(event, JobUpdated) else False,
        tag=tagged.tag if tagged else "",
        tag_version=tagged.version if tagged else 0,
        anomaly=anomaly,
        quarantine=quarantine.reason if quarantine is not None else "",
        accepted=event.data.sequence if isinstance(event, JobAccepted) else 0,
    )
    return item, status
