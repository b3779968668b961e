"""A job's story: its events in order, each with what the job became by it."""

from collections.abc import Iterable, Iterator

import msgspec

from jobledger.store.events import JobTagged, JobUpdated, Record, Recorded, event_type, read_record
from jobledger.store.fold import Anomaly, fold
from jobledger.store.job import JobStatus, State


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


def tell(
    records: Iterable[Record], status: JobStatus | None = None
) -> Iterator[tuple[HistoryItem, JobStatus | None]]:
    """The story of a job's records, oldest first, each item with the status after it."""
    for record in records:
        recorded = read_record(record)
        folded = fold(status, recorded)
        anomaly = folded.reason if isinstance(folded, Anomaly) else ""
        if isinstance(folded, JobStatus):
            status = folded
        event = recorded.event if isinstance(recorded, Recorded) else None
        tagged = event.data if isinstance(event, JobTagged) else None
        item = HistoryItem(
            sequence=record.sequence,
            time=record.time,
            type=event_type(event) if event else "",
            event_id=event.id if event else "",
            version=status.version if status else 0,
            revision=status.revision if status else 0,
            state=status.state if status else None,
            actor=event.actor if event else "",
            reason=event.reason if event else "",
            rerun=event.data.rerun if isinstance(event, JobUpdated) else False,
            tag=tagged.tag if tagged else "",
            tag_version=tagged.version if tagged else 0,
            anomaly=anomaly,
        )
        yield item, status
