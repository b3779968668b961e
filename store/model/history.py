"""A job's story: its events in order, each with what the job became by it."""

from collections.abc import Iterable, Iterator

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
        sequence: its position in the stream.
        time: the stream's time, Unix nanoseconds.
        type: the event's CloudEvents type; empty if it could not be read.
        event_id: the event's id; empty if it could not be read.
        version: the job's version after it.
        revision: the job's revision after it.
        state: the job's state after it; None while there is no job.
        actor: who; empty if nobody said.
        reason: why; empty if nobody said.
        rerun: whether this event is a rerun.
        tag: the tag that this event set or removed; empty for other events.
        tag_version: the version that it names from then on; 0: it was removed.
        anomaly: why this event makes no sense where it stands, and so changed nothing; empty for all others.
        quarantine: why the job was frozen after it; empty: it was not. Version, revision and state are then
            those that the job has if the events that froze it are accepted as unreadable.
        accepted: the sequence that this event accepts as unreadable; 0 for other events.
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
        """Characters of the reason and the state: what an item adds to a page, about."""
        return len(self.reason) + (self.state.size if self.state is not None else 0)


def tell(
    records: Iterable[Record], status: JobStatus | None = None
) -> Iterator[tuple[HistoryItem, JobStatus | None]]:
    """The story of a job's records, oldest first, each item with the status after it."""
    for record in records:
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
        yield item, status
